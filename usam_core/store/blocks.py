"""Feature blocks that are added to shards which are there already, without running SAM again.

A block lies inside its shard, as `features/<id>`, and so goes where the shard goes. Its id is the
digest of what its numbers depend on, so that projects that use one encoder share its blocks,
whatever they call them. A block may lack rows: images of other projects in the same shard, or
images that could not be read again. Which ones stands in the array's sealed attributes.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from usam_core.errors import StoreError
from usam_core.files.atomic import whole_folder
from usam_core.store.arrays import Damaged, SealedArray, check_array, open_array, write_array
from usam_core.store.commit import remove_folder
from usam_core.store.layout import FEATURES, check_block_name, fingerprint

LACKING = "lacking_rows"
SPEC = "spec"

_log = logging.getLogger(__name__)


def block_id(spec: dict[str, Any]) -> str:
    """Return the name of a block's folder: the encoder's family, then 16 digits of a digest.

    >>> block_id({"family": "dinov2", "weights": "1f"}).split("-")[0]
    'dinov2'
    """
    return check_block_name(f"{spec['family']}-{fingerprint(spec)[:16]}")


def lacking_rows(array: SealedArray) -> frozenset[int]:
    """Return the rows that a block does not have; they hold zeros."""
    rows: Any = array.array.attrs.get(LACKING, ())
    return frozenset(rows)


def rows_lacking(shard: Path, block: str, rows: int) -> frozenset[int]:
    """Return the rows of a shard that a block is still to be made for: all if it is damaged.

    Args:
        shard: the shard's folder.
        block: the block's id.
        rows: how many rows the shard's index has.
    """
    folder = shard / FEATURES / block
    if not folder.is_dir():
        return frozenset(range(rows))
    try:
        check_array(folder, deep=False)
        return lacking_rows(open_array(folder, rows))
    except Damaged as error:
        _log.warning("%s; the block is made again", error)
        return frozenset(range(rows))


def lacking_images(
    shards: Path,
    blocks: Sequence[str],
    wanted: Mapping[str, Mapping[int, str]],
    rows: Mapping[str, int],
) -> dict[str, dict[str, list[str]]]:
    """Return which of the wanted images lack which blocks: by shard, then by block.

    Args:
        shards: the folder of all shards.
        blocks: ids of blocks.
        wanted: image digests by shard and row.
        rows: how many rows each shard's index has.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for shard, images in wanted.items():
        for block in blocks:
            lacking = rows_lacking(shards / shard, block, rows[shard]).intersection(images)
            if lacking:
                found.setdefault(shard, {})[block] = [images[row] for row in sorted(lacking)]
    return found


def drop_damaged(shard: Path, block: str) -> None:
    """Remove a block of a shard, so that it lacks all rows; one that is whole stays.

    Raises:
        StoreError: it cannot be removed.
    """
    folder = shard / FEATURES / block
    try:
        check_array(folder, deep=True)
    except Damaged:
        remove_folder(folder)


def add_block(
    shard: Path, spec: dict[str, Any], shape: tuple[int, ...], made: Mapping[int, np.ndarray]
) -> None:
    """Add rows to a block of a shard, whole or not at all; rows that are there already stay.

    Args:
        shard: the shard's folder.
        spec: what the block's numbers depend on.
        shape: n, d and m of the shard.
        made: float16 (d, m, f) by row.

    Raises:
        ValueError: the dtype or a shape does not fit.
        StoreError: it cannot be written.
    """
    folder = shard / FEATURES / block_id(spec)
    width = {values.shape[-1] for values in made.values()}
    for row, values in made.items():
        expected = (*shape[1:], min(width))
        if values.dtype != np.float16 or values.shape != expected or not 0 <= row < shape[0]:
            raise ValueError(
                f"feature block {folder.name}, row {row}: expected float16 {expected} and a row "
                f"below {shape[0]}, got {values.dtype} {values.shape}"
            )
    try:
        missing = rows_lacking(shard, folder.name, shape[0])
        fresh = missing & made.keys()
        if not fresh:
            return
        full = _kept(folder, shape, min(width), missing)
        for row in fresh:
            full[row] = made[row]
        with whole_folder(folder) as temporary:
            lacking = sorted(missing - fresh)
            write_array(temporary, full, {SPEC: spec, LACKING: lacking})
            # Killed between the two, the shard has no such block, and it is made again.
            remove_folder(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written: {error.strerror or error}; free disk space or check the "
            "permissions, then run again"
        ) from error


def _kept(folder: Path, shape: tuple[int, ...], width: int, missing: frozenset[int]) -> np.ndarray:
    """Return the whole block with the rows it has so far, zeros elsewhere."""
    if len(missing) < shape[0]:
        full = open_array(folder, shape[0]).values(0, shape[0])
        if full.shape[-1] == width:
            return full
        raise ValueError(f"{folder}: expected vectors of {full.shape[-1]} numbers, got {width}")
    return np.zeros((*shape, width), np.float16)
