"""Points at which a process kills itself on request, to try that a kill in a write does no harm.

    USAM_FAULT="half:3:*/masks/*.png" usam annotate project.yaml

kills it, with SIGKILL, when the third label PNG lies half written. The moments: `half`; `rename`,
whole but not in its place yet; `renamed`, in its place, and nothing after it done. Without
USAM_FAULT nothing happens.
"""

import functools
import json
import os
import signal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

FAULT = "USAM_FAULT"
"""MOMENT:COUNT:PATTERN; the pattern is one of `fnmatch`, for the absolute path of what is written.
"""
NOTE = "USAM_FAULT_NOTE"
"""File that says which write was hit. Where it is there already, nothing is killed: of a run's many
processes one is."""

_met = 0


def at(moment: str, target: Path, written: Path | None = None, since: int = 0) -> None:
    """Kill this process here, if that was asked for.

    Args:
        moment: `half`, `rename` or `renamed`.
        target: the file or folder that is written.
        written: at `half`, the file whose bytes are cut to the half; of a folder, the largest.
        since: how many bytes of it were there before.
    """
    wanted = _wanted()
    if wanted is None or moment != wanted[0] or not fnmatchcase(str(target.absolute()), wanted[2]):
        return
    global _met
    _met += 1
    if _met == int(wanted[1]):
        _kill(moment, target, written, since)


@functools.cache
def _wanted() -> tuple[str, str, str] | None:
    moment, _, rest = os.environ.get(FAULT, "").partition(":")
    count, _, pattern = rest.partition(":")
    return (moment, count, pattern) if moment else None


def _kill(moment: str, target: Path, written: Path | None, since: int) -> None:
    said: dict[str, Any] = {"pid": os.getpid(), "moment": moment, "target": str(target)}
    if written is not None:
        if written.is_dir():
            files = [file for file in written.rglob("*") if file.is_file()]
            written = max(files, key=lambda file: file.stat().st_size)
        size = written.stat().st_size
        said |= {"written": str(written), "bytes": size, "left": (since + size) // 2}
    if NOTE in os.environ:
        try:
            handle = os.open(os.environ[NOTE], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(handle, json.dumps(said).encode())
    if written is not None:
        os.truncate(written, said["left"])
    os.kill(os.getpid(), signal.SIGKILL)
