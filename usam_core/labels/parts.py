"""Parts of a set of labels: Parquet files of some images each, read by column and in batches.

A part has one row an image, sorted by path, and its instances as lists; masks are run lengths.
Parts that older versions wrote as JSON are read too.
"""

import heapq
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file
from usam_core.files.parquet import open_parquet
from usam_core.files.paths import inside
from usam_core.images.listing.content import mismatch
from usam_core.images.ref import ImageRef
from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.label_map import LabelMap

IMAGES = "the folder of the images"
PARTS = "parts/"
SUFFIX = ".parquet"

_LISTS = ("instances", "missed", "rejected")
_INSTANCE = pa.struct(
    [
        ("class_index", pa.int32()),
        ("counts", pa.string()),
        ("area", pa.int64()),
        *((side, pa.float64()) for side in ("x", "y", "w", "h")),
        *((name, pa.float64()) for name in ("score", "probability", "entropy", "predicted_iou")),
        ("runner_up", pa.int32()),
        ("prompt", pa.int64()),
        ("point", pa.list_(pa.float64())),
        ("reviewed", pa.string()),
        ("head_said", pa.int32()),
        ("threshold", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256", "png", "png_sha256")),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("labels", pa.list_(pa.int64())),
        ("pixels", pa.list_(pa.int64())),
        *((name, pa.list_(_INSTANCE)) for name in _LISTS),
        ("tiles", pa.list_(pa.string())),
    ]
)
"""`labels` and `pixels` are what `LabelledImage.pixels` maps; `counts` is the text of COCO's
compressed RLE at the image's size."""

_OF_IMAGE = ("path", "sha256", "png", "png_sha256", "height", "width")
_NAMELESS = LabelMap.of_names(())
_ROWS = 64
"""Images in memory at a time."""


def write_part(file: Path, images: Iterable[LabelledImage]) -> None:
    """Write a part, whole or not at all; images are sorted by path."""
    table = _table(sorted(images, key=lambda image: image.path))
    with whole_file(file) as temporary:
        pq.write_table(table, temporary, row_group_size=_ROWS, compression="zstd")


@dataclass(frozen=True, slots=True)
class Parts:
    """Some parts in the folder of the step annotate.

    Attributes:
        folder: of the step.
        files: the parts' names below it, with the SHA-256 that each must have; None for any.
        label_map: the classes.
        root: folder or URL that the images' paths count from.
    """

    folder: Path
    files: Mapping[str, str | None]
    label_map: LabelMap = _NAMELESS
    root: str = ""

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield some images at a time, part by part.

        Args:
            columns: of `SCHEMA`, also `instances.list.element.area` and the like; None reads all.

        Raises:
            StoreError: a part is not as it was written, cannot be read, or names a file that is
                none of the step's, or of the images.
        """
        for name, sha256 in self.files.items():
            if sha256 is not None and mismatch(self.folder / name, sha256):
                raise StoreError(
                    f"{self.folder / name}: missing or damaged since it was written; run "
                    "`usam annotate` again"
                )
            yield from _tables(self.folder, name, columns)

    def images(self, columns: Sequence[str] | None = None) -> Iterator[LabelledImage]:
        """Yield the images part by part, some in memory at a time.

        Args:
            columns: of `instances`, `missed`, `rejected`, `pixels` and `tiles` those that the
                images need, or `instances.list.element.area` and the like, of which at least
                `class_index`, `area` and `score`; None for all.
        """
        if columns is not None:
            columns = [*_OF_IMAGE, *columns, *(["labels"] if "pixels" in columns else [])]
        for table in self.tables(columns):
            yield from self.images_of(table)

    def sorted_images(self, columns: Sequence[str] | None = None) -> Iterator[LabelledImage]:
        """Yield the images by path; a part is open only while its paths are passed."""
        keyed = (self._keyed(name, columns) for name in self.files)
        return (image for _, image in heapq.merge(*keyed, key=itemgetter(0)) if image is not None)

    def _keyed(
        self, name: str, columns: Sequence[str] | None
    ) -> Iterator[tuple[str, LabelledImage | None]]:
        # The first path says where the part begins; the rest is read when its turn comes.
        tables = _tables(self.folder, name, ["path"])
        first = next((table["path"][0].as_py() for table in tables if len(table)), None)
        tables.close()
        if first is not None:
            yield first, None
            for image in replace(self, files={name: self.files[name]}).images(columns):
                yield image.path, image

    def images_of(self, table: pa.Table) -> Iterator[LabelledImage]:
        """Yield the images of a table."""
        for row in table.to_pylist():
            size_hw = row.pop("height"), row.pop("width")
            labels, pixels = row.pop("labels", ()), row.pop("pixels", ())
            tiles = row.pop("tiles", None)
            for name in _LISTS:
                if row.get(name) is not None:
                    row[name] = tuple(_instance(one, size_hw) for one in row[name])
            yield LabelledImage(
                **row,
                size_hw=size_hw,
                pixels=dict(zip(labels, pixels, strict=True)),
                tiles=None if tiles is None else tuple(tiles),
                label_map=self.label_map,
                root=self.root,
                folder=self.folder,
            )


def instance_columns(table: pa.Table, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of all instances of a table's images, and their row in it as `image`."""
    lists = table["instances"].combine_chunks()
    values = lists.flatten()
    columns = {name: values.field(name).to_numpy(zero_copy_only=False) for name in names}
    return {"image": pc.list_parent_indices(lists).to_numpy(), **columns}


def label_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Pixels of each label of a table's images, and their row in it as `image`."""
    labels, pixels = (table[name].combine_chunks() for name in ("labels", "pixels"))
    image, label, count = pc.list_parent_indices(labels), labels.flatten(), pixels.flatten()
    columns = {"image": image, "label": label, "pixels": count}
    return {name: column.to_numpy() for name, column in columns.items()}


def _tables(
    folder: Path, name: str, columns: Sequence[str] | None
) -> Generator[pa.Table, None, None]:
    part = inside(folder, name)
    try:
        for table in _batches(part, columns):
            for png in table["png"].to_pylist() if "png" in table.column_names else ():
                inside(folder, png, part)
            for path in table["path"].to_pylist() if "path" in table.column_names else ():
                inside(IMAGES, ImageRef.parse(path).file, part, linked=True)
            yield table
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise StoreError(
            f"{part}: cannot be read as labels ({error!r}); run `usam annotate` again"
        ) from error


def _batches(part: Path, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    if part.suffix != SUFFIX:
        records = json.loads(part.read_text(encoding="utf-8"))
        yield _table([_from_json(record) for record in records])
        return
    with open_parquet(part) as file:
        if not file.schema_arrow.equals(SCHEMA):
            raise ValueError("other columns than labels have")
        for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch])


def _table(images: Sequence[LabelledImage]) -> pa.Table:
    return pa.Table.from_pylist([_row(image) for image in images], SCHEMA)


def _row(image: LabelledImage) -> dict[str, Any]:
    row = {name: getattr(image, name) for name in ("path", "sha256", "png", "png_sha256", "tiles")}
    for name in _LISTS:
        instances = getattr(image, name)
        row[name] = None if instances is None else list(map(_values, instances))
    row["height"], row["width"] = image.size_hw
    return row | {"labels": list(image.pixels), "pixels": list(image.pixels.values())}


_SPREAD = ("rle", "bbox")


def _values(one: Instance) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in Instance.__slots__ if name not in _SPREAD}
    return values | dict(zip("xywh", one.bbox, strict=True)) | {"counts": one.rle["counts"]}


def _instance(row: dict[str, Any], size_hw: tuple[int, int]) -> Instance:
    rle = {"size": list(size_hw), "counts": row.pop("counts", None)}
    left, top, width, height = (row.pop(side, None) for side in "xywh")
    point = row.pop("point", None)
    return Instance(**row, rle=rle, bbox=(left, top, width, height), point=point and tuple(point))


def _from_json(record: dict[str, Any]) -> LabelledImage:
    """Read an image as older versions recorded it."""
    rejected, tiles = record.get("rejected"), record.get("tiles")
    return LabelledImage(
        **{name: record[name] for name in ("sha256", "png", "png_sha256")},
        path=record["file_name"],
        instances=tuple(map(Instance.from_coco, record["annotations"])),
        missed=tuple(map(Instance.from_coco, record.get("missed", ()))),
        rejected=None if rejected is None else tuple(map(Instance.from_coco, rejected)),
        size_hw=(record["height"], record["width"]),
        label_map=_NAMELESS,
        pixels={int(label): count for label, count in record.get("pixels", {}).items()},
        tiles=tiles and tuple(tiles),
    )
