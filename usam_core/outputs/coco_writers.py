"""COCO JSON: run lengths, polygons, and the form that CVAT imports."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from usam_core.files.atomic import whole_file
from usam_core.labels.image import LabelledImage
from usam_core.outputs.base import Writer


class CocoWriter(Writer):
    """`instances.json` with run-length masks: exact, and read by pycocotools."""

    name = "coco"
    file: ClassVar[str] = "instances.json"

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        """The image, and its annotations without ids."""
        numbers = range(len(image.instances))
        yield {**image.to_coco(), "annotations": [self._annotation(image, n) for n in numbers]}

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the file; images and annotations are numbered from 1."""
        path = self.to.folder / self.file
        write_coco(path, self._header(), rows)
        return [path]

    def _header(self) -> dict[str, Any]:
        info = {"description": "usam", "run": self.to.run}
        return {"info": info, "categories": self.to.label_map.categories()}

    def _annotation(self, image: LabelledImage, number: int) -> dict[str, Any]:
        return image.instances[number].to_coco()


class CocoPolygonsWriter(CocoWriter):
    """`instances.json` with a polygon for each part of a mask, along the edges of its pixels."""

    name = "coco_polygons"

    def _annotation(self, image: LabelledImage, number: int) -> dict[str, Any]:
        rings = [ring.ravel().tolist() for ring in image.polygons[number]]
        return {**super()._annotation(image, number), "segmentation": rings}


class CvatWriter(CocoPolygonsWriter):
    """`annotations/instances_default.json`, which CVAT takes as "COCO 1.0", zipped with its folder.

    CVAT reads run lengths only of crowds, and shows numbers of ours only as attributes.
    """

    name = "cvat"
    file = "annotations/instances_default.json"

    def _header(self) -> dict[str, Any]:
        header = super()._header()
        categories = [{**one, "supercategory": ""} for one in header["categories"]]
        return (
            {"licenses": [{"id": 0, "name": "", "url": ""}]} | header | {"categories": categories}
        )

    def _annotation(self, image: LabelledImage, number: int) -> dict[str, Any]:
        full = super()._annotation(image, number)
        ours = {key: full[key] for key in ("score", "probability", "entropy")}
        return {
            **{key: full[key] for key in ("category_id", "area", "bbox", "segmentation")},
            "iscrowd": 0,
            "attributes": {"occluded": False, **ours},
        }


def write_coco(path: Path, header: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Write a COCO JSON of images with their annotations, one image in memory at a time.

    Args:
        path: the file to write.
        header: its first keys, such as the categories.
        rows: mappings with `image` and `annotations`, which get their ids here, from 1.
    """
    number = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
        # The images come behind the annotations, and there may be millions.
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as images,
    ):
        file.write(json.dumps(header, ensure_ascii=False)[:-1])
        file.write(',\n"annotations": [')
        for image_id, row in enumerate(rows, start=1):
            text = json.dumps({"id": image_id, **row["image"]}, ensure_ascii=False)
            images.write((",\n" if image_id > 1 else "") + text)
            for record in row["annotations"]:
                number += 1
                full = {"id": number, "image_id": image_id, **record}
                file.write(("," if number > 1 else "") + "\n" + json.dumps(full))
        file.write('],\n"images": [\n')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("]}\n")
