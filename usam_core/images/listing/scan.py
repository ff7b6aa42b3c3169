"""Lists images by content, reading only files that changed since last time."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa

from usam_core.config.images import ImagesConfig
from usam_core.errors import TransientError
from usam_core.files.fsspec_io import FileInfo, is_url, join
from usam_core.images.listing.cache import (
    Packed,
    Remembered,
    Row,
    batch_of,
    read_remembered,
    to_frame,
    write_remembered,
)
from usam_core.images.listing.planes import expand
from usam_core.images.listing.remote import find_remote
from usam_core.images.listing.row import Looked, look_at
from usam_core.images.listing.walk import EVERY_FILE, Globs, find_files
from usam_core.progress import SILENT, Progress

COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "status", "code", "reason", "planes"]
"""`path` counts from the listed folder, with forward slashes; `sha256` is missing where the bytes
could not be read; `status` is "ok" or "quarantined", the latter with `code` and `reason`; `planes`
is the size of an image that is cut into tiles (`planes.large_size`), "" of others."""

OTHERS = "left out by ending"

_SAVE_EVERY = 2000
"""Files between two savings of the cache: a listing that is killed goes on from there."""
_BATCH = 32
_THREADS = 8  # reading waits for disks and networks; hashing lets go of the interpreter

_File = tuple[str, FileInfo | None]
"""A path as it is listed, and what the store told of it when it was found."""


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
    of its own. Every file is hashed and its header checked, its pixels are not decoded. Hidden
    files and folders are left out; linked folders are followed, each once.

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
    if is_url(root):
        found: Iterator[_File] = find_remote(config, root, globs, others)
    else:
        files = find_files(config, Path(root), leave_out, globs, others)
        found = ((name, None) for name in files)
    address = str(root)
    packed = Packed(found, _SAVE_EVERY)
    listed = _list(config, packed, lambda name: join(address, name), cache, progress)
    listed.attrs[OTHERS] = dict(others)
    return listed


def list_names(
    config: ImagesConfig,
    root: str,
    names: Sequence[str],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List the images that are named, in that order; as `list_images`, without looking for them.

    Args:
        config: the limit on pixels.
        root: folder or URL that the names count from.
        names: their paths from there.
        cache, progress: as for `list_images`.
    """
    files = Packed(((name, None) for name in names), _SAVE_EVERY)
    listed = _list(config, files, lambda name: join(root, name), cache, progress)
    # A stack and one of its planes may both be named.
    return listed.drop_duplicates("path", ignore_index=True)


def list_files(
    config: ImagesConfig,
    files: Sequence[tuple[str, str | Path]],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List files that lie anywhere; as `list_names`.

    Args:
        config: the limit on pixels.
        files: for each the path as it shall be listed, and its address.
        cache, progress: as for `list_images`.
    """
    addresses = dict(files)
    named = Packed(((name, None) for name, _ in files), _SAVE_EVERY)
    return _list(config, named, lambda name: addresses[name], cache, progress)


def _list(
    config: ImagesConfig,
    files: Packed[_File],
    address: Callable[[str], str | Path],
    cache: Path | None,
    progress: Progress,
) -> pd.DataFrame:
    known = read_remembered(cache)
    # In columns from here on: as Python objects a million images take two gigabytes.
    batches: list[pa.RecordBatch] = []
    listed = unsaved = 0
    failures: list[TransientError] = []
    with (
        progress.bar("Listing images", len(files)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-listing") as pool,
    ):
        for chunk in files.chunks():
            before = known.rows([name for name, _ in chunk])

            def look(some: Sequence[_File], before: dict[str, Row] = before) -> list[Looked]:
                return _look_at(some, address, before, config, failures)

            # Handing over costs more than looking at a file that has not changed.
            parts = (chunk[at : at + _BATCH] for at in range(0, len(chunk), _BATCH))
            rows: list[Row] = []
            for looked in pool.map(look, parts):
                rows += [row for row, _ in looked]
                unsaved += sum(is_new for _, is_new in looked)
                bar.advance(len(looked))
            if failures:
                done = {row.path for row in rows}
                rows += [row for row in before.values() if row.path not in done]
                _save(cache, known, batches, rows)
                raise failures[0]
            batches.append(batch_of(rows))
            listed += len(rows)
            # Ever rarer, for each saving writes all rows.
            if unsaved >= max(_SAVE_EVERY, listed // 4):
                _save(cache, known, batches)
                unsaved = 0
    if unsaved or listed != len(known):
        write_remembered(cache, batches)
    every = (part for batch in batches for part in expand(batch, config.projection))
    return to_frame(list(every), COLUMNS)


def _save(
    cache: Path | None,
    known: Remembered,
    batches: Sequence[pa.RecordBatch],
    rows: Sequence[Row] = (),
) -> None:
    """Remember what was listed by now, and what was known before and has not come yet."""
    last = [batch_of(rows)] if rows else []
    write_remembered(cache, [*known.left(), *batches, *last])


def _look_at(
    files: Sequence[_File],
    address: Callable[[str], str | Path],
    before: dict[str, Row],
    config: ImagesConfig,
    failures: list[TransientError],
) -> list[Looked]:
    """Look at some files, up to the first failure of the network, here or in another thread."""
    looked = []
    for name, told in files:
        if failures:
            break
        try:
            looked.append(look_at(name, address(name), told, before.get(name), config))
        except TransientError as error:
            failures.append(error)
    return looked
