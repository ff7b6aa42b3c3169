"""`usam up` and `usam down`: watch runs in a browser, without knowing Prefect."""

import os
from pathlib import Path
from typing import Annotated

import typer

from usam_core.cli import terminal
from usam_core.cli.app import app
from usam_core.cli.options import Json


@app.command(
    epilog="Examples: `usam up`, `usam up project.yaml`, "
    '`usam up project.yaml --cron "0 2 * * *"` (every night at two)'
)
def up(
    project: Annotated[
        Path | None, typer.Argument(help="Project file that the forms begin with.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="Run the project by itself: minute hour day month weekday.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Zone that --cron means; this machine's by default.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 4200,
    json: Json = False,
) -> None:
    """Start a local server with a page that shows, starts and repeats runs; in the background."""
    from flows.local_server import Served, home, running
    from flows.local_server import up as start
    from flows.secret import opener
    from usam_core.config.project import load_project

    if cron is not None and project is None:
        raise typer.BadParameter("--cron needs the project to run: usam up project.yaml --cron ...")
    if project is not None:
        load_project(project)
    if cron is not None:
        timezone = _check_schedule(cron, timezone or _zone_here())
    wanted = Served(port, str(project.absolute()) if project else None, cron, timezone or "UTC")
    started = start(wanted)
    served = wanted if started else running() or wanted
    if json:
        where = {"folder": str(home()), "open": str(opener(home()))}
        terminal.print_json({"page": served.page, "started": started, **where})
        return
    _say(f"{'running' if started else 'already running'}: {served.page}")
    _say(f"open in a browser: {opener(home()).absolute().as_uri()}")
    if served.project:
        _say(f"project: {served.project}")
    if served.cron:
        _say(f"runs by itself: {served.cron} ({served.timezone}), while this machine is on")
    _say(f"logs and database: {home()}\nstop it: usam down")


@app.command(epilog="Example: `usam down`")
def down(json: Json = False) -> None:
    """Stop what `usam up` started, runs in progress included; their results so far are kept."""
    from flows.local_server import down as stop

    stopped = stop()
    if json:
        terminal.print_json({"stopped": stopped})
    else:
        _say("stopped" if stopped else "nothing was running")


def _check_schedule(cron: str, timezone: str) -> str:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reasons = "; ".join(str(mistake["msg"]) for mistake in error.errors())
        raise typer.BadParameter(
            f"--cron {cron!r} --timezone {timezone!r}: {reasons}; "
            'expected something like "0 2 * * *" (every night at two) and "Europe/Paris"'
        ) from None
    return timezone


def _zone_here() -> str:
    """Return the IANA name of this machine's time zone, UTC where it cannot be told."""
    if os.environ.get("TZ"):
        return os.environ["TZ"].removeprefix(":")
    parts = Path("/etc/localtime").resolve().parts
    if "zoneinfo" not in parts:
        return "UTC"
    return "/".join(parts[len(parts) - parts[::-1].index("zoneinfo") :]) or "UTC"


def _say(text: str) -> None:
    terminal.screen.print(text, soft_wrap=True, highlight=False)
