"""Whether a folder is still as it was when it was last looked through: by names, sizes and times.

Reading what was made of 100,000 images takes minutes, asking the disk for sizes and times seconds.
A stamp sees every file that was added, removed, replaced or written to; what it cannot see are
bytes that a disk changes by itself, which the checks on reading find.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from usam_core.errors import StoreError
from usam_core.files.atomic import write_json

_log = logging.getLogger(__name__)

SETTLED_NS = 2_000_000_000
"""A file changed this shortly before it was looked at may change again without its time moving:
some file systems count in steps of two seconds."""


class Stamp(NamedTuple):
    """What a folder looked like.

    Attributes:
        digest: of the names, sizes and times of all its files; hidden ones do not count.
        settled: no file was so new that it may have changed since without its time moving.
    """

    digest: str
    settled: bool


def folder_stamp(folder: Path) -> Stamp | None:
    """Return a folder's stamp, or None if something in it, such as a link, cannot be stamped."""
    seen_ns = time.time_ns()
    newest = 0
    lines: list[str] = []
    left = [(str(folder), "")]
    try:
        while left:
            place, prefix = left.pop()
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        return None
                    name = prefix + entry.name
                    if entry.is_dir():
                        left.append((entry.path, f"{name}/"))
                        continue
                    found = entry.stat()
                    newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
                    times = f"{found.st_mtime_ns}\0{found.st_ctime_ns}"
                    lines.append(f"{name}\0{found.st_size}\0{times}\n")
    except OSError:
        return None
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(os.fsencode(line))
    return Stamp(digest.hexdigest(), newest < seen_ns - SETTLED_NS)


class CheckedFolders:
    """Folders that were looked through and found whole, remembered in a file by their stamps.

    Ask `holds` before looking through a folder, and call `add` only if it said no and the folder
    was found whole: the stamp that counts is the one from before. Without the file, or with one
    that cannot be read, every folder is looked through.

    Args:
        file: where they are remembered; it may be deleted at any time.
        what: what they were checked against; what was remembered of anything else is forgotten.
    """

    def __init__(self, file: Path, what: str) -> None:
        self._file = file
        self._what = what
        self._known = _read(file, what)
        self._before: dict[str, Stamp | None] = {}
        self._changed = False

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
        """Write what is remembered of these folders, if there is anything new."""
        if not self._changed:
            return
        kept = {name: self._known[name] for name in names if name in self._known}
        try:
            write_json(self._file, {"what": self._what, "folders": kept})
        except (OSError, StoreError) as error:
            # Results on a read-only disk are as good without it.
            _log.debug("%s: not written: %s", self._file, error)


def _read(file: Path, what: str) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return dict(found["folders"]) if found["what"] == what else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
