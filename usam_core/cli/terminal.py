"""What the command line shows: progress bars on a terminal, tables, JSON, one-line errors."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from usam_core.progress import SILENT, Bar, Progress

screen = Console()
errors = Console(stderr=True)


class _RichBar:
    def __init__(self, display: RichProgress, task: Any) -> None:
        self._display = display
        self._task = task

    def advance(self, count: int = 1) -> None:
        self._display.advance(self._task, count)


class _RateColumn(ProgressColumn):
    """Items a second, as of late."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")


class TerminalProgress:
    """Bars on the error stream, so that piped output stays clean."""

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Show a bar while the block runs."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _RateColumn(),
        )
        with RichProgress(*columns, console=errors, transient=True) as display:
            yield _RichBar(display, display.add_task(what, total=total))


def progress_for_terminal() -> Progress:
    """Return bars on a terminal, silence elsewhere."""
    return TerminalProgress() if sys.stderr.isatty() else SILENT


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_error(error: Exception | str) -> None:
    """Print an error as plain lines, without a traceback."""
    errors.print(f"usam: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
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
