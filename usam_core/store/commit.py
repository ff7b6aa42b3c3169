"""Puts folders into a store and takes them out, each in one step; sweeps up after the killed."""

import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX, sweep, whole_folder
from usam_core.files.paths import inside, remove
from usam_core.store.arrays import Damaged
from usam_core.store.layout import (
    FEATURES,
    GROUP_FILE,
    SHARDS,
    fingerprint,
    folder_name,
    read_group,
    write_group,
)

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


def make_store(root: Path, spec: dict[str, Any]) -> Path:
    """Make the folder of a store below `root` unless it is there, and return it.

    What killed writers left behind is removed.
    """
    path = Path(root) / folder_name(spec)
    (path / SHARDS).mkdir(parents=True, exist_ok=True)
    for folder, attributes in (
        (path / SHARDS, {}),
        (path, {"fingerprint": fingerprint(spec), "spec": spec}),
    ):
        try:
            read_group(folder)
        except StoreError as error:
            # The folder's name is the digest of the spec, so that nothing is lost by writing it.
            if (folder / GROUP_FILE).exists():
                _log.warning("writing the store's metadata again: %s", error)
            if (folder / GROUP_FILE).is_dir():
                remove_folder(folder / GROUP_FILE)
            write_group(folder, **attributes)
    sweep_store(path)
    return path


def stored_spec(path: Path) -> dict[str, Any]:
    """Return what the embeddings of the store in a folder depend on.

    Raises:
        FileNotFoundError: there is no store.
        StoreError: it is damaged or of another kind.
    """
    # Without its metadata it was killed while it was made, and holds nothing yet.
    if not ((path / SHARDS).is_dir() and (path / GROUP_FILE).exists()):
        raise FileNotFoundError(
            f"{path}: no embedding store; expected {GROUP_FILE!r} and a folder {SHARDS!r}"
        )
    spec = read_group(path)["spec"]
    if folder_name(spec) != path.name:
        raise StoreError(
            f"{path}: the store says it is {folder_name(spec)!r}; expected the folder to "
            "have that name. Rename it back"
        )
    return spec
