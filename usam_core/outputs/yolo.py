"""YOLO segmentation: a folder with `data.yaml`, images and one text file of polygons an image.

A line is the class (from 0) and one polygon as fractions of width and height. Holes and further
parts are tied to it (see `polygons.py`), so that filling it by pixel centres gives the mask.

Trainers find an image's text by its path, the last `images` in it read as `labels`. So no folder
below `images` may be called so: it has a `_` behind, as has one that is called like that.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from usam_core.files.atomic import whole_file
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.masks.polygons import fill, join
from usam_core.outputs.base import Labels, Writer, painted

_READ = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Endings of images that YOLO's loaders take."""


_IMAGES = re.compile(r"(?<![^/])(images_*)(?=/)", re.IGNORECASE)


class YoloWriter(Writer):
    """`labels/NAME.txt` beside `images/NAME.ENDING`, a link to the image."""

    name = "yolo"

    def target(self, image: LabelledImage) -> Path:
        """Return the text file of an image."""
        return self.to.folder / "labels" / f"{_name(image)}.txt"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write a line for each object; an image without objects has an empty file."""
        h, w = image.size_hw
        lines = []
        for instance, parts in zip(image.instances, image.polygons, strict=True):
            if not parts:
                continue
            polygon = join(parts) / [w, h]
            numbers = " ".join(f"{number:.9g}" for number in polygon.ravel().tolist())
            lines.append(f"{instance.class_index} {numbers}\n")
        path.write_text("".join(lines), encoding="ascii")

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Fill the polygons."""
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
            self._unlink(_name(image))
            return
        link = self.to.folder / "images" / f"{_name(image)}{ending}"
        self._unlink(_name(image), link)
        link.parent.mkdir(parents=True, exist_ok=True)
        file = os.path.relpath(image.file, link.parent)
        if not link.is_symlink() or os.readlink(link) != file:
            link.unlink(missing_ok=True)
            link.symlink_to(file)

    def removed(self, path: Path) -> None:
        """Remove the link to the image, too."""
        labels = self.to.folder / "labels"
        if not path.is_relative_to(labels):
            return
        name = path.relative_to(labels).as_posix()
        self._unlink(name.removesuffix(".txt"))

    def _unlink(self, name: str, kept: Path | None = None) -> None:
        """Remove links of a name but one; a picture that a person has put there stays."""
        for ending in _READ:
            link = self.to.folder / "images" / f"{name}{ending}"
            if link != kept and link.is_symlink():
                link.unlink()

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write `data.yaml`; all images are training and validation, to be divided by the user."""
        path = self.to.folder / "data.yaml"
        names = dict(enumerate(self.to.label_map.names))
        # No `path`: trainers count from this file's own folder then, wherever they are started.
        values = {"train": "images", "val": "images", "names": names}
        with whole_file(path) as temporary:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        return [path]


def _name(image: LabelledImage) -> str:
    return _IMAGES.sub(r"\1_", image.name)
