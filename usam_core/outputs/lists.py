"""One file of all images: COCO JSON, as CVAT imports it too, and a table of all objects."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from usam_core.files.atomic import whole_file
from usam_core.labels.image import LabelledImage
from usam_core.outputs.base import Writer

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("sha256", pa.string()),
        ("object", pa.int64()),
        ("class", pa.string()),
        *((name, pa.float64()) for name in ("score", "probability", "entropy")),
        ("runner_up", pa.string()),
        ("predicted_iou", pa.float64()),
        ("area", pa.int64()),
        *((name, pa.float64()) for name in ("box_x", "box_y", "box_width", "box_height")),
        *((name, pa.float64()) for name in ("point_x", "point_y")),
        ("reviewed", pa.string()),
        ("run", pa.string()),
    ]
)
"""Columns; lengths are in pixels, `object` is the number in label TIFF and OME-Zarr, `reviewed`
what a person decided of the mask ("accepted", "changed", "drawn", "added", or null for nothing),
`run` the key of the annotate step that the table was made from."""

_ROWS_PER_BATCH = 1024
"""Rows that are Python objects at a time: they take many times the memory of columns."""
_BATCHES_PER_GROUP = 16


class CocoWriter(Writer):
    """`instances.json` with run-length masks: exact, and read by pycocotools."""

    name = "coco"
    file: ClassVar[str] = "instances.json"

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
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
        rings = [ring.ravel().tolist() for ring in image.polygons(self.to.tolerance)[number]]
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

    `header` holds its first keys, such as the categories. `rows` are mappings with `image` and
    `annotations`, which get their ids here, from 1.
    """
    number = 0
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


def instance_rows(image: LabelledImage) -> Iterator[dict[str, Any]]:
    """Yield a row for each object of an image, without `run`."""
    names = image.label_map.names
    for number, one in enumerate(image.instances, start=1):
        box = ("box_x", "box_y", "box_width", "box_height")
        yield {
            "image": image.path,
            "sha256": image.sha256,
            "object": number,
            "class": names[one.class_index],
            "score": one.score,
            "probability": one.probability,
            "entropy": one.entropy,
            "runner_up": None if one.runner_up is None else names[one.runner_up],
            "predicted_iou": one.predicted_iou,
            "area": one.area,
            **dict(zip(box, one.bbox, strict=True)),
            **dict(zip(("point_x", "point_y"), one.point or (None, None), strict=True)),
            "reviewed": one.reviewed,
        }


def record_batches(rows: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Yield rows as columns, some in memory at a time."""
    while some := list(islice(rows, _ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(some, SCHEMA)


class ParquetWriter(Writer):
    """`instances.parquet`: a row for each object, for pandas, DuckDB, R."""

    name = "parquet"

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        return instance_rows(image)

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the table, some rows in memory at a time."""
        path = self.to.folder / "instances.parquet"
        with whole_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as file:
            batches = record_batches({**row, "run": self.to.run} for row in rows)
            while group := list(islice(batches, _BATCHES_PER_GROUP)):
                file.write_table(pa.Table.from_batches(group, SCHEMA))
        return [path]
