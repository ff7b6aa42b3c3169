"""Files and folders that are either whole or not there: write beside, sync, then rename."""

import errno
import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError
from usam_core.files import faults
from usam_core.files.paths import remove

TEMPORARY_PREFIX = ".partial-"
LONGEST_NAME = 255
"""Bytes that file systems take for one name."""

_STALE_SECONDS = 3600.0
"""Where nothing can be locked: what nobody has touched for this long has no writer."""

_log = logging.getLogger(__name__)

_REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk refuses within the block into a sentence that names `path`.

    Raises:
        StoreError: the disk is full or does not let us write.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise StoreError(
                f"{error.filename or path}: {error.strerror}; expected to make {path}: move away "
                "what lies there, or choose a shorter path"
            ) from error
        missing = error.errno == errno.ENOENT and not path.parent.exists()
        if error.errno not in _REFUSALS and not missing:
            raise
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}. Free space or allow writing there, and "
            "run again: what was done is kept"
        ) from error


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    return path.parent / name


@contextmanager
def scratch_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, empty, that is gone after the block.

    It is locked meanwhile: that is how `sweep` knows what the living write.
    """
    path = _beside(Path(path))
    handle = _made_and_locked(path, Path.touch)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def whole_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one. On an error the temporary
    file is removed and `path` is left as it was.

    Args:
        path: the file.
        sync: wait until the disk has the bytes and the name. Off, for many small files whose
            digests are kept and compared, or that lie in a `whole_folder`, a power cut (not a
            kill) may leave an empty file.

    Raises:
        StoreError: the disk is full or does not let us write.
    """
    path = Path(path)
    with disk_errors(path), scratch_file(path) as temporary:
        yield temporary
        faults.at("half", path, temporary)
        if sync:
            sync_path(temporary)
        faults.at("rename", path)
        os.replace(temporary, path)
        if sync:
            sync_path(path.parent)
    faults.at("renamed", path)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds.

    `path` must not exist at the end of the block, or be what another writer made of the same
    content meanwhile: then that one stays and ours is dropped. Callers name folders by content.
    """
    path = Path(path)
    temporary = _beside(path)
    handle = _made_and_locked(temporary, Path.mkdir)
    try:
        yield temporary
        faults.at("half", path, temporary)
        sync_tree(temporary)
        faults.at("rename", path)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
        sync_path(path.parent)
        faults.at("renamed", path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def sweep(folder: Path, *, deep: bool = True) -> int:
    """Remove what killed writers left in a folder, never what a living one writes; say how many.

    Args:
        folder: the folder; it need not be there.
        deep: look through the folders in it too.
    """
    removed = 0
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return 0
    for entry in entries:
        if entry.name.startswith(TEMPORARY_PREFIX):
            removed += _sweep_one(Path(entry.path))
        elif deep and entry.is_dir(follow_symlinks=False):
            removed += sweep(Path(entry.path))
    return removed


def _sweep_one(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # renamed meanwhile: it has a living writer
    try:
        if not _is_left(path, handle):
            return False
        _log.info("removing %s, left by a writer that was killed", path)
        with suppress(OSError):  # what may only be read is as good with it
            remove(path.parent, path)
        return not os.path.lexists(path)
    finally:
        os.close(handle)


def _is_left(path: Path, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        pass  # NFS locks no folder in this way, and some file systems nothing
    try:
        newest = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
    except OSError:
        return False
    return newest < time.time() - _STALE_SECONDS


def _made_and_locked(path: Path, make: Callable[[Path], None]) -> int:
    """Make what will be written, and lock it for as long as it is open, or the process lives."""
    while True:
        make(path)
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            with suppress(OSError):
                # Shared: that can be had of a folder on NFS too.
                fcntl.flock(handle, fcntl.LOCK_SH)
            if path.exists():
                return handle
            os.close(handle)  # swept before it was locked


def sync_path(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # there are file systems that sync no folders
            raise
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Wait until the disk has a file, or a folder with all that is in it."""
    for part in [path, *path.rglob("*")]:
        if not part.is_symlink():
            sync_path(part)


def write_json(path: str | Path, value: Any, *, sync: bool = True) -> None:
    """Write `value` as indented JSON, whole or not at all; `sync` as for `whole_file`."""
    with whole_file(path, sync=sync) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
