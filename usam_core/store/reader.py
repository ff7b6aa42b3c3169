"""Reads single images out of shards, and says what to do when a shard is damaged."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from usam_core.errors import StoreError
from usam_core.store.arrays import Damaged, SealedArray, open_array
from usam_core.store.blocks import lacking_rows
from usam_core.store.layout import CHECKED_FILE, COLUMNS, FEATURES, OF_PROMPTS, column_of
from usam_core.store.shard import blocks_of, own_blocks, read_index
from usam_core.types import TOKENS_BLOCK, MaskSet

_KEPT_OPEN = 64

_RUN_ROWS = 16
_RUN_BYTES = 4 * 2**20
"""Neighbouring rows are read together up to here: measured, a row of tokens costs 0.5 ms instead
of 2 ms, while runs of large masks are no faster."""


class ShardReader:
    """Keeps the arrays read last open; they hold metadata only, no files and no values.

    Args:
        shards: the folder of all shards.

    Attributes:
        names: ids of added blocks, by the names that they are asked for.
    """

    def __init__(self, shards: Path) -> None:
        self.names: dict[str, str] = {}
        self._shards = shards
        self._open: OrderedDict[tuple[str, str], SealedArray] = OrderedDict()

    def forget(self) -> None:
        """Forget open arrays: shards may have been dropped or written again."""
        self._open.clear()

    def blocks_of(self, shard: str) -> list[str]:
        """Return the names of a shard's blocks: those given, ids for the others."""
        given = {block: name for name, block in self.names.items()}
        return sorted(given.get(block, block) for block in blocks_of(self._shards / shard))

    def usual_blocks(self, shard: str) -> list[str]:
        """Return the blocks that are read if none are asked for: the shard's own, those in use."""
        folder = self._shards / shard
        try:
            own = own_blocks(folder)
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
            rows: how many rows the shard's index has.
            single: read mask 0 of each prompt alone.

        Raises:
            StoreError: the shard does not have a column, a block does not have an image, or the
                shard is damaged.
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
        largest = max(sizes, default=1)
        at_once = min(max(1, _RUN_BYTES // largest), _RUN_ROWS)
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

    def mask_sets(
        self,
        shard: str,
        fingerprint: str,
        shas: Iterable[str],
        blocks: Sequence[str] | None = None,
        tokens: bool = True,
        single: bool = False,
    ) -> Iterator[tuple[str, MaskSet]]:
        """See `EmbeddingStore.read_shard`."""
        folder = self._shards / shard
        try:
            table = read_index(folder, fingerprint)
        except Damaged as error:
            raise damage(folder, error) from error
        images = {one["sha256"]: one for one in table.to_pylist() if one["row"] >= 0}
        wanted = {}
        for sha256 in shas:
            if sha256 not in images:
                raise StoreError(f"{folder}: image {sha256} is not in it; run `usam embed` first")
            wanted[images[sha256]["row"]] = sha256
        if blocks is None:
            blocks = self.usual_blocks(shard)
        own = [name for name in COLUMNS if tokens or name != TOKENS_BLOCK]
        columns = [*own, *map(column_of, blocks)]
        for sha256, values in self.rows(shard, wanted, columns, len(images), single):
            size_hw = (images[sha256]["height"], images[sha256]["width"])
            yield sha256, mask_set(values, blocks, size_hw)

    def array(self, shard: str, column: str, rows: int) -> SealedArray:
        """Return an array of a shard, opened and checked.

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
    """Return an image's columns and feature blocks as one mask set."""
    return MaskSet(
        tokens=values.get(TOKENS_BLOCK),
        **{name: values[name] for name in COLUMNS if name != TOKENS_BLOCK},
        size_hw=size_hw,
        features={name: values[column_of(name)] for name in blocks},
    )


def damage(folder: Path, error: Damaged) -> StoreError:
    """Return the error of a damaged shard, with the fix.

    What is remembered of whole shards is forgotten: the next `embed` reads all, finds the damage
    and repairs it, also where the disk changed bytes without the file's time.
    """
    with suppress(OSError):
        (folder.parents[1] / CHECKED_FILE).unlink(missing_ok=True)
    return StoreError(
        f"shard {folder.name} is damaged: {error}. Run `usam embed` or `usam run` again: the "
        f"images of {folder} are embedded anew, and no others"
    )


def _runs(rows: Sequence[int], at_once: int) -> Iterator[tuple[int, int]]:
    """Yield sorted rows as half-open runs of neighbours, each of at most `at_once` rows.

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
