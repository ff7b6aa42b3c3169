"""The indexes of all shards as one table, cheap to bring up to date.

The shards are the truth. What was read of them is remembered in memory and in one cache file,
shard by shard under the size and time of the shard's index file; a remembered shard that is gone
or differs is dropped, so the cache can be deleted, damaged or out of date without harm.
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
from usam_core.store.arrays import Damaged
from usam_core.store.layout import CACHE_FILE, INDEX_FILE, SHARDS
from usam_core.store.shard import INDEX_SCHEMA, OK, read_index

_log = logging.getLogger(__name__)

_STAMP = ("stamp_bytes", "stamp_mtime_ns")
_CACHE_SCHEMA = INDEX_SCHEMA.append(pa.field("shard", pa.string()))
for _name in _STAMP:
    _CACHE_SCHEMA = _CACHE_SCHEMA.append(pa.field(_name, pa.int64()))
_CACHE_WHEN_READ = 32
"""So many shards read from their own files make a new cache file worth its writing."""

_DIGEST_BYTES = hashlib.sha256().digest_size

Stamp = tuple[int, int]


class Place(NamedTuple):
    """Where an image lies: its shard, its row of the shard's `rows`, and its size in pixels."""

    shard: str
    row: int
    height: int
    width: int
    rows: int


class StoreIndex:
    """All shards' indexes of one store.

    Args:
        folder: the store's folder.
        fingerprint: the store's; shards of another encoder count as damaged.

    Attributes:
        damaged: shards whose index could not be read, with the reason.
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
        """Return one row an image (`INDEX_SCHEMA` plus `shard`), as of the last refresh.

        An image that lies in several shards counts once: where it is embedded rather than
        quarantined, then in the first shard by name. The table is shared: do not change it.
        """
        if self._tables is None:
            self.refresh()
        if self._frame is None:
            self._frame = _to_frame(self._tables or {})
        return self._frame

    def place(self, sha256: str) -> Place | None:
        """Return where an image lies, as of the last refresh; row -1 if it is quarantined."""
        if self._places is None:
            frame = self.frame()
            rows = frame["shard"].map({name: self.rows(name) for name in self.names()})
            columns = (frame[name].tolist() for name in ("shard", "row", "height", "width"))
            places = map(Place, *columns, rows.tolist())
            self._places = dict(zip(frame["sha256"].tolist(), places, strict=True))
        return self._places.get(sha256)

    def embedded(self, shas: Iterable[str]) -> dict[str, dict[int, str]]:
        """Return which of the images are embedded, as of the last refresh: by shard and row."""
        found: dict[str, dict[int, str]] = {}
        for sha256 in shas:
            place = self.place(sha256)
            if place is not None and place.row >= 0:
                found.setdefault(place.shard, {})[place.row] = sha256
        return found

    def names(self) -> list[str]:
        """Return the ids of the shards whose index was read."""
        return list(self._tables or {})

    def rows(self, shard: str) -> int:
        """Return how many images of a shard are embedded; 0 for one that is not known."""
        known = (self._tables or {}).get(shard)
        return 0 if known is None else pc.sum(pc.greater_equal(known[1]["row"], 0)).as_py()

    def refresh(self) -> bool:
        """Look at the folder again; return whether anything changed."""
        first = self._tables is None
        known = self._read_cache() if self._tables is None else self._tables
        stamps = self._stamps()
        tables = {
            name: known[name]
            for name, stamp in stamps.items()
            if name in known and known[name][0] == stamp
        }
        fresh = [name for name in stamps if name not in tables]
        damaged = {}
        for name in fresh:
            try:
                table = read_index(self._shards / name, self._fingerprint)
            except Damaged as error:
                damaged[name] = str(error)
                if name not in self.damaged:
                    _log.warning("shard %s is left out: %s", name, error)
            else:
                stamp = stamps[name]
                if stamp is not None:  # what is missing was not read
                    tables[name] = (stamp, table)
        changed = first or tables.keys() != known.keys() or len(fresh) > len(damaged)
        self.damaged = damaged
        self._tables = {name: tables[name] for name in stamps if name in tables}
        if changed:
            self._frame = self._places = None
        if len(fresh) - len(damaged) >= _CACHE_WHEN_READ:
            self._write_cache()
        return changed

    def look_at(self, shard: str) -> None:
        """Bring one shard up to date; the others need not be looked at."""
        if self._tables is None:
            return  # the first refresh finds it
        try:
            found = os.stat(self._shards / shard / INDEX_FILE)
            table = read_index(self._shards / shard, self._fingerprint)
        except (OSError, Damaged):
            self.refresh()
            return
        self._tables[shard] = ((found.st_size, found.st_mtime_ns), table)
        self._tables = dict(sorted(self._tables.items()))
        self.damaged.pop(shard, None)
        self._frame = self._places = None

    def _stamps(self) -> dict[str, Stamp | None]:
        """Return size and time of every shard's index file, by name; None where it is missing."""
        stamps: dict[str, Stamp | None] = {}
        for name in shard_names(self._shards):
            try:
                found = os.stat(self._shards / name / INDEX_FILE)
            except OSError:
                stamps[name] = None
            else:
                stamps[name] = (found.st_size, found.st_mtime_ns)
        return stamps

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
        return _by_shard(table)

    def _write_cache(self) -> None:
        parts = [_cache_part(name, *known) for name, known in (self._tables or {}).items()]
        body = io.BytesIO()
        pq.write_table(pa.concat_tables(parts).combine_chunks(), body)
        content = body.getvalue()
        try:
            with whole_file(self._cache) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
        except OSError as error:
            # A store on a read-only disk is as good without it.
            _log.debug("index cache not written: %s", error)


def shard_names(shards: Path) -> list[str]:
    """Return the ids of the shards in a folder, sorted; those being written are left out."""
    with os.scandir(shards) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _to_frame(tables: dict[str, tuple[Stamp, pa.Table]]) -> pd.DataFrame:
    parts = [table for _, table in tables.values()] or [INDEX_SCHEMA.empty_table()]
    frame = pa.concat_tables(parts).to_pandas()
    lengths = [len(table) for _, table in tables.values()]
    names = np.repeat(np.array(list(tables), dtype=object), lengths)
    frame["shard"] = pd.Series(names, index=frame.index, dtype=frame["sha256"].dtype)
    if frame["sha256"].is_unique:
        return frame
    worse = (frame["status"] != OK).sort_values(kind="stable").index
    kept = frame.loc[worse].drop_duplicates("sha256")
    return kept.sort_index().reset_index(drop=True)


def _cache_part(name: str, stamp: Stamp, table: pa.Table) -> pa.Table:
    columns = [pa.array([value] * len(table)) for value in (name, *stamp)]
    for field, column in zip(("shard", *_STAMP), columns, strict=True):
        table = table.append_column(field, column)
    return table.cast(_CACHE_SCHEMA)


def _by_shard(table: pa.Table) -> dict[str, tuple[Stamp, pa.Table]]:
    names = table["shard"].to_numpy()
    starts: Any = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]) if len(names) else []
    ends = [*starts[1:], len(names)]
    rows = table.select(INDEX_SCHEMA.names)
    bytes_, mtimes = (table[field].to_numpy() for field in _STAMP)
    return {
        names[start]: ((int(bytes_[start]), int(mtimes[start])), rows.slice(start, end - start))
        for start, end in zip(starts, ends, strict=True)
    }
