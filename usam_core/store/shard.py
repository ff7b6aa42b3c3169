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
from usam_core.store.arrays import check_array, write_array
from usam_core.store.layout import (
    COLUMNS,
    FEATURES,
    INDEX_FILE,
    Damaged,
    check_block_name,
    column_of,
    read_group,
    shard_names,
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
        result: SAM's masks, or why the image could not be used.
        mode: how the file held its pixels (`DecodedImage.mode`).
        window: the values that became 0 and 255, for deep images (`DecodedImage.window`).
    """

    image: ImageFile
    result: MaskSet | Quarantined
    mode: str = ""
    window: tuple[float, float] | None = None

    @property
    def embedded(self) -> bool:
        """Whether there are masks, not a quarantine."""
        return isinstance(self.result, MaskSet)


def shard_id(fingerprint: str, records: Sequence[ShardRecord]) -> str:
    """The shard's content address: of the encoder, the images in order, their outcomes."""
    outcomes = [
        [record.image.sha256, "" if isinstance(record.result, MaskSet) else record.result.code]
        for record in records
    ]
    return value_digest([fingerprint, outcomes])[:_ID_DIGITS]


def fill_shard(
    folder: Path, fingerprint: str, records: Sequence[ShardRecord], *, bytes8: bool = False
) -> None:
    """Write a whole shard into an empty folder, one column of all images in memory at a time.

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
    write_group(folder / FEATURES, {}, sync=False)
    attributes = {
        "fingerprint": fingerprint,
        "columns": list(COLUMNS) if sets else [],
        "blocks": blocks,
        "index_sha256": file_digest(folder / INDEX_FILE),
    }
    write_group(folder, attributes, sync=False)


def _check(records: Sequence[ShardRecord], sets: Sequence[MaskSet]) -> list[str]:
    """Names of the feature blocks that all the results have."""
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


def _index_table(records: Sequence[ShardRecord]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    embedded = 0
    for record in records:
        result = record.result
        low, high = record.window or (math.nan, math.nan)
        row: dict[str, Any] = {
            "sha256": record.image.sha256,
            "source": _unicode(record.image.path),
            "mode": record.mode,
            "window_low": low,
            "window_high": high,
        }
        if isinstance(result, MaskSet):
            row |= zip(("height", "width"), result.size_hw, strict=True)
            row |= {"status": OK, "code": "", "reason": "", "row": embedded}
            embedded += 1
        else:
            reason = {"code": result.code, "reason": _unicode(result.reason)}
            row |= {"height": 0, "width": 0, "status": QUARANTINED, **reason, "row": -1}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _unicode(text: str) -> str:
    # Paths may hold bytes that are no Unicode; a table may not.
    return text.encode("utf-8", "replace").decode("utf-8")


def read_index(folder: Path, fingerprint: str) -> pa.Table:
    """A shard's index (`INDEX_SCHEMA`).

    Raises:
        Damaged: it is missing, not as it was written, or of another encoder.
    """
    attributes = read_shard_group(folder)
    if attributes["fingerprint"] != fingerprint:
        raise Damaged(f"{folder}: made by another encoder, {attributes['fingerprint']}")
    path = folder / INDEX_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != attributes["index_sha256"]:
        raise Damaged(f"{path}: the bytes are not the ones that were written")
    return read_table(content)


def read_shard_group(folder: Path) -> dict[str, Any]:
    """Our attributes of a shard: fingerprint, columns, the blocks it was written with, a digest.

    Raises:
        Damaged: its metadata are.
    """
    try:
        return read_group(folder)
    except StoreError as error:
        raise Damaged(str(error)) from error


def blocks_of(folder: Path) -> list[str]:
    """Names of a shard's feature blocks, sorted; those being written are left out."""
    try:
        return shard_names(folder / FEATURES)
    except OSError:
        return []


def check_shard(folder: Path, fingerprint: str, *, deep: bool) -> None:
    """Check that a shard is as it was written; added blocks are not looked at.

    Not `deep`: sizes, metadata and the index only.

    Raises:
        Damaged: it is not, and in which file.
    """
    read_index(folder, fingerprint)
    read_shard_group(folder / FEATURES)
    attributes = read_shard_group(folder)
    for name in (*attributes["columns"], *map(column_of, attributes["blocks"])):
        check_array(folder / name, deep=deep)


@dataclass(frozen=True, slots=True)
class DamagedShard:
    """A shard that is not as it was written, and why, which names the file.

    `block` is the id of an added block, if that alone is damaged; else empty.
    """

    shard: str
    reason: str
    block: str = ""


def find_damage(folder: Path, fingerprint: str, *, deep: bool) -> list[DamagedShard]:
    """Check a shard as `check_shard` does, and if it is whole the blocks that were added to it."""
    before = _inodes(folder)
    damage = []
    try:
        check_shard(folder, fingerprint, deep=deep)
        own = read_shard_group(folder)["blocks"]
        for block in sorted({*blocks_of(folder)}.difference(own)):
            try:
                check_array(folder / column_of(block), deep=deep)
            except Damaged as error:
                damage.append(DamagedShard(folder.name, str(error), block))
    except Damaged as error:
        damage = [DamagedShard(folder.name, str(error))]
    if damage and _inodes(folder) != before:
        # Dropped, or written again, while it was looked at: what is there now counts.
        return find_damage(folder, fingerprint, deep=deep) if folder.is_dir() else []
    return damage


def _inodes(folder: Path) -> list[tuple[str, int]]:
    """What tells a shard and its blocks from others that were put in their places."""
    try:
        blocks = sorted((path.name, path.stat().st_ino) for path in (folder / FEATURES).iterdir())
        return [("", folder.stat().st_ino), *blocks]
    except OSError:
        return []
