"""Puts folders into a store and takes them out, each in one step; sweeps up after the killed."""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from usam_core.atomic import TEMPORARY_PREFIX, whole_folder
from usam_core.errors import StoreError
from usam_core.paths import remove
from usam_core.store.arrays import Damaged
from usam_core.store.layout import FEATURES, SHARDS

_log = logging.getLogger(__name__)

STALE_SECONDS = 3600.0
"""A writer touches its folder every few seconds; one untouched for this long has no writer."""


def commit(folder: Path, fill: Callable[[Path], None], check: Callable[[], None]) -> None:
    """Write a folder whole or not at all; keep the one that is there unless it is damaged.

    Args:
        folder: named by its content, so that two writers of one name write the same.
        fill: writes everything into the empty folder that it is given.
        check: raises `Damaged` if what is at `folder` is not whole.

    Raises:
        StoreError: the disk is full or does not let us write.
    """
    if folder.is_dir() and _is_whole(check):
        return
    try:
        with whole_folder(folder) as temporary:
            fill(temporary)
            if folder.is_dir() and not _is_whole(check):
                _log.warning("%s is damaged: writing it again", folder)
                remove_folder(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written: {error.strerror or error}; free disk space or check the "
            "permissions, then run again"
        ) from error


def remove_folder(path: Path) -> None:
    """Remove a folder so that no reader ever sees half of it: rename first, then delete."""
    going = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        path.rename(going)
    except FileNotFoundError:
        return  # another process was quicker
    with suppress(OSError):
        remove(going.parent, going)


def sweep(folder: Path, stale_seconds: float = STALE_SECONDS) -> int:
    """Remove what killed writers left in a store, never what a living one writes; say how many.

    Args:
        folder: the store's folder.
        stale_seconds: how long nothing in them may have changed.
    """
    pattern = f"{TEMPORARY_PREFIX}*"
    places = (pattern, f"{SHARDS}/{pattern}", f"{SHARDS}/*/{FEATURES}/{pattern}")
    oldest = time.time() - stale_seconds
    removed = 0
    for path in [found for place in places for found in folder.glob(place)]:
        if _last_change(path) < oldest:
            _log.info("removing %s, left by a writer that was killed", path)
            with suppress(OSError):  # another process sweeps too
                remove(folder, path)
            removed += 1
    return removed


def _is_whole(check: Callable[[], None]) -> bool:
    try:
        check()
    except Damaged:
        return False
    return True


def _last_change(path: Path) -> float:
    times = []
    for part in (path, *path.rglob("*")):
        try:
            times.append(part.lstat().st_mtime)
        except OSError:  # renamed meanwhile: it has a living writer
            return time.time()
    return max(times)
