"""One shard: what a group of images becomes on disk, and how it is checked.

A shard is written once and never changed, but for feature blocks that are added beside the rest.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from usam_core.errors import StoreError
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.parquet import read_table
from usam_core.store.arrays import Damaged, check_array, write_array
from usam_core.store.layout import (
    COLUMNS,
    FEATURES,
    INDEX_FILE,
    check_block_name,
    column_of,
    read_group,
    write_group,
)
from usam_core.types import TOKENS_BLOCK, ImageFile, MaskSet, Quarantined

OK = "ok"
QUARANTINED = "quarantined"

INDEX_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("status", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("row", pa.int64()),
        ("mode", pa.string()),
        ("window_low", pa.float64()),
        ("window_high", pa.float64()),
    ]
)
"""Columns of a shard's index. `source` is where the image lay when it was embedded; `height` and
`width` are 0 and `row` is -1 for a quarantined image; `code` and `reason` are empty for a good
one; the window is NaN where none was needed."""

_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One image of a shard to be written.

    Attributes:
        image: the file, by content.
        result: what SAM made of it, or why it could not be used.
        mode: how the file held its pixels (`DecodedImage.mode`).
        window: what became 0 and 255, for deep images (`DecodedImage.window`).
    """

    image: ImageFile
    result: MaskSet | Quarantined
    mode: str = ""
    window: tuple[float, float] | None = None

    @property
    def embedded(self) -> bool:
        """Return whether there are masks, not a quarantine."""
        return isinstance(self.result, MaskSet)


def shard_id(fingerprint: str, records: Sequence[ShardRecord]) -> str:
    """Return the shard's content address: of the encoder, the images in order, their outcomes."""
    outcomes = [
        [record.image.sha256, "" if isinstance(record.result, MaskSet) else record.result.code]
        for record in records
    ]
    return value_digest([fingerprint, outcomes])[:_ID_DIGITS]


def fill_shard(
    folder: Path, fingerprint: str, records: Sequence[ShardRecord], *, bytes8: bool = False
) -> None:
    """Write a whole shard into an empty folder.

    Besides the records, one column of all images is in memory at a time.

    Args:
        folder: where to.
        fingerprint: the store's.
        records: the images.
        bytes8: keep tokens and features with one byte a number.

    Raises:
        ValueError: no records, an image twice, or results whose columns do not fit together.
    """
    sets = [record.result for record in records if isinstance(record.result, MaskSet)]
    blocks = _check(records, sets)
    pq.write_table(_index_table(records), folder / INDEX_FILE)
    if sets:
        for name in COLUMNS:
            values = np.stack([getattr(one, name) for one in sets])
            write_array(folder / name, values, bytes8=bytes8 and name == TOKENS_BLOCK)
        for name in blocks:
            block = np.stack([one.features[name] for one in sets])
            write_array(folder / column_of(name), block, bytes8=bytes8)
    (folder / FEATURES).mkdir(exist_ok=True)
    write_group(folder / FEATURES, sync=False)
    write_group(
        folder,
        sync=False,
        fingerprint=fingerprint,
        columns=list(COLUMNS) if sets else [],
        blocks=blocks,
        index_sha256=file_digest(folder / INDEX_FILE),
    )


def read_index(folder: Path, fingerprint: str) -> pa.Table:
    """Return a shard's index (`INDEX_SCHEMA`).

    Raises:
        Damaged: it is missing, not as it was written, or of another encoder.
    """
    return _read_index(folder, _attributes(folder, fingerprint))


def check_shard(folder: Path, fingerprint: str, *, deep: bool) -> None:
    """Check that a shard is as it was written; blocks that were added later are not looked at.

    Args:
        folder: the shard's folder.
        fingerprint: the store's.
        deep: read all bytes; off compares sizes, metadata and the index only.

    Raises:
        Damaged: it is not, and in which file.
    """
    attributes = _attributes(folder, fingerprint)
    _read_index(folder, attributes)
    _group(folder / FEATURES)
    for name in (*attributes["columns"], *map(column_of, attributes["blocks"])):
        check_array(folder / name, deep=deep)


def check_added_blocks(folder: Path, fingerprint: str, *, deep: bool) -> dict[str, str]:
    """Check the blocks that were added to a whole shard; return what is wrong, by block."""
    own = _attributes(folder, fingerprint)["blocks"]
    found = {}
    for name in sorted({*blocks_of(folder)} - {*own}):
        try:
            check_array(folder / column_of(name), deep=deep)
        except Damaged as error:
            found[name] = str(error)
    return found


def own_blocks(folder: Path) -> list[str]:
    """Return the blocks that a shard was written with.

    Raises:
        Damaged: its metadata are.
    """
    return _group(folder)["blocks"]


def blocks_of(folder: Path) -> list[str]:
    """Return the names of a shard's feature blocks, sorted; those being written are left out."""
    try:
        found = [path.name for path in (folder / FEATURES).iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(name for name in found if not name.startswith("."))


def _attributes(folder: Path, fingerprint: str) -> dict[str, Any]:
    attributes = _group(folder)
    if attributes["fingerprint"] != fingerprint:
        raise Damaged(f"{folder}: made by another encoder, {attributes['fingerprint']}")
    return attributes


def _group(folder: Path) -> dict[str, Any]:
    try:
        return read_group(folder)
    except StoreError as error:
        raise Damaged(str(error)) from error


def _read_index(folder: Path, attributes: dict[str, Any]) -> pa.Table:
    path = folder / INDEX_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != attributes["index_sha256"]:
        raise Damaged(f"{path}: the bytes are not the ones that were written")
    return read_table(content)


def _index_table(records: Sequence[ShardRecord]) -> pa.Table:
    rows = []
    embedded = 0
    for record in records:
        result = record.result
        good = isinstance(result, MaskSet)
        height, width = result.size_hw if isinstance(result, MaskSet) else (0, 0)
        code, reason = ("", "") if isinstance(result, MaskSet) else (result.code, result.reason)
        low, high = record.window or (math.nan, math.nan)
        rows.append(
            {
                "sha256": record.image.sha256,
                "source": _text(record.image.path),
                "height": height,
                "width": width,
                "status": OK if good else QUARANTINED,
                "code": code,
                "reason": _text(reason),
                "row": embedded if good else -1,
                "mode": record.mode,
                "window_low": low,
                "window_high": high,
            }
        )
        embedded += good
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _text(text: str) -> str:
    # Paths may hold bytes that are no Unicode; a table may not.
    return text.encode("utf-8", "replace").decode("utf-8")


def _check(records: Sequence[ShardRecord], sets: Sequence[MaskSet]) -> list[str]:
    """Return the names of the feature blocks that all the results have."""
    shas = [record.image.sha256 for record in records]
    if not shas or len(set(shas)) < len(shas):
        raise ValueError(f"records: expected at least one, each image once, got {shas}")
    shapes = [
        {name: getattr(one, name).shape for name in COLUMNS}
        | {check_block_name(name): block.shape for name, block in one.features.items()}
        for one in sets
    ]
    for record, shape in zip((r for r in records if r.embedded), shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"{record.image.path}: columns of shapes {shape}; the shard's first image has "
                f"{shapes[0]}, and all images of a shard need the same"
            )
    return sorted(sets[0].features) if sets else []
