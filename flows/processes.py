"""Processes in the background that are found again, whatever became of who started them.

Every process gets a mark in its environment, which the processes that it starts inherit. So all of
them are found by the mark, also those whose parent was killed, and no number of a process that
ended long ago is ever taken for one of ours.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from usam_core.errors import UsamError

_MARK = "USAM_SERVER_FOLDER"
_OWNER = "USAM_RUN_OWNER"
_LINES = 15
_SHOWS_ITSELF = 5.0


def start(folder: Path, name: str, arguments: list[str], environment: dict[str, str]) -> int:
    """Start `python ARGUMENTS` in a session of its own, its output in `<name>.log`; its pid."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**environment, _MARK: str(folder)},
        )
    (folder / f"{name}.pid").write_text(f"{process.pid}\n", encoding="ascii")
    # For a moment after its start a process shows no environment, and so no mark.
    deadline = time.monotonic() + _SHOWS_ITSELF
    while process.poll() is None and not alive(folder, name) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.pid


def alive(folder: Path, name: str) -> bool:
    """Say whether the process that `start` began under this name still runs."""
    try:
        pid = int((folder / f"{name}.pid").read_text(encoding="ascii"))
        return _is_ours(psutil.Process(pid), folder)
    except (OSError, ValueError, psutil.Error):
        return False


def marked(folder: Path) -> list[psutil.Process]:
    """Return every live process that `start` began, and those that they began."""
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_ours(p, folder)]


def stop(folder: Path, name: str, seconds: float) -> None:
    """Ask one process to end, and wait so long for it."""
    if alive(folder, name):
        process = psutil.Process(int((folder / f"{name}.pid").read_text(encoding="ascii")))
        process.terminate()
        psutil.wait_procs([process], timeout=seconds)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def stop_all(folder: Path, seconds: float) -> None:
    """End every marked process; those that do not listen are killed."""
    left = marked(folder)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=seconds)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=seconds)


def check_alive(folder: Path, name: str) -> None:
    """Raise with the end of its log if the process has ended.

    Raises:
        UsamError: it has.
    """
    if alive(folder, name):
        return
    log = folder / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
    raise UsamError("\n".join([f"the {name} ended while it started; the end of {log}:", *lines]))


def mark_own() -> None:
    """Mark this process's children, so that `end_orphans` finds them should it be killed."""
    me = psutil.Process()
    os.environ[_OWNER] = f"{me.pid} {me.create_time()}"


def end_orphans() -> list[int]:
    """End what runs that were killed have left: servers of their own, Dask workers; their pids."""
    orphans = [process for process in psutil.process_iter() if _owner_is_gone(process)]
    for process in orphans:
        with suppress(psutil.Error):
            process.terminate()
    return [process.pid for process in orphans]


def _owner_is_gone(process: psutil.Process) -> bool:
    try:
        owner = process.environ().get(_OWNER)
        if owner is None or process.status() == psutil.STATUS_ZOMBIE:
            return False
        pid, created = owner.split()
    except (psutil.Error, OSError, ValueError):
        return False
    try:
        # Another process may have the number by now.
        return psutil.Process(int(pid)).create_time() != float(created)
    except psutil.Error:
        return True


def _is_ours(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == str(
            folder
        )
    except (psutil.Error, OSError):
        return False
