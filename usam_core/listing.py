"""Lists the images below a folder by content, reading only files that changed since last time."""

import logging
import os
import stat
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from usam_core.atomic import whole_file
from usam_core.config_images import ImagesConfig
from usam_core.digest import file_digest
from usam_core.errors import InputError
from usam_core.images import BadImage, check_image
from usam_core.progress import SILENT, Progress
from usam_core.stamps import SETTLED_NS

COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "status", "code", "reason"]
"""`path` counts from the listed folder, with forward slashes; `sha256` is missing where the bytes
could not be read; `status` is "ok" or "quarantined", the latter with `code` and `reason`."""

_log = logging.getLogger(__name__)

_SAVE_EVERY = 2000
"""Files between two savings of the cache: a listing that is killed goes on from there."""
_BATCH = 32
_THREADS = 8  # reading waits for disks and networks; hashing lets go of the interpreter
_SETTLED_NS = SETTLED_NS


class _Row(NamedTuple):
    """What is known of a file: `COLUMNS`, and what tells whether it still holds.

    A tuple, not a mapping: there may be millions.
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


_REPEATED = ("status", "code", "reason")
"""Columns that hold few different texts."""


def list_images(
    config: ImagesConfig,
    root: Path,
    cache: Path | None = None,
    progress: Progress = SILENT,
    leave_out: Collection[Path] = (),
) -> pd.DataFrame:
    """List the files below `root` that count as images, in the order of their paths.

    Every file is hashed and its header checked; that the pixels can be decoded is not checked.
    Hidden files and folders are left out; linked folders are followed, each once.

    Args:
        config: which endings count, whether to look into sub-folders, the limit on pixels.
        root: the folder.
        cache: parquet file that remembers digests; a file of unchanged size and times is not
            read again. None remembers nothing.
        progress: told of each file.
        leave_out: folders below `root` that are not looked into.

    Returns:
        One row a file, columns `COLUMNS`; no rows if there are no such files.

    Raises:
        InputError: `root` is no folder that can be read.
    """
    return list_files(config, _find(config, Path(root), leave_out), cache, progress)


def list_files(
    config: ImagesConfig,
    files: Sequence[tuple[str, str | Path]],
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """List the given files; as `list_images`, without looking for them.

    Args:
        config: the limit on pixels.
        files: for each the path as it shall be listed, and the path on disk.
        cache: as for `list_images`.
        progress: as for `list_images`.
    """
    known = _read_cache(cache)
    rows: list[_Row] = []
    with (
        progress.bar("Listing images", len(files)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-listing") as pool,
    ):

        def look(some: Sequence[tuple[str, str | Path]]) -> list[tuple[_Row, bool]]:
            return [_look(file, known, config.max_megapixels) for file in some]

        unsaved = 0
        for start in range(0, len(files), _SAVE_EVERY):
            these = files[start : start + _SAVE_EVERY]
            # Handing over costs more than looking at a file that has not changed.
            batches = (these[at : at + _BATCH] for at in range(0, len(these), _BATCH))
            for looked in pool.map(look, batches):
                rows += [row for row, _ in looked]
                unsaved += sum(is_new for _, is_new in looked)
                bar.advance(len(looked))
            # Ever rarer, for each saving writes all rows.
            if unsaved >= max(_SAVE_EVERY, len(rows) // 4):
                _write_cache(cache, [*known.values(), *rows])
                unsaved = 0
    if unsaved or len(rows) != len(known):
        _write_cache(cache, rows)
    return _frame(rows)[COLUMNS]


def _find(config: ImagesConfig, root: Path, leave_out: Collection[Path]) -> list[tuple[str, str]]:
    """Return (path as it is listed, path on disk) of every file that counts, sorted."""
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder of images, "
            f"{'found something else' if root.exists() else 'there is none'}. Correct the path"
        )
    try:
        os.listdir(root)
    except OSError as error:
        raise InputError(f"{root}: {error.strerror}; check its permissions") from error
    endings = tuple(ending.lower() for ending in config.extensions)
    # As if they had been looked into already: links to them are left out too.
    seen = {identity for folder in leave_out if (identity := _identity(folder)) is not None}
    seen.discard(_identity(root))
    return sorted(_walk(root, "", endings, config.recursive, seen))


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _walk(
    folder: Path, prefix: str, endings: tuple[str, ...], recursive: bool, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, str]]:
    try:
        found = os.stat(folder)
        # Links may lead in circles.
        if (found.st_dev, found.st_ino) in seen:
            return
        seen.add((found.st_dev, found.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        # Listed as if it were an image: its pictures must not be lost in silence.
        _log.warning("%s: %s", folder, error)
        yield prefix.rstrip("/"), str(folder)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if recursive:
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", endings, True, seen)
        elif entry.name.lower().endswith(endings):
            yield prefix + entry.name, entry.path


def _look(
    file: tuple[str, str | Path], known: dict[str, _Row], max_megapixels: float
) -> tuple[_Row, bool]:
    """Return a file's row, and whether it was not known already."""
    name, path = file
    before = known.get(name)
    seen_ns = time.time_ns()
    row = _Row(name, seen_ns=seen_ns, max_megapixels=max_megapixels)
    try:
        if not _is_unicode(name):
            row = row._replace(path=name.encode("utf-8", "replace").decode("utf-8"))
            raise BadImage("bad_name", f"{row.path}: the name is not valid Unicode; rename it")
        found = _stat(path)
        if before is not None and _is_unchanged(before, found, max_megapixels):
            return before, False
        row = row._replace(
            bytes=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns
        )
        row = row._replace(sha256=_digest(path, found))
        check_image(Path(path), max_megapixels)
    except BadImage as error:
        bad = error.quarantined
        reason = bad.reason.encode("utf-8", "replace").decode("utf-8")
        row = row._replace(status="quarantined", code=bad.code, reason=reason)
    return row, True


def _stat(path: str | Path) -> os.stat_result:
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise BadImage(
                "unreadable", f"{path}: the folder cannot be listed; check its permissions"
            )
        return found
    except FileNotFoundError as error:
        raise BadImage("missing", f"{path}: no such file, or a link that leads nowhere") from error
    except (OSError, ValueError) as error:  # a name may be too long, or hold a NUL
        raise BadImage("unreadable", f"{path}: {getattr(error, 'strerror', error)}") from error


def _digest(path: str | Path, found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return None
    try:
        return file_digest(path)
    except OSError as error:
        raise BadImage("unreadable", f"{path}: {error.strerror}; check its permissions") from error


def _is_unchanged(before: _Row, found: os.stat_result, max_megapixels: float) -> bool:
    return (
        before.mtime_ns == found.st_mtime_ns
        and before.ctime_ns == found.st_ctime_ns
        and before.bytes == found.st_size
        and before.max_megapixels == max_megapixels
        and before.sha256 is not None
        and max(before.mtime_ns, before.ctime_ns) < before.seen_ns - _SETTLED_NS
    )


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_cache(cache: Path | None) -> dict[str, _Row]:
    if cache is None or not cache.exists():
        return {}
    names = list(_Row._fields)
    try:
        table = pq.read_table(cache, columns=names, page_checksum_verification=True)
        columns = {name: table[name].to_numpy(zero_copy_only=False).tolist() for name in names}
    except Exception as error:  # parquet raises anything on damaged bytes; all can be read again
        _log.warning("%s: not readable, listing everything anew: %s", cache, error)
        return {}
    for name in _REPEATED:
        columns[name] = map(sys.intern, columns[name])
    return {row.path: row for row in map(_Row, *columns.values())}


def _write_cache(cache: Path | None, rows: Iterable[_Row]) -> None:
    if cache is None:
        return
    last = {row.path: row for row in rows}
    with whole_file(cache) as temporary:
        _frame(list(last.values())).to_parquet(temporary, index=False, write_page_checksum=True)


def _frame(rows: list[_Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=_Row._fields)
    numbers = ("bytes", "mtime_ns", "ctime_ns", "seen_ns")
    return frame.astype({**dict.fromkeys(numbers, "int64"), "max_megapixels": "float64"})
