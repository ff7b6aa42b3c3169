"""Finds the images of a store that fsspec opens, in the order of their paths, folder by folder.

fsspec's own `find` holds all it has found, 1.4 kB an object of s3, and passes by folders that it
fails to list: images would be lost in silence.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from usam_core.config.images import ImagesConfig
from usam_core.errors import InputError
from usam_core.files.fsspec_io import FileInfo, file_system, info_of, join, try_again
from usam_core.images.errors import UnusableImage
from usam_core.images.listing.walk import Globs, image_ending, is_store

_log = logging.getLogger(__name__)

_Found = tuple[str, FileInfo | None]


def find_remote(
    config: ImagesConfig, root: str, globs: Globs, others: Counter[str]
) -> Iterator[_Found]:
    """Yield what counts below a URL, sorted: its path from there, and what is told of it.

    Nothing is told (None) where a listing has names alone, as a web server's index has.

    Args:
        config: which endings count, and whether to look into sub-folders.
        root: the URL.
        globs: which paths count.
        others: counts by its ending what else is an image, but is left out for that.

    Raises:
        InputError: there is nothing at the URL, or it must not be listed.
        TransientError: the network failed.
    """
    system, top = file_system(root)
    top = top.rstrip("/")
    # Listings are kept by some file systems, even of what has changed since.
    system.invalidate_cache()
    left: list[_Found] = [("/", None)]
    while left:
        name, told = left.pop()
        if not name.endswith("/"):
            yield name, told
            continue
        try:
            entries = _entries(system, root, top, "" if name == "/" else name)
        except FileNotFoundError as error:
            raise InputError(
                f"{root}: there is nothing at this address; correct images.path"
            ) from error
        except PermissionError as error:
            raise InputError(
                f"{root}: {error.strerror}; expected a store that may be listed: give its keys "
                "where its own library looks for them"
            ) from error
        left += sorted(_counted(entries, root, config, globs, others), reverse=True)


def _counted(
    entries: list[_Found], root: str, config: ImagesConfig, globs: Globs, others: Counter[str]
) -> Iterator[_Found]:
    for name, told in entries:
        if name.endswith("/") and is_store(name.rstrip("/"), config.extensions):
            for image in _images_in(name.rstrip("/"), root):
                if globs.wants(image):
                    yield image, None
        elif _counts(name, config, globs):
            yield name, told
        elif (ending := image_ending(name)) and _counts(name, config, globs, (ending,)):
            others[ending] += 1


def _images_in(name: str, root: str) -> list[str]:
    """Return the images of a Zarr group; itself if that cannot be read: then it has a verdict."""
    # Only who has one pays for the import.
    from usam_core.images.listing.remote_zarr import images_behind

    try:
        inside = images_behind(join(root, name))
    except UnusableImage as error:
        _log.warning("%s", error)
        inside = [""]
    return [f"{name}/{image}" if image else name for image in inside]


def _counts(
    name: str, config: ImagesConfig, globs: Globs, endings: Sequence[str] | None = None
) -> bool:
    """Return whether a file counts, or a folder is to be looked into."""
    folder = name.endswith("/")
    last = name.rstrip("/").rpartition("/")[2]
    if last.startswith(".") and last != "..":
        return False
    if folder:
        return config.recursive and globs.enters(name.rstrip("/"))
    wanted = tuple(ending.lower() for ending in endings or config.extensions)
    return name.lower().endswith(wanted) and globs.wants(name)


def _entries(system: Any, root: str, top: str, prefix: str) -> list[_Found]:
    """Return what lies in one folder by its path from the root; folders end with a slash."""
    folder = f"{top}/{prefix}"
    # Only a web server tells folders from files by the slash.
    asked = folder if "http" in system.protocol else folder.rstrip("/")
    listed = try_again(root, lambda: system.ls(asked, detail=True))
    system.invalidate_cache()
    found: dict[str, FileInfo | None] = {}
    for entry in listed:
        path = entry["name"].rstrip("/")
        # An index may link to anywhere, a prefix of s3 may be an object too.
        if not path.startswith(folder) or path == folder.rstrip("/"):
            continue
        name = path.removeprefix(f"{top}/")
        if entry["type"] == "directory":
            found[f"{name}/"] = None
        else:
            told = info_of(entry)
            found[name] = told if told.stamp else None
    return list(found.items())
