"""Finds the files below a local folder, in the order of their paths, one folder in memory."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from usam_core.config.images import NOT_READ, READ, ImagesConfig
from usam_core.errors import InputError
from usam_core.images.listing.content import ENDING
from usam_core.images.listing.globs import Globs

_log = logging.getLogger(__name__)

_IMAGES = frozenset({*READ, *NOT_READ})


def find_files(
    config: ImagesConfig,
    root: Path,
    leave_out: Collection[Path],
    globs: Globs,
    others: Counter[str],
) -> Iterator[str]:
    """Yield the path from `root` of every file that counts, sorted.

    Hidden files and folders are left out; linked folders are followed, each once. A folder that
    cannot be listed comes as if it were an image: its pictures must not be lost in silence.

    Args:
        config: which endings count, and whether to look into sub-folders.
        root: the folder.
        leave_out: folders that are not looked into.
        globs: which paths count.
        others: counts by its ending what else is an image, but is left out for that.

    Raises:
        InputError: `root` is no folder that can be read.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder of images, "
            f"{'found something else' if root.exists() else 'there is none'}. Correct the path"
        )
    try:
        os.listdir(root)
    except OSError as error:
        raise InputError(f"{root}: {error.strerror}; check its permissions") from error
    # As if they had been looked into already: links to them are left out too.
    seen = {identity for folder in leave_out if (identity := _identity(folder)) is not None}
    seen.discard(_identity(root))
    endings = tuple(ending.lower() for ending in config.extensions)
    left = ["/"]
    # A stack, not recursion: folders may lie deeper than Python calls.
    while left:
        name = left.pop()
        if not name.endswith("/"):
            yield name
            continue
        prefix = "" if name == "/" else name
        found = _entries(root, prefix, endings, config.recursive, seen, globs, others)
        # Folders sort with their slash, as the paths of their files do.
        left += sorted(found, reverse=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _entries(
    root: Path,
    prefix: str,
    endings: tuple[str, ...],
    recursive: bool,
    seen: set[tuple[int, int]],
    globs: Globs,
    others: Counter[str],
) -> list[str]:
    """Return what counts in one folder: files, and folders with a slash at their end."""
    found = []
    folder = os.path.join(root, prefix)
    try:
        status = os.stat(folder)
        # Links may lead in circles.
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() and is_store(entry.name, endings):
                    found += filter(globs.wants, _images_in(name, entry.path))
                elif entry.is_dir():
                    if recursive and globs.enters(name):
                        found.append(f"{name}/")
                elif entry.name.lower().endswith(endings):
                    found += [name] if globs.wants(name) else []
                elif (ending := image_ending(name)) and globs.wants(name):
                    others[ending] += 1
    except OSError as error:
        _log.warning("%s: %s", folder, error)
        return [prefix.rstrip("/")]
    return found


def image_ending(name: str) -> str:
    """Return the ending of a file that some program reads as an image; "" of others."""
    ending = os.path.splitext(name)[1].lower()
    return ending if ending in _IMAGES else ""


def is_store(name: str, endings: Sequence[str]) -> bool:
    """Return whether a folder of this name counts as a Zarr group or array."""
    counts = ENDING in (ending.lower() for ending in endings)
    return counts and name.lower().endswith(ENDING) and not name.rpartition("/")[2].startswith(".")


def _images_in(name: str, path: str) -> list[str]:
    """Return the images of a Zarr folder; itself if that cannot be read: then it has a verdict."""
    # Only who has such a folder pays for the import.
    from usam_core.images.stores.zarr_store import images_in

    try:
        inside = images_in(path)
    except Exception as error:  # the library raises anything on damaged metadata
        _log.warning("%s: %s", path, error)
        inside = []
    return [f"{name}/{image}" if image else name for image in inside or [""]]
