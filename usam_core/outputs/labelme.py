"""LabelMe: a JSON an image, a polygon for each part of a mask; an object's parts share a group."""

import json
from pathlib import Path

import numpy as np

from usam_core.labels.image import LabelledImage
from usam_core.masks.polygons import fill
from usam_core.outputs.base import (
    UNKNOWN_LABEL,
    Labels,
    Writer,
    painted,
    relative,
)


class LabelMeWriter(Writer):
    """LabelMe opens the folder; each file names the image that it belongs to."""

    name = "labelme"

    def target(self, image: LabelledImage) -> Path:
        """Return the JSON of an image."""
        return self.to.folder / f"{image.name}.json"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write shapes in the order of the objects."""
        h, w = image.size_hw
        objects = zip(image.instances, image.polygons, strict=True)
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
        document = {
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
        shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
        ids = self.to.label_map.ids()
        objects: dict[tuple[str, object], tuple[int, np.ndarray]] = {}
        for at, shape in enumerate(shapes):
            group = shape.get("group_id")
            key = (shape["label"], f"own {at}" if group is None else group)
            label = ids.get(shape["label"], UNKNOWN_LABEL)
            mask = _mask(shape, image.size_hw)
            objects[key] = (label, objects[key][1] | mask if key in objects else mask)
        return painted(list(objects.values()), image.size_hw)


def _mask(shape: dict, size_hw: tuple[int, int]) -> np.ndarray:
    points = np.array(shape["points"], float).reshape(-1, 2)
    if shape["shape_type"] == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return fill(points, size_hw)
