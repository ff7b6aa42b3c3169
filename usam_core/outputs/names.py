"""From the path of an image to the name of the files that are made of it."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from usam_core.files.atomic import LONGEST_NAME
from usam_core.images.ref import ImageRef

_UNSAFE = re.compile(r'[#=,:*?"<>|\\\x00-\x1f]+')
"""What means something in a URL, or is refused by some disks."""
_LEADING = re.compile(r"\\|^[A-Za-z]:")
"""What leads to other folders where paths are written otherwise (`paths.inside` refuses it)."""
_LONGEST_STEM = 200
"""Bytes: endings and marks come behind."""
_LONGEST_WAY = 1500
"""Bytes of folders and name together: systems take 4096 for a whole path."""


def output_names(paths: Iterable[str]) -> dict[str, str]:
    """Return for each image path a relative name without ending; no two are the same.

    Folders are kept. The name is the image's own, of a plane with the plane behind it, of a URL
    with `_` for what means something there. Names that more than one image would have keep the
    image's ending too; if that does not tell them apart either, a digest of the path does. Names
    that differ in case alone count as the same, as they are on some disks. Of what is too long for
    a disk once an ending stands behind it, the beginning is kept and a digest of the path.

    >>> output_names(["a/b.png", "w.ome.tif#t=3,z=0"])
    {'a/b.png': 'a/b', 'w.ome.tif#t=3,z=0': 'w.ome_t3_z0'}
    >>> output_names(["b.png", "b.jpg"])
    {'b.png': 'b.png', 'b.jpg': 'b.jpg'}
    """
    wishes = {path: _wishes(path) for path in paths}
    count = Counter(wish.casefold() for both in wishes.values() for wish in set(both))
    return {path: _first_own(path, both, count) for path, both in wishes.items()}


def _wishes(path: str) -> tuple[str, str]:
    """Return the short and the full name of an image."""
    ref = ImageRef.parse(path)
    parts = [
        _LEADING.sub("_", part)
        for part in ref.file.replace("://", "/").split("/")
        if part not in ("", ".")
    ]
    if "://" in ref.file:
        parts = [_UNSAFE.sub("_", part) for part in parts]
    file = PurePosixPath(*("_" if part == ".." else part for part in parts))
    plane = "".join(f"_{axis}{index}" for axis, index in ref.plane)
    stem = file.name.removesuffix(file.suffix)
    short = file.with_name("_" if stem in (".", "..") else stem)
    return _bounded(path, str(short) + plane), _bounded(path, str(file) + plane)


def _bounded(path: str, name: str) -> str:
    *folders, stem = name.split("/")
    folders = [_cut(folder, LONGEST_NAME, folder) for folder in folders]
    if len(os.fsencode(name)) > _LONGEST_WAY:
        folders = [_digest("/".join(folders))]
    return "/".join([*folders, _cut(stem, _LONGEST_STEM, path)])


def _cut(name: str, longest: int, of: str) -> str:
    """Return a name, or its beginning and a digest where it has too many bytes."""
    content = os.fsencode(name)
    if len(content) <= longest:
        return name
    mark = f"-{_digest(of)}"
    return content[: longest - len(mark)].decode("utf-8", "ignore") + mark


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _first_own(path: str, wishes: tuple[str, str], count: Counter[str]) -> str:
    for wish in wishes:
        if count[wish.casefold()] == 1:
            return wish
    return f"{wishes[1]}-{_digest(path)}"
