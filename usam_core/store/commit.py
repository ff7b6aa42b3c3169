"""Puts folders into a store and takes them out, each in one step; sweeps up after the killed."""

import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from usam_core.errors import StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX, sweep, whole_folder
from usam_core.files.paths import inside, remove
from usam_core.store.arrays import Damaged
from usam_core.store.layout import FEATURES, SHARDS

_log = logging.getLogger(__name__)


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


def sweep_store(folder: Path) -> int:
    """Remove what killed writers left in a store, never what a living one writes; say how many."""
    blocks = (folder / SHARDS).glob(f"[!.]*/{FEATURES}")
    places = [inside(folder, place.relative_to(folder).as_posix()) for place in blocks]
    return sum(sweep(place, deep=False) for place in (folder, folder / SHARDS, *places))


def _is_whole(check: Callable[[], None]) -> bool:
    try:
        check()
    except Damaged:
        return False
    return True
