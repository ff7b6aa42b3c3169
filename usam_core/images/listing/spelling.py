"""How other programs write the names of images: with backslashes, from the root, as `file://`."""

import os
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote

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
