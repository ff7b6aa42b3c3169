"""Lists images by content, reading only files that changed since the listing that is remembered."""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from usam_core.config.images import ImagesConfig
from usam_core.errors import TransientError
from usam_core.files.atomic import whole_file
from usam_core.files.fsspec_io import join
from usam_core.files.parquet import open_parquet
from usam_core.images.listing.row import SCHEMA, Row, batch_of, expand, look_at
from usam_core.images.listing.walk import EVERY_FILE, Found, Globs, find_images
from usam_core.progress import SILENT, Progress

_T = TypeVar("_T")

COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "status", "code", "reason", "planes"]
"""`path` counts from the listed folder, with forward slashes; `sha256` is missing where the bytes
could not be read; `status` is "ok" or "quarantined", the latter with `code` and `reason`; `planes`
is the size of an image that is cut into tiles (`row.large_size`), "" of others."""
OTHERS = "left out by ending"

_SAVE_EVERY = 2000
"""Files between two savings of the cache: a listing that is killed goes on from there."""
_BATCH = 32
_THREADS = 8  # reading waits for disks and networks; hashing lets go of the interpreter
_GROUP = 65_536
"""Rows of the cache that are unpacked together."""
_NO_ROWS = pa.RecordBatch.from_pylist([], SCHEMA)

_log = logging.getLogger(__name__)


def list_images(
    config: ImagesConfig,
    root: str | Path,
    cache: Path | None = None,
    progress: Progress = SILENT,
    leave_out: Collection[Path] = (),
    globs: Globs = EVERY_FILE,
) -> pd.DataFrame:
    """List the files below `root` that count as images, in the order of their paths.

    A file of several planes has a row for each, with its address (`ImageRef`) and a content key
    of its own. Every file is hashed and its header checked, its pixels are not decoded.

    Args:
        config: which endings count, whether to look into sub-folders, the limit on pixels.
        root: the folder, or a URL that fsspec opens.
        cache: parquet file that remembers digests; a file of unchanged size and times, or with
            the same mark of its store, is not read again. None remembers nothing.
        progress: told of each file.
        leave_out: folders below `root` that are not looked into.
        globs: which paths count.

    Returns:
        One row an image, columns `COLUMNS`; no rows if there are no such files. Its attribute
        `OTHERS` counts, by ending, images that do not count for theirs.

    Raises:
        InputError: `root` is no folder or store that can be read.
        TransientError: the network failed; what was listed until then is remembered.
    """
    others: Counter[str] = Counter()
    files = find_images(config, root, globs, others, leave_out)
    listed = _list(config, files, lambda name: join(str(root), name), cache, progress)
    listed.attrs[OTHERS] = dict(others)
    return listed


def list_names(
    config: ImagesConfig,
    root: str,
    names: Sequence[str],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List the named images, in that order; as `list_images`, without looking for them.

    `names` are paths that count from `root`, a folder or URL.
    """
    files = ((name, None) for name in names)
    listed = _list(config, files, lambda name: join(root, name), cache, progress)
    # A stack and one of its planes may both be named.
    return listed.drop_duplicates("path", ignore_index=True)


def list_files(
    config: ImagesConfig,
    files: Sequence[tuple[str, str | Path]],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List files that lie anywhere, each by its path in the list and its address; as
    `list_names`."""
    addresses = dict(files)
    names = ((name, None) for name, _ in files)
    return _list(config, names, lambda name: addresses[name], cache, progress)


def _list(
    config: ImagesConfig,
    found: Iterable[Found],
    address: Callable[[str], str | Path],
    cache: Path | None,
    progress: Progress,
) -> pd.DataFrame:
    files = _Packed(found, _SAVE_EVERY)
    known = read_remembered(cache)
    # In columns from here on: as Python objects a million images take two gigabytes.
    batches: list[pa.RecordBatch] = []
    listed = unsaved = 0
    failures: list[TransientError] = []

    def look(some: Sequence[Found], before: dict[str, Row]) -> list[tuple[Row, bool]]:
        """Look at some files, up to the first failure of the network in any thread."""
        looked = []
        for name, info in some:
            if failures:
                break
            try:
                looked.append(look_at(name, address(name), info, before.get(name), config))
            except TransientError as error:
                failures.append(error)
        return looked

    with (
        progress.bar("Listing images", len(files)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-listing") as pool,
    ):
        for chunk in files.chunks():
            before = known.rows([name for name, _ in chunk])
            # Handing over costs more than looking at a file that has not changed.
            parts = [chunk[at : at + _BATCH] for at in range(0, len(chunk), _BATCH)]
            rows: list[Row] = []
            for looked in pool.map(look, parts, [before] * len(parts)):
                rows += [row for row, _ in looked]
                unsaved += sum(is_new for _, is_new in looked)
                bar.advance(len(looked))
            if failures:
                done = {row.path for row in rows}
                rows += [row for row in before.values() if row.path not in done]
                last = [batch_of(rows)] if rows else []
                write_remembered(cache, [*known.left(), *batches, *last])
                raise failures[0]
            batches.append(batch_of(rows))
            listed += len(rows)
            # Ever rarer, for each saving writes all rows.
            if unsaved >= max(_SAVE_EVERY, listed // 4):
                write_remembered(cache, [*known.left(), *batches])
                unsaved = 0
    if unsaved or listed != len(known):
        write_remembered(cache, batches)
    every = [part for batch in batches for part in expand(batch, config.projection)]
    return pa.Table.from_batches(every, SCHEMA).select(COLUMNS).to_pandas(split_blocks=True)


class _Packed(Generic[_T]):
    """Values kept pickled, some thousand together: as Python objects they take several times that.

    >>> list(_Packed("abc", 2).chunks())
    [['a', 'b'], ['c']]
    """

    def __init__(self, values: Iterable[_T], size: int) -> None:
        self._chunks: list[bytes] = []
        self._length = 0
        remaining = iter(values)
        while chunk := list(islice(remaining, size)):
            self._chunks.append(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
            self._length += len(chunk)

    def __len__(self) -> int:
        return self._length

    def chunks(self) -> Iterator[list[_T]]:
        """Yield the values again, `size` at a time."""
        for chunk in self._chunks:
            yield pickle.loads(chunk)


class Remembered:
    """The rows of an earlier listing, found by their paths without a dictionary of them."""

    def __init__(self, batches: Iterable[pa.RecordBatch] = ()) -> None:
        self._batches = [batch for batch in batches if len(batch)]
        self._starts = np.cumsum([0, *map(len, self._batches)])
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
        self._given[places] = True
        wanted = set(paths)
        rows: dict[str, Row] = {}
        for number in np.unique(np.searchsorted(self._starts, places, "right") - 1):
            start, batch = self._starts[number], self._batches[number]
            inside = places[(places >= start) & (places < start + len(batch))] - start
            columns = batch.take(pa.array(inside)).columns
            for row in map(Row, *(column.to_pylist() for column in columns)):
                # Another path may have the same hash.
                if row.path in wanted:
                    rows[row.path] = row
            # Files mostly come in the order of the last time: what grows there, shrinks here.
            if self._given[start : start + len(batch)].all():
                self._batches[number] = _NO_ROWS
        return rows

    def left(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that nobody has asked for."""
        for batch, start in zip(self._batches, self._starts[:-1], strict=True):
            if len(batch):
                yield batch.filter(pa.array(~self._given[start : start + len(batch)]))


def _hashes(paths: Sequence[str]) -> np.ndarray:
    # Names that are not Unicode have a row, but none that could be remembered.
    clean = [path.encode("utf-8", "replace").decode("utf-8") for path in paths]
    return pd.util.hash_array(np.array(clean, dtype=object), categorize=False)


def read_remembered(cache: Path | None) -> Remembered:
    """Read what `write_remembered` wrote; a file that cannot be read counts as empty."""
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
