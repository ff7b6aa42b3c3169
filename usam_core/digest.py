"""Content digests: of files, and of plain values in one canonical form."""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
