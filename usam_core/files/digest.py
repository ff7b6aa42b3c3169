"""Content digests of files and of plain values, seals made of them, and stamps of folders."""

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from usam_core.errors import StoreError
from usam_core.files.atomic import json_text, write_json

SETTLED_NS = 2_000_000_000
"""A file changed this shortly before it was looked at may change again without its time moving:
some file systems count in steps of two seconds."""
_BLOCK = 4096
"""Values digested at a time: one call each would take most of the time."""
_SEAL = "seal"

_log = logging.getLogger(__name__)


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(path: str | Path, pattern: str = "*") -> str:
    """Return the SHA-256 of a file, or of the files below a folder with their relative paths.

    Linked folders count as what they hold. OSError if a file cannot be read.
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
    """Return a file's digest; it is read once a process, and again when it changes."""
    status = os.stat(path)
    return _remembered(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _remembered(path: str, _size: int, _mtime_ns: int) -> str:
    return file_digest(path)


def value_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, the same for any order of a mapping's keys.

    Anything that JSON lacks raises `TypeError`: a silent `str()` would put memory addresses or file
    paths into cache keys.

    >>> value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def listed_digest(values: Iterable[Any]) -> str:
    """Return `value_digest` of a list of these values, with one in memory at a time.

    >>> listed_digest(iter(["a", 1])) == value_digest(["a", 1])
    True
    """
    digest = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        digest.update(f"{',' if number else ''}{_canonical(value)}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def values_digest(values: Iterable[Any]) -> str:
    """Return the SHA-256 of JSON-like values in their order; only some are in memory at a time.

    >>> values_digest(["ab", "c"]) == values_digest(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    remaining = iter(values)
    while block := list(islice(remaining, _BLOCK)):
        digest.update(bytes.fromhex(value_digest(block)))
    return digest.hexdigest()


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping as JSON, whole or not at all, with its own digest as the last key."""
    write_json(path, sealed(value))


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with its digest as the last key."""
    as_read = json.loads(json_text(value))
    return {**as_read, _SEAL: value_digest(as_read)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote; a file without a seal, of an earlier usam, is believed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it was written.
    """
    text = path.read_text(encoding="utf-8")
    value = json.loads(text)
    if isinstance(value, dict) and _SEAL in value and text != json_text(value):
        raise ValueError("not as it was written")  # the same value in other letters
    return unsealed(value)


def unsealed(value: Any) -> dict[str, Any]:
    """Return what `sealed` was given; ValueError if the seal does not fit."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, got {type(value).__name__}")
    seal = value.pop(_SEAL, None)
    if seal is not None and seal != value_digest(value):
        raise ValueError("not as it was written")
    return value


class Stamp(NamedTuple):
    """What a folder looked like.

    Reading 100,000 files takes minutes, asking the disk for sizes and times seconds. A stamp sees
    every file that was added, removed, replaced or written to, but not bytes that a disk changes by
    itself.

    Attributes:
        digest: of the names, sizes and times of all files but hidden ones.
        settled: no file was so new that it may have changed since without its time moving.
    """

    digest: str
    settled: bool


def folder_stamp(folder: Path) -> Stamp | None:
    """Return a folder's stamp, or None if something in it, such as a link, cannot be stamped."""
    seen_ns = time.time_ns()
    newest = 0
    lines: list[str] = []
    remaining = [(str(folder), "")]
    try:
        while remaining:
            place, prefix = remaining.pop()
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        return None
                    name = prefix + entry.name
                    if entry.is_dir():
                        remaining.append((entry.path, f"{name}/"))
                        continue
                    status = entry.stat()
                    times = status.st_mtime_ns, status.st_ctime_ns
                    newest = max(newest, *times)
                    lines.append(f"{name}\0{status.st_size}\0{times[0]}\0{times[1]}\n")
    except OSError:
        return None
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(os.fsencode(line))
    return Stamp(digest.hexdigest(), newest < seen_ns - SETTLED_NS)


class CheckedFolders:
    """Folders that were checked and found whole, remembered in a file by their stamps.

    Ask `holds` before checking a folder; call `add` only if it said no and the folder was found
    whole: the stamp from before the check counts. Without a readable file every folder is checked.

    Args:
        file: where they are remembered; it may be deleted at any time.
        what: what they were checked against; results for anything else are forgotten.
    """

    def __init__(self, file: Path, what: str) -> None:
        self._file, self._what = file, what
        self._known: dict[str, str] = {}
        self._before: dict[str, Stamp | None] = {}
        self._changed = False
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["what"] == what:
                self._known = dict(record["folders"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def holds(self, folder: Path) -> bool:
        """Return whether a folder is as it was when it was found whole."""
        stamp = self._before[folder.name] = folder_stamp(folder)
        return stamp is not None and self._known.get(folder.name) == stamp.digest

    def knows(self, folder: Path) -> bool:
        """Return whether a folder was ever found whole, as it is or otherwise."""
        return folder.name in self._known

    def add(self, folder: Path) -> None:
        """Remember that a folder was found whole as `holds` saw it."""
        stamp = self._before.get(folder.name)
        if stamp is not None and stamp.settled:
            self._known[folder.name] = stamp.digest
            self._changed = True

    def forget(self, folder: Path) -> None:
        """Forget that a folder was ever found whole."""
        self._changed |= self._known.pop(folder.name, None) is not None

    def save(self, names: Collection[str]) -> None:
        """Write what is remembered of these folders, if anything is new."""
        if not self._changed:
            return
        kept = {name: self._known[name] for name in names if name in self._known}
        try:
            write_json(self._file, {"what": self._what, "folders": kept})
        except (OSError, StoreError) as error:
            # Results on a read-only disk are as good without it.
            _log.debug("%s: not written: %s", self._file, error)
