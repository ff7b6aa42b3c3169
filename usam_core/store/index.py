"""The indexes of all shards as one table, cheap to bring up to date.

The shards are the truth. Indexes that were read are kept in memory and in one cache file, shard by
shard under the size and time of the shard's index file; a known shard that is gone or differs is
dropped, so the cache can be deleted, damaged or out of date without harm.
"""

import hashlib
import io
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from usam_core.files.atomic import whole_file
from usam_core.files.parquet import read_table
from usam_core.store.layout import CACHE_FILE, INDEX_FILE, SHARDS, Damaged, shard_names
from usam_core.store.shard import INDEX_SCHEMA, OK, read_index

_log = logging.getLogger(__name__)

_STAMP = ("stamp_bytes", "stamp_mtime_ns")
_CACHE_SCHEMA = pa.schema(
    [*INDEX_SCHEMA, ("shard", pa.string()), *((name, pa.int64()) for name in _STAMP)]
)
_CACHE_WHEN_READ = 32
"""So many shards read from their own files make a new cache file worth its writing."""
_DIGITS = 16
"""Leading digits of an image's digest that `Arrivals` keeps: eight bytes."""
_DIGEST_BYTES = hashlib.sha256().digest_size

Stamp = tuple[int, int]
"""Size and time of a shard's index file, bytes and nanoseconds."""


class Place(NamedTuple):
    """Where an image lies: its shard, its row of the shard's `rows`, and its size in pixels."""

    shard: str
    row: int
    height: int
    width: int
    rows: int


class StoreIndex:
    """All shards' indexes of the store in a folder; shards of another fingerprint count as damaged.

    `damaged` are the shards whose index could not be read, with the reason.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.damaged: dict[str, str] = {}
        self._shards = folder / SHARDS
        self._cache = folder / CACHE_FILE
        self._fingerprint = fingerprint
        self._tables: dict[str, tuple[Stamp, pa.Table]] | None = None
        self._frame: pd.DataFrame | None = None
        self._places: dict[str, Place] | None = None

    def frame(self) -> pd.DataFrame:
        """One row an image (`INDEX_SCHEMA` plus `shard`), as of the last refresh.

        An image that lies in several shards counts once: where it is embedded rather than
        quarantined, then in the first shard by name. The table is shared: do not change it.
        """
        if self._tables is None:
            self.refresh()
        if self._frame is None:
            self._frame = _to_frame(self._tables or {})
        return self._frame

    def place(self, sha256: str) -> Place | None:
        """Where an image lies, as of the last refresh; row -1 if it is quarantined."""
        if self._places is None:
            frame = self.frame()
            rows = frame["shard"].map({name: self.rows(name) for name in self._tables or {}})
            columns = (frame[name].tolist() for name in ("shard", "row", "height", "width"))
            places = map(Place, *columns, rows.tolist())
            self._places = dict(zip(frame["sha256"].tolist(), places, strict=True))
        return self._places.get(sha256)

    def embedded(self, shas: Iterable[str]) -> dict[str, dict[int, str]]:
        """Which of the images are embedded, as of the last refresh: by shard and row."""
        images: dict[str, dict[int, str]] = {}
        for sha256 in shas:
            place = self.place(sha256)
            if place is not None and place.row >= 0:
                images.setdefault(place.shard, {})[place.row] = sha256
        return images

    def rows(self, shard: str) -> int:
        """Number of embedded images of a shard; 0 for one that is not known."""
        known = (self._tables or {}).get(shard)
        return 0 if known is None else pc.sum(pc.greater_equal(known[1]["row"], 0)).as_py()

    def refresh(self) -> bool:
        """Look at the folder again; return whether anything changed."""
        first = self._tables is None
        known = self._read_cache() if self._tables is None else self._tables
        stamps = {name: self._stamp(name) for name in shard_names(self._shards)}
        tables: dict[str, tuple[Stamp, pa.Table]] = {}
        damaged, count = {}, 0
        for name, stamp in stamps.items():
            if name in known and known[name][0] == stamp:
                tables[name] = known[name]
                continue
            try:
                table = read_index(self._shards / name, self._fingerprint)
            except Damaged as error:
                damaged[name] = str(error)
                if name not in self.damaged:
                    _log.warning("shard %s is left out: %s", name, error)
            else:
                count += 1
                if stamp is not None:
                    tables[name] = (stamp, table)
        changed = first or tables.keys() != known.keys() or count > 0
        self.damaged, self._tables = damaged, tables
        if changed:
            self._frame = self._places = None
        if count >= _CACHE_WHEN_READ:
            self._write_cache(tables)
        return changed

    def look_at(self, shard: str) -> None:
        """Bring one shard up to date; the others need not be looked at."""
        if self._tables is None:
            return  # the first refresh finds it
        stamp = self._stamp(shard)
        try:
            table = read_index(self._shards / shard, self._fingerprint)
        except Damaged:
            stamp = None
        if stamp is None:
            self.refresh()
            return
        self._tables = dict(sorted({**self._tables, shard: (stamp, table)}.items()))
        self.damaged.pop(shard, None)
        self._frame = self._places = None

    def _stamp(self, shard: str) -> Stamp | None:
        try:
            stat = os.stat(self._shards / shard / INDEX_FILE)
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def _read_cache(self) -> dict[str, tuple[Stamp, pa.Table]]:
        try:
            content = self._cache.read_bytes()
            digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(body).digest() != digest:
                raise ValueError("the bytes are not the ones that were written")
            table = read_table(body).cast(_CACHE_SCHEMA)
        except (OSError, ValueError, pa.ArrowException) as error:
            _log.debug("no index cache: %s", error)
            return {}
        names = table["shard"].to_numpy()
        starts: Any = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]) if len(names) else []
        rows = table.select(INDEX_SCHEMA.names)
        sizes, times = (table[field].to_numpy() for field in _STAMP)
        return {
            names[start]: ((int(sizes[start]), int(times[start])), rows.slice(start, end - start))
            for start, end in zip(starts, [*starts[1:], len(names)], strict=True)
        }

    def _write_cache(self, tables: dict[str, tuple[Stamp, pa.Table]]) -> None:
        parts = []
        for name, (stamp, table) in tables.items():
            for field, value in zip(("shard", *_STAMP), (name, *stamp), strict=True):
                table = table.append_column(field, pa.array([value] * len(table)))
            parts.append(table.cast(_CACHE_SCHEMA))
        body = io.BytesIO()
        pq.write_table(pa.concat_tables(parts).combine_chunks(), body)
        content = body.getvalue()
        try:
            with whole_file(self._cache) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
        except OSError as error:
            # A store on a read-only disk works without it.
            _log.debug("index cache not written: %s", error)


def _to_frame(tables: dict[str, tuple[Stamp, pa.Table]]) -> pd.DataFrame:
    parts = [table for _, table in tables.values()]
    frame = pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts]).to_pandas()
    names = np.repeat(np.array(list(tables), dtype=object), [len(table) for table in parts])
    frame["shard"] = pd.Series(names, index=frame.index, dtype=frame["sha256"].dtype)
    if frame["sha256"].is_unique:
        return frame
    worse = (frame["status"] != OK).sort_values(kind="stable").index
    kept = frame.loc[worse].drop_duplicates("sha256")
    return kept.sort_index().reset_index(drop=True)


class Arrivals:
    """The images of all shards as eight bytes each; a new shard's index is read once."""

    def __init__(self, index: StoreIndex, shards: Path) -> None:
        self._shards = shards
        self._seen = set(os.listdir(shards))
        index.refresh()
        self._images = np.sort(_numbers(index.frame()["sha256"]))

    def may_hold(self, shas: Iterable[str]) -> bool:
        """Whether the store has had one of the images, or one whose digest begins alike.

        False is certain; after True, ask the store itself.
        """
        for name in os.listdir(self._shards):
            if name not in self._seen and not name.startswith("."):
                self._add(name)
        wanted = _numbers(shas)
        places = np.searchsorted(self._images, wanted)
        inside = places < len(self._images)
        return bool((self._images[places[inside]] == wanted[inside]).any())

    def _add(self, name: str) -> None:
        self._seen.add(name)
        try:
            table = read_table(self._shards / name / INDEX_FILE, ["sha256"])
        except (OSError, pa.ArrowException):
            return  # damaged, or gone again: whoever reads the whole index deals with it
        arrived = np.sort(_numbers(table["sha256"].to_pylist()))
        self._images = np.insert(self._images, np.searchsorted(self._images, arrived), arrived)


def _numbers(shas: Iterable[str]) -> np.ndarray:
    return np.array([int(sha256[:_DIGITS], 16) for sha256 in shas], np.uint64)
