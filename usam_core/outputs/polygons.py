"""Polygons, a text file an image: LabelMe and YOLO."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from usam_core.files.paths import way_to
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.masks.rle import fill, join
from usam_core.outputs.base import UNKNOWN_LABEL, Labels, Writer, painted, relative, write_text

_READ = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Endings of images that YOLO's loaders take."""
_IMAGES = re.compile(r"(?<![^/])(images_*)(?=/)", re.IGNORECASE)


class LabelMeWriter(Writer):
    """A JSON an image, a polygon for each part of a mask; an object's parts share a group.

    LabelMe opens the folder; each file names the image that it belongs to.
    """

    name = "labelme"

    def target(self, image: LabelledImage) -> Path:
        return self.to.folder / f"{image.name}.json"

    def write(self, image: LabelledImage, path: Path) -> None:
        h, w = image.size_hw
        objects = zip(image.instances, image.polygons(self.to.tolerance), strict=True)
        shapes = [
            {
                "label": self.to.label_map.names[instance.class_index],
                "points": ring.astype(float).tolist(),
                "group_id": number,
                "description": f"score {instance.score:.3f}",
                "shape_type": "polygon",
                "flags": {},
            }
            for number, (instance, rings) in enumerate(objects, start=1)
            for ring in rings
        ]
        if image.ref.plane:
            self.note("labelme: it opens the first plane of a stack, whichever was labelled")
        document: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": relative(image.file, self.target(image).parent),
            "imageData": None,
            "imageHeight": h,
            "imageWidth": w,
        }
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Fill the polygons; a shape without a group is an object of its own."""
        ids = self.to.label_map.ids()
        objects: dict[tuple[str, object], tuple[int, np.ndarray]] = {}
        for at, shape in enumerate(json.loads(path.read_text(encoding="utf-8"))["shapes"]):
            group = shape.get("group_id")
            key = (shape["label"], f"own {at}" if group is None else group)
            label = ids.get(shape["label"], UNKNOWN_LABEL)
            points = np.array(shape["points"], float).reshape(-1, 2)
            if shape["shape_type"] == "rectangle":
                (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
                points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            mask = fill(points, image.size_hw)
            objects[key] = (label, objects[key][1] | mask if key in objects else mask)
        return painted(list(objects.values()), image.size_hw)


class YoloWriter(Writer):
    """`labels/NAME.txt` beside `images/NAME.ENDING`, a link to the image, and `data.yaml`.

    A line is the class (from 0) and one polygon as fractions of width and height. Holes and further
    parts are tied to it (`masks.rle.join`), so that filling it by pixel centers gives the mask.

    Trainers find an image's text by its path, the last `images` in it read as `labels`. So no
    folder below `images` may be called so: it gets a `_`, as does one whose name already ends so.
    """

    name = "yolo"

    def target(self, image: LabelledImage) -> Path:
        return self.to.folder / "labels" / f"{_yolo_name(image)}.txt"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write a line for each object; an image without objects has an empty file."""
        h, w = image.size_hw
        lines = []
        for instance, parts in zip(image.instances, image.polygons(self.to.tolerance), strict=True):
            if parts:
                polygon = join(parts) / [w, h]
                numbers = " ".join(f"{number:.9g}" for number in polygon.ravel().tolist())
                lines.append(f"{instance.class_index} {numbers}\n")
        path.write_text("".join(lines), encoding="ascii")

    def read(self, image: LabelledImage, path: Path) -> Labels:
        h, w = image.size_hw
        masks = []
        for line in path.read_text(encoding="ascii").splitlines():
            label, *numbers = line.split()
            polygon = np.array(numbers, float).reshape(-1, 2) * [w, h]
            # Corners lie on whole numbers; the rounding of the fractions is taken back.
            near = np.round(polygon)
            exact = np.where(np.abs(polygon - near) < 1e-3, near, polygon)
            masks.append((LabelMap.id_of(int(label)), fill(exact, image.size_hw)))
        return painted(masks, image.size_hw)

    def placed(self, image: LabelledImage) -> None:
        """Link the image, where the ending of `images` leads YOLO's loaders from `labels`."""
        ending = Path(image.ref.file).suffix.lower()
        if image.ref.plane or "://" in image.file or ending not in _READ:
            self.note(
                "yolo: planes of stacks and images that are no plain picture files are not linked; "
                "put a picture of each under yolo/images with the name of its text file"
            )
            self._unlink(_yolo_name(image))
            return
        link = self.to.folder / "images" / f"{_yolo_name(image)}{ending}"
        self._unlink(_yolo_name(image), link)
        link.parent.mkdir(parents=True, exist_ok=True)
        file = way_to(image.file, link.parent)
        if not link.is_symlink() or Path(os.readlink(link)).as_posix() != file:
            try:
                link.unlink(missing_ok=True)
                link.symlink_to(file)
            except OSError as error:
                self.note(
                    f"yolo: no links can be made here ({error.strerror}; on Windows they want its "
                    "Developer Mode); copy your images into yolo/images yourself"
                )

    def removed(self, path: Path) -> None:
        labels = self.to.folder / "labels"
        if path.is_relative_to(labels):
            self._unlink(path.relative_to(labels).as_posix().removesuffix(".txt"))

    def _unlink(self, name: str, kept: Path | None = None) -> None:
        """Remove links of a name but one; a picture that a person has put there stays."""
        for ending in _READ:
            link = self.to.folder / "images" / f"{name}{ending}"
            if link != kept and link.is_symlink():
                link.unlink()

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write `data.yaml`; all images are training and validation, to be divided by the user."""
        names = dict(enumerate(self.to.label_map.names))
        # No `path`: trainers count from this file's own folder then, wherever they are started.
        values = {"train": "images", "val": "images", "names": names}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        return [write_text(self.to.folder / "data.yaml", text)]


def _yolo_name(image: LabelledImage) -> str:
    return _IMAGES.sub(r"\1_", image.name)
