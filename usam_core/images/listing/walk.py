"""Finds the files below a local folder that count, in the order of their paths."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pathspec import GitIgnoreSpec

from usam_core.config.images import NOT_READ, READ, ImagesConfig
from usam_core.errors import InputError
from usam_core.images.listing.content import ENDING

_FILE = "file://"


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
    """Return a path as it is, and a `file://` URL as the path that it means."""
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
