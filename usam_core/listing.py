"""Lists the images below a folder by content, reading only files that changed since last time."""

import logging
import os
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from usam_core.atomic import whole_file
from usam_core.config import ImagesConfig
from usam_core.digest import file_digest
from usam_core.errors import InputError
from usam_core.images import BadImage, check_image
from usam_core.progress import SILENT, Progress

COLUMNS = ["path", "sha256", "bytes", "mtime_ns", "status", "code", "reason"]
"""`path` counts from the listed folder, with forward slashes; `sha256` is missing where the bytes
could not be read; `status` is "ok" or "quarantined", the latter with `code` and `reason`."""

_log = logging.getLogger(__name__)

_CACHE_COLUMNS = [*COLUMNS, "ctime_ns", "seen_ns", "max_megapixels"]
_SAVE_EVERY = 2000
"""Files between two savings of the cache: a listing that is killed goes on from there."""
_THREADS = 8  # reading waits for disks and networks; hashing lets go of the interpreter
_SETTLED_NS = 2_000_000_000
"""A file changed this shortly before it was read may change again without its time moving: some
file systems count in steps of two seconds."""


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
    files: Sequence[tuple[str, Path]],
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
    rows: list[dict] = []
    with (
        progress.bar("Listing images", len(files)) as bar,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-listing") as pool,
    ):

        def look(file: tuple[str, Path]) -> tuple[dict, bool]:
            return _look(file, known, config.max_megapixels)

        unsaved = 0
        for start in range(0, len(files), _SAVE_EVERY):
            for row, is_new in pool.map(look, files[start : start + _SAVE_EVERY]):
                rows.append(row)
                unsaved += is_new
                bar.advance()
            if unsaved >= _SAVE_EVERY:
                _write_cache(cache, [*known.values(), *rows])
                unsaved = 0
    if unsaved or len(rows) != len(known):
        _write_cache(cache, rows)
    return _frame(rows, COLUMNS)


def _find(config: ImagesConfig, root: Path, leave_out: Collection[Path]) -> list[tuple[str, Path]]:
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
) -> Iterator[tuple[str, Path]]:
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
        yield prefix.rstrip("/"), folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if recursive:
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", endings, True, seen)
        elif entry.name.lower().endswith(endings):
            yield prefix + entry.name, folder / entry.name


def _look(
    file: tuple[str, Path], known: dict[str, dict], max_megapixels: float
) -> tuple[dict, bool]:
    """Return a file's row, and whether it was not known already."""
    name, path = file
    seen_ns = time.time_ns()
    row = {
        "path": name,
        "sha256": None,
        "bytes": 0,
        "mtime_ns": 0,
        "status": "ok",
        "code": "",
        "reason": "",
        "ctime_ns": 0,
        "seen_ns": seen_ns,
        "max_megapixels": max_megapixels,
    }
    try:
        if not _is_unicode(name):
            row["path"] = name.encode("utf-8", "replace").decode("utf-8")
            raise BadImage("bad_name", f"{row['path']}: the name is not valid Unicode; rename it")
        found = _stat(path)
        row |= {
            "bytes": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "ctime_ns": found.st_ctime_ns,
        }
        before = known.get(name)
        if before is not None and _is_unchanged(before, row):
            return before, False
        row["sha256"] = _digest(path, found)
        check_image(path, max_megapixels)
    except BadImage as error:
        row |= {
            "status": "quarantined",
            "code": error.quarantined.code,
            "reason": error.quarantined.reason.encode("utf-8", "replace").decode("utf-8"),
        }
    return row, True


def _stat(path: Path) -> os.stat_result:
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


def _digest(path: Path, found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return None
    try:
        return file_digest(path)
    except OSError as error:
        raise BadImage("unreadable", f"{path}: {error.strerror}; check its permissions") from error


def _is_unchanged(before: dict, now: dict) -> bool:
    same = ("bytes", "mtime_ns", "ctime_ns", "max_megapixels")
    settled = max(before["mtime_ns"], before["ctime_ns"]) < before["seen_ns"] - _SETTLED_NS
    readable = isinstance(before["sha256"], str)
    return settled and readable and all(before[name] == now[name] for name in same)


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_cache(cache: Path | None) -> dict[str, dict]:
    if cache is None or not cache.exists():
        return {}
    try:
        table = pd.read_parquet(cache, columns=_CACHE_COLUMNS, page_checksum_verification=True)
    except Exception as error:  # parquet raises anything on damaged bytes; all can be read again
        _log.warning("%s: not readable, listing everything anew: %s", cache, error)
        return {}
    return {row["path"]: row for row in table.to_dict("records")}


def _write_cache(cache: Path | None, rows: list[dict]) -> None:
    if cache is None:
        return
    last = {row["path"]: row for row in rows}
    with whole_file(cache) as temporary:
        _frame(list(last.values()), _CACHE_COLUMNS).to_parquet(
            temporary, index=False, write_page_checksum=True
        )


def _frame(rows: list[dict], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns)
    numbers = [name for name in columns if name in ("bytes", "mtime_ns", "ctime_ns", "seen_ns")]
    return frame.astype(dict.fromkeys(numbers, "int64"))
