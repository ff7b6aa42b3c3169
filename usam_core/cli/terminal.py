"""What the commands share: arguments, tables, JSON, the log."""

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from usam_core.cli.watch import errors as errors
from usam_core.config import PROJECT_FILE
from usam_core.errors import InputError


def project_file(text: str) -> Path:
    """Return the project file that a path means: of a folder, the `project.yaml` in it.

    Raises:
        InputError: the folder has none.
    """
    path = Path(text)
    if not path.is_dir():
        return path
    if not (path / PROJECT_FILE).is_file():
        raise InputError(
            f"{path}: no {PROJECT_FILE} in this folder; expected a project, as "
            f"`usam init {shlex.quote(str(path))}` makes one"
        )
    return path / PROJECT_FILE


ProjectFile = Annotated[
    Path,
    typer.Argument(
        help="The project file, project.yaml, or its folder.",
        parser=project_file,
        metavar="PROJECT",
    ),
]
MaybeProject = Annotated[
    Path | None,
    typer.Argument(help="A project file or its folder.", parser=project_file, metavar="PROJECT"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
Papers = Annotated[
    bool, typer.Option("--papers", help="The papers' mode: recipe: papers, nothing of ours.")
]
Level = Annotated[
    str | None,
    typer.Option(
        help="Label with `classes`, with their `parents`, or name one parent: its classes become "
        "one, the others stay."
    ),
]
LabelsLevel = Annotated[
    str | None,
    typer.Option(help="Take the labels of `classes`, of their `parents`, or of one parent."),
]
"""Of commands that make no labels but use those that are there."""
Only = Annotated[
    list[str] | None,
    typer.Option("--class", help="This class alone; may be given several times."),
]
Contact = Annotated[str | None, typer.Option(help="For the web: your e-mail address or page.")]
Names = Annotated[
    Literal["cleaned", "raw"],
    typer.Option(help="Of a preset: words that people use, or the data set's own."),
]

screen = Console()


def set_logging(verbose: bool) -> bool:
    """Show our own warnings, or everything of ours; what libraries log stays with them."""
    ours = logging.getLogger("usam_core")
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        ours.addHandler(handler)
    return verbose


Verbose = Annotated[bool, typer.Option("--verbose", help="Show the log.", callback=set_logging)]


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(text: object, console: Console = screen) -> None:
    """Print a line as it is: not broken, without colors, brackets in it no markup."""
    console.print(str(text), soft_wrap=True, highlight=False, markup=False)


def print_error(error: Exception | str) -> None:
    """Print an error as plain lines, without a traceback."""
    errors.print(f"usam: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; None shows as a dash, fractions with three digits."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        text = any(isinstance(row[number], str) for row in rows)
        table.add_column(column, justify="left" if text else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    screen.print(table)


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-")
    # As text: brackets in names of classes and files are no markup.
    return Text(f"{value:.3f}" if isinstance(value, float) else str(value))
