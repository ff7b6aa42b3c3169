"""`usam export`: the labels in other programs' formats, and what was changed in them by hand."""

import dataclasses
from pathlib import Path
from typing import Annotated, get_args

import typer

from usam_core.cli import terminal
from usam_core.config_results import Format
from usam_core.errors import InputError
from usam_core.project import Project, load_project


def export(
    project: Annotated[Path, typer.Argument(help="The project file, project.yaml.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help=f"In place of outputs.formats: {', '.join(get_args(Format))}."
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(help="Take the labels of `classes`, of their `parents`, or of one parent."),
    ] = None,
    show_edits: Annotated[
        bool, typer.Option("--show-edits", help="Say what was changed by hand, and write nothing.")
    ] = False,
    overwrite_edited: Annotated[
        bool, typer.Option("--overwrite-edited", help="Write files changed by hand anew.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Do it again even if nothing changed.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, for machines.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log.")] = False,
) -> None:
    """Write the labels for other programs; files that a person has changed are kept."""
    from usam_core.cli.app import run_one, set_logging
    from usam_core.stages.export import drop_edits

    set_logging(verbose)
    opened = load_project(project, **({"level": level} if level else {}))
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


def _with_formats(project: Project, formats: list[str]) -> Project:
    unknown = [name for name in formats if name not in get_args(Format)]
    if unknown:
        raise InputError(
            f"--format: got {unknown[0]!r}; expected one of {', '.join(get_args(Format))}"
        )
    outputs = project.config.outputs.model_copy(update={"formats": formats})
    config = project.config.model_copy(update={"outputs": outputs})
    return dataclasses.replace(project, config=config)


def _show(project: Project, as_json: bool) -> None:
    from usam_core.stages.export import show_edits

    edits = list(show_edits(project))
    if as_json:
        terminal.print_json([edit.to_json() for edit in edits])
        return
    rows = [[edit.format, edit.image, edit.sentence()] for edit in edits]
    terminal.print_table("changed by hand", ["format", "image", "difference"], rows)
