"""Files and folders that are either whole or absent (write beside, sync, rename), and locks.

Whether that holds can be tried. `USAM_FAULT="half:3:*/masks/*.png" usam annotate project.yaml`
kills the process, with SIGKILL, when the third label PNG is half written. The moments are `half`;
`rename`, complete but under its temporary name; and `renamed`, in place, with nothing done after
it.
"""

import errno
import json
import logging
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from usam_core.errors import StoreError
from usam_core.files.paths import remove

try:
    import fcntl
except ImportError:  # Windows: what is open there cannot be renamed, so that nothing is held open
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

TEMPORARY_PREFIX = ".partial-"
LONGEST_NAME = 255
"""Bytes that file systems allow for one name."""
FAULT = "USAM_FAULT"
"""MOMENT:COUNT:PATTERN; the pattern is `fnmatch`'s, for the absolute path of what is written."""
FAULT_NOTE = "USAM_FAULT_NOTE"
"""File that records the write that was hit. If it exists nothing is killed: of a run's many
processes one is."""

_STALE_SECONDS = 3600.0
"""Where nothing can be locked: a file untouched for this long has no writer."""
_PATIENCE = 1.0
"""Seconds before a person is told what a lock waits for."""
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_BUSY_TRIES, _BUSY_WAIT = 20, 0.05
"""Windows refuses to replace a file that a reader or a virus scanner has open: times, seconds."""
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}

_log = logging.getLogger(__name__)
_fault_hits = 0


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a disk's refusal within the block into a sentence that names `path`.

    Raises:
        StoreError: the disk is full or read-only.
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


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file during the block; other processes wait, and are told for `what`.

    A process that ends frees it, however it ends; the file stays behind, empty.
    """
    # Not bound to this thread: a shard's writer may release what another thread took.
    held = FileLock(lock, thread_local=False)
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=_PATIENCE)
        except Timeout:
            _log.warning("%s: another run is at work on it; waiting", what)
            held.acquire()
    try:
        yield
    finally:
        held.release()


@contextmanager
def scratch_file(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`, locked against `sweep`, removed at the end."""
    path, held = _make_beside(Path(path), Path.touch)
    with held:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one. After an error `path` is as it
    was. Without `sync` a power cut (not a kill) may leave an empty file: for many small files whose
    digests are compared, or in a `whole_folder`.

    Raises:
        StoreError: the disk is full or read-only.
    """
    path = Path(path)
    with disk_errors(path), scratch_file(path) as temporary:
        yield temporary
        fault_point("half", path, temporary)
        if sync:
            sync_path(temporary)
        fault_point("rename", path)
        put_in_place(temporary, path)
        if sync:
            sync_path(path.parent)
    fault_point("renamed", path)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds.

    Folders are named by their content: if another writer has made `path` meanwhile, it stays and
    ours is dropped.
    """
    path = Path(path)
    temporary, held = _make_beside(path, Path.mkdir)
    with held:
        try:
            yield temporary
            fault_point("half", path, temporary)
            sync_tree(temporary)
            fault_point("rename", path)
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
            sync_path(path.parent)
            fault_point("renamed", path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(made: Path, path: Path) -> None:
    """Rename a file over another one; on Windows wait a moment for whoever reads that."""
    for left in reversed(range(_BUSY_TRIES)):
        try:
            os.replace(made, path)
            return
        except PermissionError:
            if os.name != "nt" or not left:
                raise
            time.sleep(_BUSY_WAIT)


def _make_beside(
    path: Path, make: Callable[[Path], None]
) -> tuple[Path, AbstractContextManager[None]]:
    """Make a temporary file or folder beside `path`; return it, and what keeps it locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    temporary = path.parent / name
    while True:
        make(temporary)
        if fcntl is None:
            return temporary, nullcontext()
        with suppress(FileNotFoundError):
            handle = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):
                # Shared: NFS grants that for a folder too.
                fcntl.flock(handle, fcntl.LOCK_SH)
            if temporary.exists():
                return temporary, _closing(handle)
            os.close(handle)  # swept before it was locked


@contextmanager
def _closing(handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(handle)


def sweep(folder: Path, *, deep: bool = True) -> int:
    """Remove what killed writers left in a folder, `deep` in its sub-folders too; return how many.

    What a living process writes stays, by its lock.
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
    if fcntl is None:
        return _is_stale(path) and _drop(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # renamed meanwhile: it has a living writer
    try:
        return _is_abandoned(path, handle) and _drop(path)
    finally:
        os.close(handle)


def _drop(path: Path) -> bool:
    _log.info("removing %s, left by a writer that was killed", path)
    with suppress(OSError):  # on a read-only disk it does no harm
        remove(path.parent, path)
    return not os.path.lexists(path)


def _is_abandoned(path: Path, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return _is_stale(path)  # NFS locks no folder in this way, and some file systems nothing


def _is_stale(path: Path) -> bool:
    try:
        newest = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
    except OSError:
        return False
    return newest < time.time() - _STALE_SECONDS


def sync_path(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    if os.name == "nt":
        if path.is_dir():
            return  # Windows opens no folder, and keeps names in a journal of its own
        handle = os.open(path, os.O_RDWR)  # it writes out only what may be written to
    else:
        handle = os.open(path, os.O_RDONLY)
    try:
        _sync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems sync no folders
            raise
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """Wait for the disk; on macOS for its own memory too, which fsync leaves out there."""
    whole = getattr(fcntl, "F_FULLFSYNC", None)
    if whole is not None:
        with suppress(OSError):  # a network folder may not know it
            fcntl.fcntl(handle, whole)
            return
    os.fsync(handle)


def sync_tree(path: Path) -> None:
    """Wait until the disk has a file, or a folder with everything in it."""
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


def fault_point(moment: str, target: Path, written: Path | None = None, since: int = 0) -> None:
    """Kill this process here if USAM_FAULT asks for it.

    Args:
        moment: `half`, `rename` or `renamed`.
        target: the file or folder that is written.
        written: at `half`, the file that is truncated to half; of a folder, its largest file.
        since: bytes that the file had before.
    """
    at, _, rest = os.environ.get(FAULT, "").partition(":")
    count, _, pattern = rest.partition(":")
    if moment != at or not fnmatchcase(str(target.absolute()), pattern):
        return
    global _fault_hits
    _fault_hits += 1
    if _fault_hits != int(count):
        return
    note: dict[str, Any] = {"pid": os.getpid(), "moment": moment, "target": str(target)}
    if written is not None:
        if written.is_dir():
            files = [file for file in written.rglob("*") if file.is_file()]
            written = max(files, key=lambda file: file.stat().st_size)
        size = written.stat().st_size
        note |= {"written": str(written), "bytes": size, "left": (since + size) // 2}
    if FAULT_NOTE in os.environ:
        try:
            handle = os.open(os.environ[FAULT_NOTE], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(handle, json.dumps(note).encode())
    if written is not None:
        os.truncate(written, note["left"])
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
