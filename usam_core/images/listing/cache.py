"""What a listing knows of each file, kept in columns, and the parquet file that remembers it."""

import logging
import pickle
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from usam_core.files.atomic import whole_file
from usam_core.files.parquet import open_parquet

_T = TypeVar("_T")


class Packed(Generic[_T]):
    """Values kept pickled, some thousand together: as Python objects they take several times that.

    Args:
        values: the values, in their order; each is looked at once.
        size: how many are unpacked together.

    >>> list(Packed("abc", 2).chunks())
    [['a', 'b'], ['c']]
    """

    def __init__(self, values: Iterable[_T], size: int) -> None:
        self._chunks: list[bytes] = []
        self._length = 0
        left = iter(values)
        while chunk := list(islice(left, size)):
            self._chunks.append(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
            self._length += len(chunk)

    def __len__(self) -> int:
        return self._length

    def chunks(self) -> Iterator[list[_T]]:
        """Yield the values again, `size` at a time."""
        for chunk in self._chunks:
            yield pickle.loads(chunk)


_log = logging.getLogger(__name__)

_GROUP = 65_536
"""Rows of the file that are unpacked together."""


class Row(NamedTuple):
    """What is known of a file: what a listing says, and what tells whether it still holds.

    `planes` are those of a file that holds several or large ones (`images.listing.planes`), ""
    for one picture. `max_megapixels` and `tile` are the settings that the row was made with.
    """

    path: str
    sha256: str | None = None
    bytes: int = 0
    mtime_ns: int = 0
    status: str = "ok"
    code: str = ""
    reason: str = ""
    ctime_ns: int = 0
    seen_ns: int = 0
    max_megapixels: float = 0.0
    stamp: str = ""
    planes: str = ""
    tile: int = 0


SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),  # large ones become a table's columns uncopied
        ("sha256", pa.large_string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("status", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("ctime_ns", pa.int64()),
        ("seen_ns", pa.int64()),
        ("max_megapixels", pa.float64()),
        ("stamp", pa.string()),
        ("planes", pa.string()),
        ("tile", pa.int32()),
    ],
    metadata={"reading": "3"},
)
"""`reading` is raised when the same file gets another key, other planes or another verdict."""


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """Return rows as columns: a third of the memory and less."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def to_frame(batches: Sequence[pa.RecordBatch], columns: Sequence[str]) -> pd.DataFrame:
    """Return some columns of rows as a table."""
    return pa.Table.from_batches(batches, SCHEMA).select(columns).to_pandas(split_blocks=True)


class Remembered:
    """The rows of an earlier listing, found by their paths without a dictionary of them.

    Args:
        batches: the rows.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch] = ()) -> None:
        self._batches: list[pa.RecordBatch | None] = [batch for batch in batches if len(batch)]
        lengths = [len(batch) for batch in self._batches]
        self._starts = np.cumsum([0, *lengths])
        hashes = [_hashes(batch["path"].to_pylist()) for batch in self._batches]
        hashed = np.concatenate([*hashes, np.empty(0, np.uint64)])
        self._order = np.argsort(hashed)
        self._hashes = hashed[self._order]
        self._given = np.zeros(len(hashed), bool)

    def __len__(self) -> int:
        return len(self._hashes)

    def rows(self, paths: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those paths that are known; each can be had once."""
        hashes = _hashes(paths)
        first = np.searchsorted(self._hashes, hashes, "left")
        last = np.searchsorted(self._hashes, hashes, "right")
        spans = [self._order[a:b] for a, b in zip(first, last, strict=True) if a < b]
        places = np.unique(np.concatenate([np.empty(0, np.intp), *spans]))
        places = places[~self._given[places]]
        wanted = set(paths)
        found: dict[str, Row] = {}
        for number in np.unique(np.searchsorted(self._starts, places, "right") - 1):
            start = self._starts[number]
            batch = self._batches[number]
            inside = places[(places >= start) & (places < start + len(batch))]
            columns = batch.take(pa.array(inside - start)).columns
            for row in map(Row, *(column.to_pylist() for column in columns)):
                # Another path may have the same hash.
                if row.path in wanted:
                    found[row.path] = row
            self._given[inside] = True
            # Files mostly come in the order of the last time: what grows there, shrinks here.
            if self._given[start : start + len(batch)].all():
                self._batches[number] = None
        return found

    def left(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that nobody has asked for."""
        for batch, start in zip(self._batches, self._starts[:-1], strict=True):
            if batch is None:
                continue
            yield batch.filter(pa.array(~self._given[start : start + len(batch)]))


def read_remembered(cache: Path | None) -> Remembered:
    """Read what `write_remembered` wrote; of a file that cannot be read, nothing is remembered."""
    if cache is None or not cache.exists():
        return Remembered()
    try:
        with open_parquet(cache, verified=True) as file:
            if not file.schema_arrow.equals(SCHEMA, check_metadata=True):
                raise ValueError("it was written by another version")
            return Remembered(file.iter_batches(_GROUP, use_threads=False))
    except Exception as error:  # parquet raises anything on damaged bytes; all can be read again
        _log.warning("%s: not readable, listing everything anew: %s", cache, error)
        return Remembered()


def write_remembered(cache: Path | None, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows for the next listing, some at a time."""
    if cache is None:
        return
    waiting: list[pa.RecordBatch] = []
    with (
        whole_file(cache) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True) as writer,
    ):
        for batch in batches:
            waiting.append(batch)
            if sum(map(len, waiting)) >= _GROUP:
                writer.write_table(pa.Table.from_batches(waiting, SCHEMA), _GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, SCHEMA), _GROUP)


def _hashes(paths: Sequence[str]) -> np.ndarray:
    # Names that are not Unicode have a row, but none that could be remembered.
    clean = [path.encode("utf-8", "replace").decode("utf-8") for path in paths]
    return pd.util.hash_array(np.array(clean, dtype=object), categorize=False)
