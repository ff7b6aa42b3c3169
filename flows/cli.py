"""Entry point of the `usam` command: the core's, and those that need Prefect."""

import errno
import os
import shlex
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import environment
from flows.environment import say
from usam_core.cli import terminal
from usam_core.cli.app import add, app
from usam_core.cli.terminal import (
    Json,
    Level,
    MaybeProject,
    Papers,
    ProjectFile,
    Verbose,
    print_line,
)
from usam_core.cli.watch import WATCH, at_once
from usam_core.config import PROJECT_FILE
from usam_core.errors import TransientError, UsamError, lacking
from usam_core.interrupt import watched
from usam_core.progress import duration
from usam_core.steps import STEPS

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
_QUIET = "CRITICAL"
_OUTPUT_FAILS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@add(
    "usam run my-project",
    "usam run my-project --level parents",
    "usam run my-project --level animals",
    "usam run my-project --papers",
    "usam run my-project --from fit --refresh",
)
def run(
    project: ProjectFile,
    level: Level = None,
    papers: Papers = False,
    start: Annotated[
        str, typer.Option("--from", help="First step; those before it are left untouched.")
    ] = "",
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="With --from: do that step and all after it again."),
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Do everything that is not up to date, as a Prefect flow; no server has to be started."""
    if refresh and not start:
        raise typer.BadParameter(
            "--refresh repeats work; expected the first step to repeat too: --from annotate is the "
            "least, --from collect drops pictures and embeddings"
        )
    done = _run_flow(project, level, start, refresh, papers)
    if json:
        terminal.print_json(done)
    else:
        _print_run(_named(project), done)
        annotated = [r["summary"] for r in done["steps"] if r["step"] == "annotate"]
        if annotated and annotated[0]["instances"] and not lacking("review"):
            print_line(f"next: usam review {_named(project)} --open")


@add("usam demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("demo"),
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw scenes of eight named shapes, label them, and measure the masks against the truth."""
    from usam_core.demo import prepare_demo

    files = prepare_demo(out)
    runs = {
        "default": _run_flow(files.default),
        "papers' mode": _run_flow(files.papers),
    }
    if json:
        terminal.print_json(runs)
        return
    rows = []
    for name, done in runs.items():
        _print_run(name, done)
        summary = next(r["summary"] for r in done["steps"] if r["step"] == "evaluate")
        scores = (summary[key] for key in ("miou", "map50", "false_positive_rate"))
        rows.append([name, *scores, done["seconds"]])
    columns = ["mode", "mIoU", "mAP50", "false positives", "seconds"]
    terminal.print_table("masks against truth", columns, rows)
    print_line(
        f"look at {out / 'out' / 'evaluate' / 'contact_sheet.png'}\n"
        f"and at  {out / 'out' / 'report' / 'report.html'}, in a browser\n"
        f"then:   usam run {files.default} --level parents"
    )


@add("usam up", "usam up my-project", 'usam up my-project --cron "0 2 * * *"')
def up(
    project: MaybeProject = None,
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
    from flows.local_server import Served, home, opener, running
    from flows.local_server import up as start
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
    print_line(f"{'running' if started else 'already running'}: {served.page}")
    print_line(f"open in a browser: {opener(home()).absolute().as_uri()}")
    if served.project:
        print_line(f"project: {served.project}")
    if served.cron:
        print_line(f"runs by itself: {served.cron} ({served.timezone}), while this machine is on")
    print_line(f"logs and database: {home()}\nstop it: usam down")


@add("usam down")
def down(json: Json = False) -> None:
    """Stop what `usam up` started, runs in progress included; their results so far are kept."""
    from flows.local_server import down as stop

    stopped = stop()
    if json:
        terminal.print_json({"stopped": stopped})
    else:
        print_line("stopped" if stopped else "nothing was running")


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


def main() -> None:
    """Run the command line; 2 is the exit code of a user's mistake, 1 of every other failure."""
    try:
        environment.settle()
        _prefect_settings()
        WATCH.open()
        with watched(_noted, _leave):
            # Typer gives the code of a `typer.Exit` back instead of raising it.
            code = app(standalone_mode=False)
        if code == _INTERRUPTED:
            terminal.print_error(f"{WATCH.stopped()}{_go_on()}")
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except UsamError as error:
        terminal.print_error(error)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(_INTERRUPTED)
    except OSError as error:
        if error.errno not in _OUTPUT_FAILS:
            raise
        # What is left to be written cannot be either: not at the end of the process again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            terminal.print_error(
                f"{error.filename or 'the output'}: cannot be written: {error.strerror}; free "
                "space there and run again: what was done is kept"
            )
        sys.exit(1)
    except Exception as error:
        # Typer's own usage errors know their exit code (2) and how to show themselves.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        raise


def _named(project: Path) -> str:
    """A project as it is typed: its folder, where the file has the usual name."""
    usual = project.name == PROJECT_FILE and str(project.parent) != "."
    return shlex.quote(str(project.parent if usual else project))


def _noted() -> None:
    """Answer the first Ctrl-C where there is work to be finished."""
    with suppress(RuntimeError):  # it may have come while another line was being written
        say("stopping: what is in hand is finished and kept; Ctrl-C again stops at once")


def _leave() -> None:
    """Answer the second Ctrl-C: end this process and those that it started, now."""
    import psutil

    with suppress(RuntimeError):
        at_once(_go_on())
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.terminate()
    os._exit(_INTERRUPTED)


def _go_on() -> str:
    """Say how to go on where a command of work was stopped."""
    words = [word for word in sys.argv[1:] if word != "--refresh"]
    if not words or words[0] not in {"run", "demo", "bench", "check", *STEPS}:
        return ""
    return f"\ngo on: usam {shlex.join(words)}"


def _prefect_settings() -> None:
    """Choose quiet defaults before Prefect is imported; the user's own settings win."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if "--verbose" not in sys.argv:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", _QUIET)
        os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", _QUIET)
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "usam_core")


def _run_flow(
    project: Path,
    level: str | None = None,
    start: str = "",
    refresh: bool = False,
    papers: bool = False,
) -> dict[str, Any]:
    """Run a project; return the seconds and the steps' results."""
    from flows.parameters import AnnotateDatasetSettings

    start = start or next(iter(STEPS))
    if start not in STEPS:
        raise typer.BadParameter(f"{start!r} is no step; expected one of {', '.join(STEPS)}")
    # A mistake in the file is told before Prefect's seconds of starting up.
    settings = AnnotateDatasetSettings(
        project_file=str(project.absolute()),
        level=level or "file",
        recipe="papers" if papers else "file",
        start=start,
        refresh=refresh,
    )
    local = _server()
    from flows.annotate import annotate_dataset as flow

    if local:
        from flows.local_server import hold_run

        flow = flow.with_options(on_running=[hold_run])
    began = time.monotonic()
    try:
        state = flow(settings, return_state=True)
        if state.is_cancelled():
            raise KeyboardInterrupt
        results = state.result()
    except Exception as error:
        lost = environment.lost_server(error)
        if lost is None:
            raise
        server = os.environ.get("PREFECT_API_URL", "of this run")
        raise TransientError(
            f"the Prefect server {server} {lost}, then run again: what was finished is kept"
        ) from error
    return {"seconds": round(time.monotonic() - began, 1), "steps": results}


@cache
def _server() -> bool:
    """See that this process has a server, once; say whether it is the one of `usam up`."""
    from flows import processes
    from flows.local_server import client_environment, running

    # A small server, and Dask's workers, do not notice that their run was killed.
    processes.end_orphans()
    processes.mark_own()
    served = running() if not os.environ.get("PREFECT_API_URL") else None
    if served or os.environ.get("PREFECT_API_URL"):
        _log_to_server()
    if served is not None:
        os.environ.update(client_environment(served))
    environment.prepare(served is not None)
    return served is not None


def _log_to_server() -> None:
    """Let a server that is there to be looked at have the run's log; the terminal stays quiet."""
    if os.environ.get("PREFECT_LOGGING_LEVEL") == _QUIET:
        os.environ["PREFECT_LOGGING_LEVEL"] = "INFO"
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = _QUIET


def _print_run(title: str, done: dict[str, Any]) -> None:
    results = done["steps"]
    if sys.stdout.isatty() and sys.stderr.isatty():  # where a line on every step stands already
        print_line(f"{title}: done in {duration(done['seconds'])}")
    else:
        rows = [[r["step"], STEPS[r["step"]].sentence(r["summary"], r["reused"])] for r in results]
        terminal.print_table(f"{title}: {done['seconds']:.1f} s", ["step", "outcome"], rows)
    for result in results:
        if result["step"] in ("annotate", "evaluate", "report"):
            print_line(f"  {result['path']}")
        for note in result["summary"].get("notes", []) if result["step"] == "annotate" else ():
            print_line(f"  {note}")


if __name__ == "__main__":
    main()
