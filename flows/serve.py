"""Serve every flow from this machine, without work pools: `usam up` runs it in the background.

    python -m flows.serve --ready FILE [--project FILE] [--cron "0 2 * * *" --timezone UTC]

The process registers one deployment a flow, writes FILE, and then runs what the server asks for,
each run in a process of its own, until it is told to stop.
"""

import argparse
import asyncio
import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.states import Crashed

from flows.annotate import annotate_dataset
from flows.local_server import runs_folder
from flows.steps import FLOWS as STEP_FLOWS
from usam_core.files.atomic import write_json

FLOWS = (annotate_dataset, *STEP_FLOWS.values())

MAX_RUNS_AT_ONCE = 2
"""A long step and something short beside it; models are big, and one machine has one memory."""

_UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_SECONDS_BETWEEN = 15.0
_log = logging.getLogger(__name__)


async def deployments(
    project: str | None, cron: str | None, timezone: str
) -> list[RunnerDeployment]:
    """Describe a deployment of each flow; `cron` is for `annotate-dataset` on `project`."""
    parameters: dict[str, Any] = {"settings": {"project_file": project}} if project else {}
    schedule = CronSchedule(cron=cron, timezone=timezone) if project and cron else None
    return [
        await flow.ato_deployment(
            flow.name,
            schedule=schedule if flow is annotate_dataset else None,
            parameters=parameters,
            tags=["usam"] if flow is annotate_dataset else ["usam", "step"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for flow in FLOWS
    ]


async def end_orphans(served: list[UUID]) -> None:
    """Let the runs of these deployments that claim to be running end as Crashed.

    Called before anything is run: their processes went with those that served them before, by
    `usam down`, a crash or a power cut, and nobody else tells the server.
    """
    claim = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=served),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED)),
    )
    state = Crashed(message="usam was stopped during this run; Retry goes on where it was.")
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_run_filter=claim):
            await client.set_flow_run_state(run.id, state, force=True)


async def end_killed(folder: Path) -> list[UUID]:
    """Let runs with a lock in `folder` whose process is gone end as Crashed; return them."""
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
    reason = "The process of this run was killed, or ran out of memory"
    async with get_client() as client:
        try:
            state = (await client.read_flow_run(run)).state
        except ObjectNotFound:
            return False
        if state is None or state.type not in _UNFINISHED:
            return False
        crashed = Crashed(message=f"{reason}; run it again: it goes on there.")
        await client.set_flow_run_state(run, crashed, force=True)
    return True


async def watch_killed() -> None:
    """Every few seconds, let the runs of `usam run` that were killed end as Crashed."""
    while True:
        try:
            for run in await end_killed(runs_folder()):
                _log.warning("run %s was killed", run)
        except Exception as error:  # the server may be gone; runs are served as long as it is there
            _log.debug("cannot look for killed runs: %s", error)
        await asyncio.sleep(_SECONDS_BETWEEN)


async def serve(project: str | None, cron: str | None, timezone: str, ready: Path) -> None:
    """Register the deployments, write `ready`, and run what is asked for until stopped."""
    runner = Runner(name="usam", limit=MAX_RUNS_AT_ONCE)
    described = await deployments(project, cron, timezone)
    await end_orphans([await runner.aadd_deployment(deployment) for deployment in described])
    write_json(ready, {"deployments": [deployment.full_name for deployment in described]})
    watching = asyncio.create_task(watch_killed())
    try:
        await runner.start()
    finally:
        watching.cancel()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve")
    parser.add_argument("--project")
    parser.add_argument("--cron")
    parser.add_argument("--timezone", default="UTC")
    parser.add_argument("--ready", type=Path, required=True)
    asked = parser.parse_args()
    asyncio.run(serve(asked.project, asked.cron, asked.timezone, asked.ready))


if __name__ == "__main__":
    main()
