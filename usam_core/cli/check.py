"""`usam check`: is everything whole that a project's results stand on?"""

from collections import Counter
from typing import Annotated

import typer

from usam_core.cli import terminal
from usam_core.cli.options import Json, ProjectFile, Verbose
from usam_core.cli.running import set_logging

_TITLES = {
    "run": "the next `usam run` makes anew by itself",
    "repair": "made anew after a repair",
    "no": "cannot be made again",
}


def check(
    project: ProjectFile,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Drop what is damaged and can be made again; the next run makes it."
        ),
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Read again everything that the results stand on; say what is damaged, and what mends it."""
    from usam_core.config.project import load_project
    from usam_core.steps.check import check_project

    set_logging(verbose)
    opened = load_project(project)
    found = check_project(opened, repair=repair, progress=terminal.progress_for_terminal())
    if json:
        terminal.print_json(found.to_json())
    else:
        _print(found, str(project))
    if not found.sound:
        raise typer.Exit(1)


def _print(found, project: str) -> None:
    def say(line: str) -> None:
        terminal.screen.print(line, soft_wrap=True, highlight=False, markup=False)

    for remade, title in _TITLES.items():
        damages = [damage for damage in found.damages if damage.remade == remade]
        if damages:
            done = " (dropped)" if found.repair and remade != "no" else ""
            say(f"{title}{done}:")
        for damage in damages:
            made_by = f" [{damage.step}]" if damage.step else ""
            advice = f"; {damage.advice}" if damage.advice else ""
            say(f"* {damage.path}: {damage.what}{made_by}{advice}")
    for path in found.edits:
        say(f"changed by a person, and kept: {path}")
    speed = found.bytes / 1e6 / max(found.seconds, 1e-3)
    say(
        f"{found.files:,} files, {found.bytes / 1e6:,.1f} MB read in {found.seconds:.1f} s, "
        f"{speed:,.0f} MB/s"
    )
    if not found.damages:
        say("all is whole")
        return
    count = Counter(damage.remade for damage in found.damages)
    if found.repair and not count["no"]:
        say(f"repaired; next: usam run {project}")
    elif count["repair"] and not found.repair:
        say(f"{len(found.damages)} damaged; next: usam check {project} --repair, then usam run")
    else:
        say(f"{len(found.damages)} damaged; next: usam run {project}")
