"""Reads images out of shards, and adds feature blocks to shards without running SAM again.

A block lies inside its shard, as `features/<id>`, and so goes where the shard goes. Its id is the
digest of what its numbers depend on, so that projects with one encoder share its blocks, whatever
they call them. A block may lack rows: images of other projects in the same shard, or images that
could not be read again. Its sealed attributes list them.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from usam_core.errors import StoreError
from usam_core.files.atomic import whole_folder
from usam_core.store.arrays import SealedArray, check_array, open_array, write_array
from usam_core.store.layout import (
    CHECKED_FILE,
    COLUMNS,
    FEATURES,
    OF_PROMPTS,
    Damaged,
    check_block_name,
    column_of,
    fingerprint,
    refusals,
    remove_folder,
)
from usam_core.store.shard import blocks_of, read_shard_group
from usam_core.types import TOKENS_BLOCK, MaskSet

LACKING = "lacking_rows"
SPEC = "spec"
_KEPT_OPEN = 64
_RUN_ROWS = 16
_RUN_BYTES = 4 * 2**20
"""Neighboring rows are read together up to here: measured, a row of tokens costs 0.5 ms instead
of 2 ms, while runs of large masks are no faster."""

_log = logging.getLogger(__name__)


class ShardReader:
    """Keeps the arrays read last open; they hold metadata only, no files and no values.

    `names` are ids of added blocks, by the names that they are asked for.
    """

    def __init__(self, shards: Path) -> None:
        self.names: dict[str, str] = {}
        self._shards = shards
        self._open: OrderedDict[tuple[str, str], SealedArray] = OrderedDict()

    def forget(self) -> None:
        """Forget open arrays: shards may have been dropped or written again."""
        self._open.clear()

    def blocks_of(self, shard: str) -> list[str]:
        """Names of a shard's blocks: those given, ids for the others."""
        given = {block: name for name, block in self.names.items()}
        return sorted(given.get(block, block) for block in blocks_of(self._shards / shard))

    def usual_blocks(self, shard: str) -> list[str]:
        """The blocks that are read if none are asked for: the shard's own, those in use."""
        folder = self._shards / shard
        try:
            own = read_shard_group(folder)["blocks"]
        except Damaged as error:
            raise damage(folder, error) from error
        return [*own, *(name for name in self.blocks_of(shard) if name in self.names)]

    def rows(
        self,
        shard: str,
        wanted: Mapping[int, str],
        columns: Sequence[str],
        rows: int,
        single: bool = False,
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield the wanted images of a shard, each with its columns, by row.

        Args:
            shard: the shard's id.
            wanted: image digests by row.
            columns: of `layout.COLUMNS` and `column_of(block)`.
            rows: number of rows of the shard's index.
            single: read mask 0 of each prompt alone.

        Raises:
            StoreError: a column or an image is missing, or the shard is damaged.
        """
        arrays = {name: self.array(shard, name, rows) for name in columns}
        for name, array in arrays.items():
            lacking = lacking_rows(array).intersection(wanted)
            if lacking:
                raise StoreError(
                    f"{self._folder(shard, name)}: {len(lacking)} images are not in this feature "
                    f"block, such as {wanted[min(lacking)]}; run `usam describe` first"
                )
        alone = {name: single and name not in OF_PROMPTS for name in columns}
        sizes = (one.row_bytes(single=alone[name]) for name, one in arrays.items())
        at_once = min(max(1, _RUN_BYTES // max(sizes, default=1)), _RUN_ROWS)
        for start, stop in _runs(sorted(wanted), at_once):
            values = {}
            for name, one in arrays.items():
                try:
                    values[name] = one.values(start, stop, single=alone[name])
                except Damaged as error:
                    raise self._damage(shard, name, error) from error
            for row in range(start, stop):
                # Copies, so that who keeps one image does not keep the whole run.
                yield wanted[row], {name: run[row - start].copy() for name, run in values.items()}

    def array(self, shard: str, column: str, rows: int) -> SealedArray:
        """An array of a shard, opened and checked.

        Raises:
            StoreError: the shard does not have the column, or is damaged.
        """
        key = (shard, column)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        folder = self._shards / shard
        blocks = self.blocks_of(shard)
        known = [*COLUMNS, *map(column_of, blocks)]
        if column not in known and folder.is_dir():
            raise StoreError(
                f"{folder}: no column {column!r}; expected one of {known}. If a feature block is "
                f"meant, the store has {[TOKENS_BLOCK, *blocks]}: change head.features, or make "
                "the block with `usam describe`"
            )
        try:
            self._open[key] = open_array(self._folder(shard, column), rows)
        except Damaged as error:
            raise self._damage(shard, column, error) from error
        if len(self._open) > _KEPT_OPEN:
            self._open.popitem(last=False)
        return self._open[key]

    def _damage(self, shard: str, column: str, error: Damaged) -> StoreError:
        folder = self._folder(shard, column)
        if folder.name in self.names.values():
            return StoreError(
                f"feature block {folder.name} is damaged: {error}. Delete the folder {folder} and "
                "run `usam describe` again: it alone is made anew"
            )
        return damage(self._shards / shard, error)

    def _folder(self, shard: str, column: str) -> Path:
        name = column.removeprefix(f"{FEATURES}/")
        if name != column:
            column = column_of(self.names.get(name, name))
        return self._shards / shard / column


def mask_set(
    values: Mapping[str, np.ndarray], blocks: Sequence[str], size_hw: tuple[int, int]
) -> MaskSet:
    """An image's columns and feature blocks as one mask set."""
    return MaskSet(
        tokens=values.get(TOKENS_BLOCK),
        **{name: values[name] for name in COLUMNS if name != TOKENS_BLOCK},
        size_hw=size_hw,
        features={name: values[column_of(name)] for name in blocks},
    )


def damage(folder: Path, error: Damaged) -> StoreError:
    """The error of a damaged shard, with the fix.

    Forgets which shards were found whole: the next `embed` reads all, finds the damage and repairs
    it, also where the disk changed bytes without the file's time.
    """
    with suppress(OSError):
        (folder.parents[1] / CHECKED_FILE).unlink(missing_ok=True)
    return StoreError(
        f"shard {folder.name} is damaged: {error}. Run `usam embed` or `usam run` again: the "
        f"images of {folder} are embedded anew, and no others"
    )


def _runs(rows: Sequence[int], at_once: int) -> Iterator[tuple[int, int]]:
    """Yield sorted rows as half-open runs of neighbors, each of at most `at_once` rows.

    >>> list(_runs([0, 1, 2, 5, 6], 2))
    [(0, 2), (2, 3), (5, 7)]
    """
    start = stop = rows[0]
    for row in rows:
        if row != stop or stop - start == at_once:
            yield start, stop
            start = row
        stop = row + 1
    yield start, stop


def block_id(spec: dict[str, Any]) -> str:
    """Name of a block's folder: the encoder's family, then 16 digits of a digest.

    >>> block_id({"family": "dinov2", "weights": "1f"}).split("-")[0]
    'dinov2'
    """
    return check_block_name(f"{spec['family']}-{fingerprint(spec)[:16]}")


def lacking_rows(array: SealedArray) -> frozenset[int]:
    """The rows that a block does not have; they hold zeros."""
    rows: Any = array.array.attrs.get(LACKING, ())
    return frozenset(rows)


def rows_lacking(shard: Path, block: str, rows: int) -> frozenset[int]:
    """Those of a shard's `rows` that a block is still to be made for: all if it is damaged."""
    folder = shard / FEATURES / block
    if folder.is_dir():
        try:
            check_array(folder, deep=False)
            return lacking_rows(open_array(folder, rows))
        except Damaged as error:
            _log.warning("%s; the block is made again", error)
    return frozenset(range(rows))


def drop_damaged(shard: Path, block: str) -> None:
    """Remove a block of a shard, so that it lacks all rows; one that is whole stays."""
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
    """
    folder = shard / FEATURES / block_id(spec)
    width = min(values.shape[-1] for values in made.values())
    for row, values in made.items():
        expected = (*shape[1:], width)
        if values.dtype != np.float16 or values.shape != expected or not 0 <= row < shape[0]:
            raise ValueError(
                f"feature block {folder.name}, row {row}: expected float16 {expected} and a row "
                f"below {shape[0]}, got {values.dtype} {values.shape}"
            )
    with refusals(folder):
        missing = rows_lacking(shard, folder.name, shape[0])
        fresh = missing & made.keys()
        if not fresh:
            return
        full = np.zeros((*shape, width), np.float16)
        if len(missing) < shape[0]:
            full = open_array(folder, shape[0]).values(0, shape[0])
        if full.shape[-1] != width:
            raise ValueError(f"{folder}: expected vectors of {full.shape[-1]} numbers, got {width}")
        for row in fresh:
            full[row] = made[row]
        with whole_folder(folder) as temporary:
            write_array(temporary, full, {SPEC: spec, LACKING: sorted(missing - fresh)})
            # Killed between the two, the shard has no such block, and it is made again.
            remove_folder(folder)
