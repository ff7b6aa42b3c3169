"""`instances.parquet`: a row for each object, for pandas, DuckDB, R."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

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
what a person decided of the mask ("accepted", "changed", or null for nothing), `run` the key of the
annotate step that the table was made from."""

_ROWS_PER_BATCH = 1024
"""Rows that are Python objects at a time: they take many times the memory of columns."""
_BATCHES_PER_GROUP = 16


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
    """One table of all objects."""

    name = "parquet"

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        """A row for each object."""
        return instance_rows(image)

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the table, some rows in memory at a time."""
        path = self.to.folder / "instances.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as file:
            batches = record_batches({**row, "run": self.to.run} for row in rows)
            while group := list(islice(batches, _BATCHES_PER_GROUP)):
                file.write_table(pa.Table.from_batches(group, SCHEMA))
        return [path]
