"""`usam export`: the labels in other programs' formats, and what was changed in them by hand."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from usam_core.cli import terminal
from usam_core.cli.options import Json, LabelsLevel, ProjectFile, Refresh, Verbose
from usam_core.cli.running import run_one, set_logging
from usam_core.config.formats import Format
from usam_core.errors import InputError

if TYPE_CHECKING:
    from usam_core.config.project import Project


def export(
    project: ProjectFile,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help=f"In place of outputs.formats: {', '.join(get_args(Format))}."
        ),
    ] = None,
    level: LabelsLevel = None,
    show_edits: Annotated[
        bool, typer.Option("--show-edits", help="Say what was changed by hand, and write nothing.")
    ] = False,
    overwrite_edited: Annotated[
        bool, typer.Option("--overwrite-edited", help="Write files changed by hand anew.")
    ] = False,
    refresh: Refresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the labels for other programs; files that a person has changed are kept."""
    from usam_core.config.project import open_project
    from usam_core.steps.export import drop_edits

    set_logging(verbose)
    opened = open_project(project, level)
    if formats:
        opened = _with_formats(opened, formats)
    if show_edits:
        _show(opened, json)
        return
    if not opened.config.outputs.formats:
        raise InputError(
            f"{project}: no formats; expected --format or outputs.formats, some of "
            f"{', '.join(get_args(Format))}"
        )
    if overwrite_edited:
        drop_edits(opened)
    run_one("export", opened, refresh, json)


def _with_formats(project: "Project", formats: list[str]) -> "Project":
    unknown = [name for name in formats if name not in get_args(Format)]
    if unknown:
        raise InputError(
            f"--format: got {unknown[0]!r}; expected one of {', '.join(get_args(Format))}"
        )
    outputs = project.config.outputs.model_copy(update={"formats": formats})
    config = project.config.model_copy(update={"outputs": outputs})
    return dataclasses.replace(project, config=config)


def _show(project: "Project", as_json: bool) -> None:
    from usam_core.steps.export import show_edits

    edits = list(show_edits(project))
    if as_json:
        terminal.print_json([edit.to_json() for edit in edits])
        return
    rows = [[edit.format, edit.image, edit.sentence()] for edit in edits]
    terminal.print_table("changed by hand", ["format", "image", "difference"], rows)
