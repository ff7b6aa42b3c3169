"""What a person sees of long work on stderr: bars on a terminal, lines elsewhere, steps done.

One `Watch` serves a process. It is silent until a command line opens it: flows that a Prefect
worker runs tell of themselves in Prefect's log (`tasks.report`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from usam_core.errors import UsamError
from usam_core.progress import (
    ITEMS,
    LONG_SECONDS,
    SILENT,
    Bar,
    Lines,
    Pace,
    Progress,
    clock,
    duration,
)
from usam_core.steps import STEPS

if TYPE_CHECKING:
    from usam_core.config.project import Project

errors = Console(stderr=True)


def tell(text: object) -> None:
    """Print a line on stderr as it is: not broken, without colors, brackets in it no markup."""
    errors.print(str(text), soft_wrap=True, highlight=False, markup=False)


@dataclass
class Course:
    """Where a run of several steps is.

    Attributes:
        project: which is run.
        steps: those that the run does, in order.
        done: how many of them are finished.
        at: when the step at hand began, on the monotonic clock.
        sam: seconds that SAM takes an image here, as far as that was measured; else 0.
    """

    project: "Project"
    steps: Sequence[str]
    done: int = 0
    at: float = field(default_factory=time.monotonic)
    sam: float = 0.0

    @property
    def step(self) -> str:
        """The step at hand; "" when all are done."""
        return self.steps[self.done] if self.done < len(self.steps) else ""

    @property
    def place(self) -> str:
        """Which step of how many; nothing of a step that is run alone."""
        count = len(self.steps)
        return f"step {min(self.done + 1, count)} of {count}" if count > 1 else ""

    def before(self, text: str) -> str:
        """Return a text with the place before it."""
        return f"{self.place}: {text}" if self.place else text

    def finish(self, sentence: str) -> str:
        """Go on to the next step; return a line on the one that is finished."""
        now = time.monotonic()
        name = f"{self.place}, {self.step}" if self.place else self.step
        line = f"{name}: {sentence} ({duration(now - self.at)})"
        rest = self._rest(self.sam)
        self.done, self.at = self.done + 1, now
        return f"{line}; the whole run about {clock(rest)}" if rest >= LONG_SECONDS else line

    def outlook(self, what: str, pace: Pace) -> list[str]:
        """What a first line says beyond the work itself: disk, and the end of the whole run."""
        from usam_core.steps.outlook import disk

        parts = []
        if what == "Embedding":
            with suppress(UsamError, OSError):  # what cannot be told stops no run
                parts.append(disk(self.project, pace.total))
        if what == "Embedding" and pace.each:
            self.sam = pace.each
        rest = self._rest(pace.each or 0.0)
        if rest and pace.left is not None:
            parts.append(f"the whole run about {clock(pace.left + rest)}")
        return parts

    def _rest(self, each: float) -> float:
        """Seconds of the steps after the one at hand; 0 where that cannot be known."""
        from usam_core.steps.outlook import seconds_of

        later = self.steps[self.done + 1 :]
        with suppress(UsamError, OSError):
            return seconds_of(self.project, self.step, later, each) if later else 0.0
        return 0.0


class Watch:
    """Makes bars on a terminal and lines elsewhere, and says which step of how many is at work."""

    def __init__(self) -> None:
        self.course: Course | None = None
        self._open = False
        self._last: tuple[str, Pace] | None = None

    def open(self) -> None:
        """Show what is done from now on."""
        self._open = True

    @property
    def on(self) -> Progress:
        """This, or silence while it is not open."""
        return self if self._open else SILENT

    @contextmanager
    def run(self, project: "Project", steps: Sequence[str]) -> Iterator[Course]:
        """Number the steps of a run while the block does them."""
        self.course = Course(project, steps)
        try:
            yield self.course
        except KeyboardInterrupt:
            raise  # `stopped` will say where that was
        except BaseException:
            self.course = None
            raise
        self.course = None

    def finish(self, sentence: str) -> str:
        """Say that the step at hand is finished, in a line that stays; return the line."""
        line = self.course.finish(sentence) if self.course else sentence
        self._last = None
        if self._open:
            tell(line)
        return line

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Show a bar, or lines, while the block runs."""
        pace = Pace(total or 0)
        before, self._last = self._last, (what, pace)
        outlook = self.course.outlook if self.course else None
        terminal = errors.is_terminal
        lines = Lines(what, pace, self._say, outlook, every=not terminal)
        if terminal and total != 0:
            with _display(self._title(what), total) as (display, task):
                yield _Shown(pace, lines if total else None, display, task)
        else:
            yield _Shown(pace, lines if total else None)
        self._last = before if before is not None else self._last

    def stopped(self) -> str:
        """Say where the work was stopped, and what is kept of it."""
        place = ""
        if self.course and self.course.step:
            place = f" in {self.course.place}".removesuffix(" in ")
            place = f"{place}, {self.course.step}" if place else f" in {self.course.step}"
        if self._last and self._last[1].total:
            what, pace = self._last
            item = ITEMS.get(what, "item")
            place += f" at {pace.done:,} of {pace.total:,} {item}s ({what.lower()})"
        finished = self.course.steps[: self.course.done] if self.course else []
        kept = [f"finished steps ({', '.join(finished)})"] if finished else []
        step = STEPS.get(self.course.step) if self.course else None
        if step and step.kept:
            kept.append(step.kept)
        text = f"stopped{place}"
        return f"{text}; kept: {' and '.join(kept)}" if kept else text

    def _title(self, what: str) -> str:
        return self.course.before(what) if self.course else what

    def _say(self, line: str) -> None:
        tell(self._title(line))


class _Shown:
    def __init__(
        self,
        pace: Pace,
        lines: Lines | None,
        display: RichProgress | None = None,
        task: TaskID = TaskID(0),
    ) -> None:
        self._pace, self._lines, self._display, self._task = pace, lines, display, task

    def advance(self, count: int = 1) -> None:
        """Report `count` more items as done."""
        self._pace.advance(count)
        if self._display is not None:
            self._display.advance(self._task, count)
        if self._lines is not None:
            self._lines.look()


@contextmanager
def _display(title: str, total: int | None) -> Iterator[tuple[RichProgress, TaskID]]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _RateColumn(),
    )
    with RichProgress(*columns, console=errors, transient=True) as display:
        yield display, display.add_task(title, total=total)


class _RateColumn(ProgressColumn):
    """Items a second, as of late."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")


WATCH = Watch()
"""Of this process."""


def at_once(go_on: str) -> None:
    """Say that the process ends now and how to go on; leave the terminal as it should be."""
    errors.show_cursor(True)
    tell(f"\nusam: stopped at once; what was finished before is kept{go_on}")
