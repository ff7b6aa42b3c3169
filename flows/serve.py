"""Serve every flow from this machine, without work pools: `usam up` runs it in the background.

    python -m flows.serve --ready FILE [--project FILE] [--cron "0 2 * * *" --timezone UTC]

The process registers one deployment a flow, writes FILE, and then runs what the server asks for,
each run in a process of its own, until it is told to stop.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.runner import Runner

from flows.annotate import annotate_dataset
from flows.steps import annotate, collect, embed, evaluate, fit, report
from usam_core.atomic import write_json

FLOWS = (annotate_dataset, collect, embed, fit, annotate, evaluate, report)

MOST_RUNS_AT_ONCE = 2
"""A long step and something short beside it; models are big, and one machine has one memory."""


async def deployments(
    project: str | None, cron: str | None, timezone: str
) -> list[RunnerDeployment]:
    """Describe one deployment a flow, by module path.

    Args:
        project: project file that the forms begin with.
        cron: when to run `annotate-dataset` on `project`.
        timezone: IANA name of the zone that `cron` means.
    """
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


async def serve(project: str | None, cron: str | None, timezone: str, ready: Path) -> None:
    """Register the deployments, write `ready`, and run what is asked for until stopped."""
    runner = Runner(name="usam", limit=MOST_RUNS_AT_ONCE)
    names = []
    for deployment in await deployments(project, cron, timezone):
        await runner.aadd_deployment(deployment)
        names.append(deployment.full_name)
    write_json(ready, {"deployments": names})
    await runner.start()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve")
    parser.add_argument("--project")
    parser.add_argument("--cron")
    parser.add_argument("--timezone", default="UTC")
    parser.add_argument("--ready", type=Path, required=True)
    given = parser.parse_args()
    asyncio.run(serve(given.project, given.cron, given.timezone, given.ready))


if __name__ == "__main__":
    main()
