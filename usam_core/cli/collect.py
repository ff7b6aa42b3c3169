"""`usam collect`: some classes alone, or anew, before the step makes the manifest of all."""

from typing import TYPE_CHECKING, Annotated

import typer

from usam_core.cli import terminal
from usam_core.cli.options import Json, Only, ProjectFile, Verbose
from usam_core.cli.running import run_one, set_logging
from usam_core.steps import STEPS, step_folder

if TYPE_CHECKING:
    from usam_core.config.project import Project


def collect(
    project: ProjectFile,
    only: Only = None,
    refresh: Annotated[bool, typer.Option("--refresh", help=STEPS["collect"].refresh)] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Get pictures; the step makes the manifest, not before every class has been asked for."""
    from usam_core.config.project import load_project
    from usam_core.steps.record import read_record

    set_logging(verbose)
    loaded = load_project(project)
    counts = _collect_classes(loaded, only, refresh)
    if not only or read_record(step_folder(loaded, "collect")) is not None:
        run_one("collect", loaded, bool(only) or refresh, json)
        return
    if json:
        terminal.print_json(counts)
    terminal.errors.print(
        f"no manifest yet: `usam collect {project}` gets the other classes and writes it",
        soft_wrap=True,
        highlight=False,
    )


def _collect_classes(
    project: "Project", only: list[str] | None, refresh: bool
) -> dict[str, dict[str, int]]:
    """Get the pictures of the named classes, or of all if they are to be made anew."""
    from usam_core.steps.collect import collect_class

    names = only or ([spec.name for spec in project.config.collected] if refresh else [])
    progress = terminal.progress_for_terminal()
    counts = {}
    for name in names:
        counts[name] = collect_class(project, name, refresh=refresh, progress=progress)
        terminal.errors.print(
            f"{name}: {counts[name]['pictures']} pictures, {counts[name]['rejected']} rejected",
            highlight=False,
        )
    return counts
