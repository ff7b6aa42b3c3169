"""The embedding store: what one encoder says of every image, by the image's content.

One shard is the unit of work and of commit. Any number of processes may read and write at the
same time; killed at any moment, a writer loses the shard in flight and leaves none half-written.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from usam_core.errors import StoreError
from usam_core.files.atomic import whole_folder
from usam_core.files.digest import CheckedFolders
from usam_core.images.read import PATH_CODES
from usam_core.progress import SILENT, Progress
from usam_core.store.index import Arrivals, Place, StoreIndex
from usam_core.store.layout import (
    CHECKED_FILE,
    COLUMNS,
    PRECISION,
    SHARDS,
    Damaged,
    column_of,
    fingerprint,
    folder_name,
    make_store,
    refusals,
    remove_folder,
    shard_names,
    stored_spec,
)
from usam_core.store.reader import (
    ShardReader,
    add_block,
    damage,
    drop_damaged,
    mask_set,
    rows_lacking,
)
from usam_core.store.shard import (
    OK,
    DamagedShard,
    ShardRecord,
    check_shard,
    fill_shard,
    find_damage,
    read_index,
    shard_id,
)
from usam_core.types import TOKENS_BLOCK, MaskSet

__all__ = ["DamagedShard", "EmbeddingStore", "ShardRecord", "column_of", "fingerprint"]

_log = logging.getLogger(__name__)


class EmbeddingStore:
    """The store of one encoder.

    Make one with `create_or_open`, `find` or `open`. An object may be used by one thread at a
    time; objects and processes do not disturb each other.

    Attributes:
        path: the store's folder.
        spec: the encoder, as it was given when the store was made.
        fingerprint: digest of `spec`.
    """

    def __init__(self, path: Path, spec: dict[str, Any]) -> None:
        self.path = path
        self.spec = spec
        self.fingerprint = fingerprint(spec)
        self._bytes8 = spec.get(PRECISION) == "int8"
        self._shards = path / SHARDS
        self._index = StoreIndex(path, self.fingerprint)
        self._reader = ShardReader(self._shards)

    @classmethod
    def create_or_open(cls, root: Path, spec: dict[str, Any]) -> "EmbeddingStore":
        """The store of an encoder below `root`, made if need be; swept up after killed writers.

        `spec`, JSON-like, is everything that the embeddings depend on.
        """
        return cls.open(make_store(root, spec))

    @classmethod
    def find(cls, root: Path, spec: dict[str, Any]) -> "EmbeddingStore":
        """The store of an encoder below `root`, not made; errors are those of `open`."""
        return cls.open(Path(root) / folder_name(spec))

    @classmethod
    def open(cls, path: Path) -> "EmbeddingStore":
        """The store in a folder.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it is damaged or of another kind.
        """
        path = Path(path)
        return cls(path, stored_spec(path))

    def index(self, refresh: bool = False) -> pd.DataFrame:
        """One row an image: `shard.INDEX_SCHEMA`, plus `shard`.

        Shards whose index is damaged are left out, with a warning: their images count as not
        stored, and embedding them again puts the damage right. `refresh` looks for new shards.
        """
        if refresh:
            self._refresh()
        return self._index.frame().copy()

    def arrivals(self) -> Arrivals:
        """Follow which images come into the store, whoever writes them."""
        return Arrivals(self._index, self._shards)

    def plan(self, shas: Iterable[str], shard_size: int = 64) -> list[list[str]]:
        """Those of `shas` that are not stored yet, each once and in order, cut into shards.

        Quarantined images count as stored, but for the codes that speak of a path and not of the
        content (`usam_core.images.read.PATH_CODES`).
        """
        if shard_size < 1:
            raise ValueError(f"shard_size: expected at least 1, got {shard_size}")
        self._refresh()
        frame = self._index.frame()
        known = set(frame.loc[~frame["code"].isin(PATH_CODES), "sha256"])
        missing = [sha256 for sha256 in dict.fromkeys(shas) if sha256 not in known]
        return [missing[start : start + shard_size] for start in range(0, len(missing), shard_size)]

    def write_shard(self, records: Sequence[ShardRecord]) -> str:
        """Write one shard, whole or not at all, and return its id.

        A shard of the same images with the same outcomes stays, unless it is damaged.

        Raises:
            ValueError: no records, an image twice, or results whose columns do not fit together.
            StoreError: the disk is full or does not let us write.
        """
        shard = shard_id(self.fingerprint, records)
        folder = self._shards / shard
        if not self._is_whole(folder):
            with refusals(folder), whole_folder(folder) as temporary:
                fill_shard(temporary, self.fingerprint, records, bytes8=self._bytes8)
                if folder.is_dir() and not self._is_whole(folder):
                    _log.warning("%s is damaged: writing it again", folder)
                    remove_folder(folder)
        self._index.look_at(shard)
        self._reader.forget()
        return shard

    def _is_whole(self, folder: Path) -> bool:
        try:
            check_shard(folder, self.fingerprint, deep=True)
        except Damaged:
            return False
        return True

    def use_blocks(self, names: Mapping[str, str]) -> None:
        """Let added blocks be asked for by name, from here on; ids by name."""
        self._reader.names = dict(names)
        self._reader.forget()

    def lacking(
        self, blocks: Iterable[str], shas: Iterable[str]
    ) -> dict[str, dict[str, list[str]]]:
        """Which embedded images lack which blocks: by shard, then by the block's id."""
        self._refresh()
        blocks = list(blocks)
        lacking: dict[str, dict[str, list[str]]] = {}
        for shard, images in self._index.embedded(shas).items():
            for block in blocks:
                rows = rows_lacking(self._shards / shard, block, self._index.rows(shard))
                if missing := sorted(rows.intersection(images)):
                    lacking.setdefault(shard, {})[block] = [images[row] for row in missing]
        return lacking

    def add_block(self, shard: str, spec: dict[str, Any], made: Mapping[str, np.ndarray]) -> None:
        """Add images to a feature block of a shard, all or none; those that it has stay.

        Args:
            shard: the shard's id.
            spec: what the block's numbers depend on, beside the store's own; see `block_id`.
            made: float16 (d, m, f) by image digest.

        Raises:
            ValueError: a dtype or shape does not fit.
            StoreError: the shard does not have an image, or cannot be written.
        """
        self._refresh()
        if any(self._find(sha256).shard != shard for sha256 in made):
            raise StoreError(f"{self._shards / shard}: the images lie in other shards; run again")
        shape = self._reader.array(shard, "predicted_iou", self._index.rows(shard)).array.shape
        rows = {self._find(sha256).row: values for sha256, values in made.items()}
        add_block(self._shards / shard, spec, shape, rows)
        self._reader.forget()

    def drop_damaged_block(self, shard: str, block: str) -> None:
        """Remove a block that `verify` spoke of, unless it is whole again; it is lacking then."""
        drop_damaged(self._shards / shard, block)
        self._reader.forget()

    def read(self, sha256: str) -> MaskSet:
        """The masks of one image; of added blocks, those of `use_blocks`.

        Raises:
            StoreError: it is not stored, was quarantined, or its shard is damaged.
        """
        place = self._find(sha256)
        blocks = self._reader.usual_blocks(place.shard)
        columns = [*COLUMNS, *map(column_of, blocks)]
        ((_, values),) = self._reader.rows(place.shard, {place.row: sha256}, columns, place.rows)
        return mask_set(values, blocks, (place.height, place.width))

    def read_rows(
        self, shas: Iterable[str], columns: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield each image once with the wanted columns, shard by shard, a few in memory at a time.

        The order is that of the shards, by each one's first image in `shas`; within a shard, that
        of its rows. Only the wanted images' bytes are read.

        Args:
            shas: images, all of them embedded.
            columns: of `layout.COLUMNS` and `column_of(block)`.

        Raises:
            StoreError: at the call, an image is not stored or was quarantined; later, a shard is
                damaged or does not have a column.
        """
        shards: dict[str, dict[int, str]] = {}
        rows: dict[str, int] = {}
        for sha256 in shas:
            place = self._find(sha256)
            shards.setdefault(place.shard, {})[place.row] = sha256
            rows[place.shard] = place.rows
        return chain.from_iterable(
            self._reader.rows(shard, wanted, columns, rows[shard])
            for shard, wanted in shards.items()
        )

    def read_shard(
        self,
        shard: str,
        shas: Iterable[str],
        blocks: Sequence[str] | None = None,
        *,
        tokens: bool = True,
        single: bool = False,
    ) -> Iterator[tuple[str, MaskSet]]:
        """Yield the masks of some images of one shard, by row.

        Only this shard's index is read: going shard by shard needs no memory for all.

        Args:
            shard: the shard's id.
            shas: images, all of them embedded in it.
            blocks: the feature blocks to read; None reads the shard's own and `use_blocks`'s.
            tokens: read SAM's tokens too, a quarter of the bytes.
            single: of each prompt read SAM's single-mask output alone, so that m is 1.

        Raises:
            StoreError: the shard is damaged, or does not have one of the images or blocks.
        """
        folder = self._shards / shard
        try:
            table = read_index(folder, self.fingerprint)
        except Damaged as error:
            raise damage(folder, error) from error
        images = {one["sha256"]: one for one in table.to_pylist() if one["row"] >= 0}
        wanted = {}
        for sha256 in shas:
            if sha256 not in images:
                raise StoreError(f"{folder}: image {sha256} is not in it; run `usam embed` first")
            wanted[images[sha256]["row"]] = sha256
        if blocks is None:
            blocks = self._reader.usual_blocks(shard)
        own = [name for name in COLUMNS if tokens or name != TOKENS_BLOCK]
        columns = [*own, *map(column_of, blocks)]
        for sha256, values in self._reader.rows(shard, wanted, columns, len(images), single):
            size_hw = (images[sha256]["height"], images[sha256]["width"])
            yield sha256, mask_set(values, blocks, size_hw)

    def block_names(self) -> list[str]:
        """The blocks that every shard has, and those of `use_blocks`, `tokens` first."""
        frame = self._index.frame()
        shards = frame.loc[frame["status"] == OK, "shard"].unique()
        if not len(shards):
            return []
        common = set.intersection(*(set(self._reader.blocks_of(shard)) for shard in shards))
        return [TOKENS_BLOCK, *sorted(common.union(self._reader.names))]

    def verify(
        self,
        *,
        only: Iterable[str] | None = None,
        deep: bool = True,
        fresh: bool = False,
        progress: Progress = SILENT,
    ) -> list[DamagedShard]:
        """The shards, and blocks added to whole ones, that are not as they were written.

        Args:
            only: the shards to look at; None looks at all.
            deep: read all bytes; off reads them only of shards whose files are not as they were
                at the last time, by names, sizes and times.
            fresh: what was not looked at yet has just been written: its sizes, metadata and
                indexes are enough.
            progress: told of each shard.
        """
        names = sorted(self.shards() if only is None else only)
        checked = CheckedFolders(self.path / CHECKED_FILE, self.fingerprint)
        damaged = []
        with progress.bar("Checking the store", len(names)) as bar:
            for name in names:
                bar.advance()
                folder = self._shards / name
                if not deep and checked.holds(folder):
                    continue
                read = deep or not fresh or checked.knows(folder)
                faults = find_damage(folder, self.fingerprint, deep=read)
                damaged += faults
                if not faults:
                    checked.add(folder)
                elif deep:
                    # Bytes that a disk changed by itself: quick looks shall find them from now on.
                    checked.forget(folder)
        checked.save(self.shards())
        return damaged

    def shards(self) -> list[str]:
        """Ids of all shards there are, damaged ones too."""
        return shard_names(self._shards)

    def images_of(self, shard: str) -> list[str]:
        """The images of a shard by its own index alone; none if that is damaged."""
        try:
            return read_index(self._shards / shard, self.fingerprint)["sha256"].to_pylist()
        except Damaged:
            return []

    def drop_shard(self, shard: str) -> None:
        """Remove a shard, so that `plan` gives its images again; one that is gone is no error."""
        if not shard.isalnum():
            raise ValueError(f"shard {shard!r}: expected an id as `index` gives it")
        remove_folder(self._shards / shard)
        self._refresh()

    def _refresh(self) -> None:
        if self._index.refresh():
            self._reader.forget()

    def _find(self, sha256: str) -> Place:
        place = self._index.place(sha256)
        if place is None or place.row < 0:
            self._refresh()
            place = self._index.place(sha256)
        if place is None:
            raise StoreError(
                f"{self.path}: image {sha256} is not in the store; run `usam embed` first"
            )
        if place.row < 0:
            raise StoreError(
                f"{self.path}: image {sha256} was quarantined and has no embedding; leave it out"
            )
        return place
