"""Which runs that claim to be running have no process any more, and say so to the server.

A killed process tells nobody. So a run of the local server holds a lock of its own while its
process lives, which the system frees however the process ends: a lock that can be taken belongs to
a run that is over.
"""

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.local_server import home

ALIVE = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)

_WORDS = "The process of this run was killed, or ran out of memory; run it again: it goes on there."
_held: list[FileLock] = []
_log = logging.getLogger(__name__)


def runs_folder() -> Path:
    """Return where the runs of this machine have their locks."""
    return home() / "runs"


def hold(flow: Any, run: FlowRun, state: Any) -> None:
    """Hold a run's lock until this process ends; a hook for when a flow begins to run."""
    del flow, state
    runs_folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(runs_folder() / str(run.id))
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError) as error:
        # The run is as good without; only its end by a kill would not be seen.
        _log.debug("no lock for run %s: %s", run.id, error)
        return
    _held.append(lock)


async def end_killed(folder: Path) -> list[UUID]:
    """Let runs whose process is gone end as Crashed; return them.

    Args:
        folder: `runs_folder()` of the server that the settings name.
    """
    ended = []
    for file in sorted(folder.glob("*")) if folder.is_dir() else []:
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # it lives
        try:
            if await _end(UUID(file.name)):
                ended.append(UUID(file.name))
            file.unlink(missing_ok=True)
        finally:
            lock.release()
    return ended


async def _end(run: UUID) -> bool:
    async with get_client() as client:
        try:
            found = await client.read_flow_run(run)
        except ObjectNotFound:
            return False
        if found.state is None or found.state.type not in ALIVE:
            return False
        await client.set_flow_run_state(run, Crashed(message=_WORDS), force=True)
    return True
