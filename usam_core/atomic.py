"""Files and folders that are either whole or not there: write beside, sync, then rename."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError

TEMPORARY_PREFIX = ".partial-"
LONGEST_NAME = 255
"""Bytes that file systems take for one name."""


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
        if error.errno not in _REFUSALS:
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
def whole_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one. On an error the temporary
    file is removed and `path` is left as it was.

    Args:
        path: the file.
        sync: wait until the disk has the bytes. Off, for many small files whose digests are kept
            and compared, a power cut (not a kill) may leave an empty file.

    Raises:
        StoreError: the disk is full or does not let us write.
    """
    path = Path(path)
    with disk_errors(path):
        temporary = _beside(path)
        try:
            yield temporary
            if sync:
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds.

    `path` must not exist at the end of the block, or be what another writer made of the same
    content meanwhile: then that one stays and ours is dropped. Callers name folders by content.
    """
    path = Path(path)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
