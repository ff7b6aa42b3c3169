"""`usam collect`: some classes alone, or anew, before the step makes the manifest of all."""

from pathlib import Path

from usam_core.cli import terminal
from usam_core.config.project import load_project
from usam_core.steps import collect_class, step_folder
from usam_core.steps.record import read_record


def collect_classes(file: Path, only: list[str] | None, refresh: bool, as_json: bool) -> bool:
    """Get the pictures of the named classes, or of all if they are to be made anew.

    Returns:
        Whether the step may go on to the manifest: not before every class has been asked for.
    """
    project = load_project(file)
    names = only or ([spec.name for spec in project.config.collected] if refresh else [])
    progress = terminal.progress_for_terminal()
    counts = {}
    for name in names:
        counts[name] = collect_class(project, name, refresh=refresh, progress=progress)
        terminal.errors.print(
            f"{name}: {counts[name]['pictures']} pictures, {counts[name]['rejected']} rejected",
            highlight=False,
        )
    if not only or read_record(step_folder(project, "collect")) is not None:
        return True
    if as_json:
        terminal.print_json(counts)
    terminal.errors.print(
        f"no manifest yet: `usam collect {file}` gets the other classes and writes it",
        soft_wrap=True,
        highlight=False,
    )
    return False
