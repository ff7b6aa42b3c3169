"""One step from the command line: the log, the project, the step, what it did."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from usam_core.cli import terminal
from usam_core.steps import STEPS, StepResult

if TYPE_CHECKING:
    from usam_core.config.project import Project


def set_logging(verbose: bool) -> None:
    """Show our own warnings, or everything of ours; what libraries log stays with them."""
    ours = logging.getLogger("usam_core")
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        ours.addHandler(handler)


def run_file(
    step: str, file: Path, level: str | None, refresh: bool, as_json: bool, verbose: bool
) -> None:
    """Run one step of a project file and print what it did."""
    from usam_core.config.project import open_project

    set_logging(verbose)
    run_one(step, open_project(file, level), refresh, as_json)


def run_one(step: str, project: "Project", refresh: bool, as_json: bool) -> None:
    """Run one step of a project and print what it did."""
    from usam_core.steps import run_step

    result = run_step(step, project, refresh=refresh, progress=terminal.progress_for_terminal())
    if as_json:
        terminal.print_json(result.to_json())
        return
    line = f"{step}: {STEPS[step].sentence(result.summary, result.reused)}"
    terminal.screen.print(line, soft_wrap=True, highlight=False)
    terminal.screen.print(f"  {result.path}", soft_wrap=True, highlight=False)
    for note in result.summary.get("notes", []):
        terminal.screen.print(f"  {note}", soft_wrap=True, highlight=False)
    if STEPS[step].table:
        _print_table(result, STEPS[step].table)


def _print_table(result: StepResult, name: str) -> None:
    from usam_core.files.spreadsheet import read_csv

    table = read_csv(Path(result.path).with_name(name))
    shown = table.astype(object).where(table.notna(), None)
    title = Path(name).stem.replace("_", " ")
    terminal.print_table(title, list(table.columns), shown.values.tolist())
