"""Content digests: of files, and of plain values in one canonical form."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_BLOCK = 4096
"""Values that are digested at a time: a call for each would take most of the time."""


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(path: str | Path, pattern: str = "*") -> str:
    """Return the SHA-256 of a file, or of the files below a folder with their paths from there.

    Linked folders count as what they hold, as for whoever opens a file by such a path.

    Raises:
        OSError: the file, or one of the files, cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return file_digest(path)
    files = sorted(file for file in _files_below(path) if file.match(pattern) and file.is_file())
    return value_digest([[file.relative_to(path).as_posix(), file_digest(file)] for file in files])


def _files_below(folder: Path) -> Iterator[Path]:
    above: dict[str, tuple[str, ...]] = {str(folder): (os.path.realpath(folder),)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would lead round and round.
        for name in list(folders):
            place, real = os.path.join(parent, name), os.path.realpath(os.path.join(parent, name))
            if real in above[parent]:
                folders.remove(name)
            else:
                above[place] = (*above[parent], real)
        yield from (Path(parent, name) for name in files)


def remembered_digest(path: str | Path) -> str:
    """Return a file's digest; gigabytes are read once a process, again when the file changed.

    Raises:
        OSError: the file cannot be read.
    """
    found = os.stat(path)
    return _remembered(str(path), found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _remembered(path: str, _size: int, _mtime_ns: int) -> str:
    return file_digest(path)


def value_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, the same for any order of a mapping's keys.

    Anything that JSON does not know raises `TypeError`: a silent `str()` would put memory
    addresses or file paths into cache keys.

    >>> value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def listed_digest(values: Iterable[Any]) -> str:
    """Return `value_digest` of a list of these values, with one of them in memory at a time.

    >>> listed_digest(iter(["a", 1])) == value_digest(["a", 1])
    True
    """
    found = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        found.update(f"{',' if number else ''}{text}".encode())
    found.update(b"]")
    return found.hexdigest()


def values_digest(values: Iterable[Any]) -> str:
    """Return the SHA-256 of JSON-like values in their order; only some are in memory at a time.

    >>> values_digest(["ab", "c"]) == values_digest(["a", "bc"])
    False
    """
    found = hashlib.sha256()
    left = iter(values)
    while block := list(islice(left, _BLOCK)):
        found.update(bytes.fromhex(value_digest(block)))
    return found.hexdigest()
