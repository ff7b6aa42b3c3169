"""Entry point of the `usam` command: the core's commands, plus `run` and `demo` as flows."""

import errno
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import local_commands, places  # noqa: F401  (the first adds `up` and `down`)
from usam_core.cli import terminal
from usam_core.cli.app import app
from usam_core.cli.options import Json, Level, Papers, ProjectFile, Verbose
from usam_core.cli.running import set_logging
from usam_core.errors import TransientError, UsamError
from usam_core.steps import STEPS

_OUTPUT_FAILS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@app.command(
    epilog="Examples: `usam run project.yaml`, `usam run project.yaml --level parents`, "
    "`usam run project.yaml --level animals`, `usam run project.yaml --papers`, "
    "`usam run project.yaml --from fit --refresh`"
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
    results, seconds = _run_flow(project, level, start, refresh, verbose, papers)
    if json:
        terminal.print_json({"seconds": round(seconds, 1), "steps": results})
    else:
        _print_run(str(project), results, seconds)


@app.command(epilog="Example: `usam demo --out demo`")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("demo"),
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw scenes of eight named shapes, label them, and measure the masks against the truth."""
    from usam_core.demo import prepare_demo

    files = prepare_demo(out)
    runs = {
        "default": _run_flow(files.default, None, "", False, verbose),
        "papers' mode": _run_flow(files.papers, None, "", False, verbose),
    }
    scores = {
        name: next(result["summary"] for result in results if result["step"] == "evaluate")
        for name, (results, _) in runs.items()
    }
    if json:
        documents = {
            name: {"seconds": round(seconds, 1), "steps": results}
            for name, (results, seconds) in runs.items()
        }
        terminal.print_json(documents)
        return
    for name, (results, seconds) in runs.items():
        _print_run(name, results, seconds)
    columns = ["mode", "mIoU", "mAP50", "false positives", "seconds"]
    keys = ["miou", "map50", "false_positive_rate"]
    rows = [[name, *(scores[name][key] for key in keys), round(runs[name][1], 1)] for name in runs]
    terminal.print_table("masks against truth", columns, rows)
    terminal.screen.print(
        f"look at {out / 'out' / 'evaluate' / 'contact_sheet.png'}\n"
        f"and at  {out / 'out' / 'report' / 'report.html'}, in a browser\n"
        f"then:   usam run {files.default} --level parents",
        soft_wrap=True,
        highlight=False,
    )


def main() -> None:
    """Run the command line; 2 is the exit code of a user's mistake, 1 of every other failure."""
    try:
        places.settle()
        _prefect_settings()
        # Typer gives the code of a `typer.Exit` back instead of raising it.
        code = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except UsamError as error:
        terminal.print_error(error)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
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


def _prefect_settings() -> None:
    """Choose quiet defaults before Prefect is imported; the user's own settings win."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if "--verbose" not in sys.argv:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "usam_core")


def _run_flow(
    project: Path,
    level: str | None,
    start: str,
    refresh: bool,
    verbose: bool,
    papers: bool = False,
) -> tuple[list[dict[str, Any]], float]:
    set_logging(verbose)
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
    from flows import environment
    from flows.annotate import annotate_dataset

    flow = annotate_dataset
    if local:
        from flows.alive import hold

        flow = annotate_dataset.with_options(on_running=[hold])
    began = time.monotonic()
    try:
        results = flow(settings)
    except Exception as error:
        lost = environment.lost_server(error)
        if lost is None:
            raise
        server = os.environ.get("PREFECT_API_URL", "of this run")
        raise TransientError(
            f"the Prefect server {server} {lost}, then run again: what was finished is kept"
        ) from error
    return results, time.monotonic() - began


@cache
def _server() -> bool:
    """See that this process has a server, once; say whether it is the one of `usam up`."""
    from flows import environment, processes

    # A small server, and Dask's workers, do not notice that their run was killed.
    processes.end_orphans()
    processes.mark_own()
    local = _use_local_server()
    environment.prepare(local)
    return local


def _use_local_server() -> bool:
    """Let the run be seen on the page of `usam up`, unless another server was chosen."""
    from flows.local_server import client_environment, running

    served = running() if not os.environ.get("PREFECT_API_URL") else None
    if served is not None:
        os.environ.update(client_environment(served))
    return served is not None


def _print_run(title: str, results: list[dict[str, Any]], seconds: float) -> None:
    rows = [[r["step"], STEPS[r["step"]].sentence(r["summary"], r["reused"])] for r in results]
    terminal.print_table(f"{title}: {seconds:.1f} s", ["step", "outcome"], rows)
    for result in results:
        if result["step"] in ("annotate", "evaluate", "report"):
            terminal.screen.print(f"  {result['path']}", soft_wrap=True, highlight=False)
        for note in result["summary"].get("notes", []) if result["step"] == "annotate" else ():
            terminal.screen.print(f"  {note}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
