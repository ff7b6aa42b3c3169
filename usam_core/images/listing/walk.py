"""Finds the files below a folder or a URL that count as images, in the order of their paths.

fsspec's own `find` holds all it has found, 1.4 kB an object of s3, and passes over folders that it
fails to list: images would be lost in silence. So each folder is listed by itself.
"""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from pathspec import GitIgnoreSpec

from usam_core.config.images import NOT_READ, READ, ImagesConfig
from usam_core.errors import InputError
from usam_core.files.fsspec_io import FileInfo, file_system, info_of, is_url, join, try_again
from usam_core.images.errors import UnusableImage
from usam_core.images.listing.content import ENDING

Found = tuple[str, FileInfo | None]
"""A path from the root, and its store's metadata if a listing had them; folders end with `/`."""

_FILE = "file://"
_IMAGES = frozenset({*READ, *NOT_READ})

_log = logging.getLogger(__name__)


def plain_path(text: str) -> str:
    r"""Return a path as names of images are compared: composed, with slashes, without a scheme.

    >>> plain_path(" images\\sub\\a.jpg "), plain_path("file:///lab/a%20b.jpg"), plain_path("./a")
    ('images/sub/a.jpg', '/lab/a b.jpg', 'a')
    """
    text = local_path(unicodedata.normalize("NFC", text.strip()))
    return PurePosixPath(text.replace("\\", "/")).as_posix()


def below(text: str, root: str) -> str | None:
    """Return a whole path or URL as it counts from `root`, a folder or URL; None if not below it.

    >>> below("file:///lab/im%20g/a.jpg", "/lab/im g"), below("/other/a.jpg", "/lab")
    ('a.jpg', None)
    """
    whole = PurePosixPath(local_path(text))
    folder = local_path(root)
    for known in (root, folder, os.path.abspath(folder), os.path.realpath(folder)):
        if whole.is_relative_to(known):
            return whole.relative_to(known).as_posix()
    return None


def with_slashes(text: str, folder: str) -> str:
    """Return a path with slashes for backslashes, unless a file of that very name lies there."""
    if "\\" not in text or "\0" in text or os.path.lexists(os.path.join(folder, text)):
        return text
    return text.replace("\\", "/")


def local_path(text: str) -> str:
    """Return the path that a `file://` URL means; a path stays as it is."""
    if not text.lower().startswith(_FILE):
        return text
    path = unquote(text[len(_FILE) :])
    return path.removeprefix("localhost") if path.startswith("localhost/") else path


class Globs:
    """Patterns that say which paths are wanted.

    Args:
        include: a path counts if these select it; None lets every path count.
        exclude: a path that these select does not count, nor does what lies in such a folder.

    Raises:
        ValueError: a pattern cannot be read.

    >>> Globs(["plates/**/*.tif"], ["*_thumb.*"]).wants("plates/a/b/w1.tif")
    True
    """

    def __init__(self, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        self._include = None if include is None else GitIgnoreSpec.from_lines(include)
        self._exclude = GitIgnoreSpec.from_lines(exclude) if exclude else None

    def wants(self, path: str) -> bool:
        """Return whether a file counts; `path` counts from the images' folder, with `/`."""
        if self._exclude is not None and self._exclude.match_file(path):
            return False
        return self._include is None or self._include.match_file(path)

    def enters(self, folder: str) -> bool:
        """Return whether anything in a folder may count, so that it has to be looked into."""
        return self._exclude is None or not self._exclude.match_file(f"{folder}/")


EVERY_FILE = Globs()


def find_images(
    config: ImagesConfig,
    root: str | Path,
    globs: Globs,
    others: Counter[str],
    leave_out: Collection[Path] = (),
) -> Iterator[Found]:
    """Yield every file that counts, sorted: its path from `root`, and its store's metadata.

    Hidden files and folders are left out; linked folders are followed, each once. A local folder
    that cannot be listed comes as if it were an image: its pictures must not be lost in silence.

    Args:
        config: which endings count, and whether to look into sub-folders.
        root: the folder or URL.
        globs: which paths count.
        others: counts by its ending what else is an image, but is left out for that.
        leave_out: local folders that are not looked into.

    Raises:
        InputError: `root` is no folder or store that can be read.
        TransientError: the network failed.
    """
    if is_url(root):
        list_folder, images_in = _remote_lister(root), _remote_images
    else:
        list_folder, images_in = _local_lister(Path(root), leave_out), _local_images
    endings = tuple(ending.lower() for ending in config.extensions)

    def counted(entries: Sequence[Found]) -> Iterator[Found]:
        for name, info in entries:
            path = name.rstrip("/")
            last = path.rpartition("/")[2]
            if last.startswith(".") and last != "..":
                continue
            if name.endswith("/"):
                if ENDING in endings and last.lower().endswith(ENDING):
                    for image in images_in(join(str(root), path)):
                        address = f"{path}/{image}" if image else path
                        if globs.wants(address):
                            yield address, None
                elif config.recursive and globs.enters(path):
                    yield name, None
            elif name.lower().endswith(endings):
                if globs.wants(name):
                    yield name, info
            elif (ending := os.path.splitext(name)[1].lower()) in _IMAGES and globs.wants(name):
                others[ending] += 1

    remaining: list[Found] = [("/", None)]
    # A stack, not recursion: folders may lie deeper than Python calls.
    while remaining:
        name, info = remaining.pop()
        if not name.endswith("/"):
            yield name, info
            continue
        prefix = "" if name == "/" else name
        entries = list_folder(prefix)
        if entries is None:
            yield prefix.rstrip("/"), None
            continue
        # Folders sort with their slash, as the paths of their files do.
        remaining += sorted(counted(entries), reverse=True)


_Lister = Callable[[str], list[Found] | None]
"""Lists a folder by its path from the root; None if that fails."""


def _local_lister(root: Path, leave_out: Collection[Path]) -> _Lister:
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
    seen = {_identity(folder) for folder in leave_out} - {None, _identity(root)}

    def list_folder(prefix: str) -> list[Found] | None:
        folder = os.path.join(root, prefix)
        try:
            status = os.stat(folder)
            # Links may lead in circles.
            if (status.st_dev, status.st_ino) in seen:
                return []
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                return [(f"{prefix}{e.name}{'/' if e.is_dir() else ''}", None) for e in entries]
        except OSError as error:
            _log.warning("%s: %s", folder, error)
            return None

    return list_folder


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _local_images(folder: str) -> list[str]:
    """Return the images of a Zarr folder; "", itself, if it cannot be read."""
    # Only who has such a folder pays for the import.
    from usam_core.images.stores.zarr_store import images_in

    try:
        return images_in(folder) or [""]
    except Exception as error:  # the library raises anything on damaged metadata
        _log.warning("%s: %s", folder, error)
        return [""]


def _remote_lister(root: str) -> _Lister:
    system, top = file_system(root)
    top = top.rstrip("/")
    # Listings are kept by some file systems, even of what has changed since.
    system.invalidate_cache()

    def list_folder(prefix: str) -> list[Found]:
        folder = f"{top}/{prefix}"
        # Only a web server tells folders from files by the slash.
        asked = folder if "http" in system.protocol else folder.rstrip("/")
        try:
            entries: list[dict[str, Any]] = try_again(root, lambda: system.ls(asked, detail=True))
        except FileNotFoundError as error:
            raise InputError(
                f"{root}: there is nothing at this address; correct images.path"
            ) from error
        except PermissionError as error:
            raise InputError(
                f"{root}: {error.strerror}; expected a store that may be listed: give its keys "
                "where its own library looks for them"
            ) from error
        system.invalidate_cache()
        listed: dict[str, FileInfo | None] = {}
        for entry in entries:
            path = entry["name"].rstrip("/")
            # An index may link to anywhere, a prefix of s3 may be an object too.
            if not path.startswith(folder) or path == folder.rstrip("/"):
                continue
            name = path.removeprefix(f"{top}/")
            if entry["type"] == "directory":
                listed[f"{name}/"] = None
            else:
                info = info_of(entry)
                listed[name] = info if info.stamp else None
        return list(listed.items())

    return list_folder


def _remote_images(folder: str) -> list[str]:
    """As `_local_images`, of a Zarr group behind a URL."""
    from usam_core.images.listing.remote_zarr import images_behind

    try:
        return images_behind(folder)
    except UnusableImage as error:
        _log.warning("%s", error)
        return [""]
