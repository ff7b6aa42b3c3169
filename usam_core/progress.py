"""Progress of long work: one small protocol, silent unless a front end gives more.

The command line shows bars or lines (`usam_core.cli.watch`), the Prefect tasks write artifacts and
logs (`tasks.report`); the core only ever calls `bar` and `advance`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Protocol


class Bar(Protocol):
    """One piece of work that advances."""

    def advance(self, count: int = 1) -> None:
        """Report `count` more items as done."""


class Progress(Protocol):
    """Makes bars."""

    def bar(self, what: str, total: int | None) -> AbstractContextManager[Bar]:
        """Return a context manager that yields a bar; `total` None means unknown."""


class Advance:
    """Makes bars that all pass the number of items done since their last call to one function."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Yield a bar that passes on its advances."""
        del what, total
        yield self

    def advance(self, count: int = 1) -> None:
        """Report `count` more items as done."""
        self._advance(count)


def _show_nothing(count: int) -> None:
    del count


SILENT = Advance(_show_nothing)
"""The default."""


class Pace:
    """Items done of a total, per second, and the time left; `str` gives all three.

    As soon as that can be, the clock starts with the first items that are done: what comes before
    them, such as loading a model, comes once.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self._clock = clock
        self._begun = clock()
        self._first: tuple[int, float] | None = None

    def advance(self, count: int = 1) -> None:
        """Report `count` more items as done."""
        self.done += count
        if self._first is None and count:
            self._first = self.done, self._clock()

    @property
    def percent(self) -> float:
        """Share that is done, 0 to 100."""
        return 100 * self.done / max(1, self.total)

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return self._clock() - self._begun

    @property
    def is_measured(self) -> bool:
        """Whether more than the first items are done, which wait for a model to be loaded."""
        return self._first is not None and self.done > self._first[0]

    @property
    def each(self) -> float | None:
        """Seconds an item; None while that cannot be known."""
        if self._first is None:
            return None
        first, at = self._first
        if self.is_measured:
            return (self._clock() - at) / (self.done - first)
        return self.seconds / self.done

    @property
    def left(self) -> float | None:
        """Seconds until all items are done; None while that cannot be known."""
        return None if self.each is None else (self.total - self.done) * self.each

    def __str__(self) -> str:
        text = f"{self.done:,} of {self.total:,}"
        if not self.each or self.left is None:
            return text
        return f"{text}, {1 / self.each:.3g} a second, {duration(self.left)} left"


class Lines:
    """Tells of long work in lines, for logs and for output that is no terminal.

    One line as soon as the first items are measured, if the work is long: how many, seconds each,
    when it will be done. Then one each 30 seconds or 5 %, whichever is first, never two within 5
    seconds. Short work is not told of.

    Args:
        what: the work, such as "Embedding".
        pace: how far it is; the caller advances it.
        say: takes a line.
        outlook: what else the first line says, asked when it is due.
        every: lines after the first one, too.
    """

    def __init__(
        self,
        what: str,
        pace: Pace,
        say: Callable[[str], None],
        outlook: Callable[[str, Pace], list[str]] | None = None,
        *,
        every: bool = True,
    ) -> None:
        self._what, self._pace, self._say, self._outlook = what, pace, say, outlook
        self._every = every
        self._is_long = False
        self._last = 0.0, 0.0

    def look(self) -> None:
        """Say a line if one is due."""
        pace = self._pace
        seconds, percent = pace.seconds, pace.percent
        each, left = pace.each, pace.left
        if not self._is_long and each is not None and left is not None:
            if pace.is_measured and seconds >= MEASURED_SECONDS and left >= LONG_SECONDS:
                self._is_long = True
                self._last = seconds, percent
                self._say(self._forecast(each, left))
            return
        since = seconds - self._last[0]
        due = since >= EVERY_SECONDS or percent - self._last[1] >= EVERY_PERCENT
        if self._every and due and since >= BETWEEN_SECONDS:
            self._last = seconds, percent
            self._say(f"{self._what}: {pace}")

    def _forecast(self, each: float, left: float) -> str:
        pace = self._pace
        if self._what.startswith(LOADING):
            rate = f"{size(pace.total)}, {size(1 / max(each, 1e-12))} a second"
            return f"{self._what}: {rate}; done about {clock(left)}, in {duration(left)}"
        item = ITEMS.get(self._what, "item")
        article = "an" if item[0] in "aeiou" else "a"
        parts = [
            f"{self._what} {pace.total:,} {item}s: {each:.2g} s {article} {item}",
            f"measured on the first {pace.done:,}; done about {clock(left)}, in {duration(left)}",
        ]
        more = self._outlook(self._what, pace) if self._outlook else []
        return "; ".join([", ".join(parts), *more])


MEASURED_SECONDS = 4.0
"""So long the first items are measured before the time of all is told."""
LONG_SECONDS = 20.0
"""Work that takes less from there on is not told of beforehand."""
EVERY_SECONDS, EVERY_PERCENT, BETWEEN_SECONDS = 30.0, 5.0, 5.0

LOADING = "Downloading"
"""Bars of this name count bytes."""
ITEMS = {
    "Composing": "scene",
    "Calibrating": "scene",
    "Describing": "image",
    "Embedding": "image",
    "Labelling": "image",
    "Listing images": "image",
    "Looking at pictures": "picture",
    "Scoring": "image",
    "Training the head": "round",
}
"""What some bars count."""


def clock(seconds: float) -> str:
    """Return the time of day in so many seconds, with the day where it is another."""
    now = datetime.now().astimezone()
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%a %d %b %H:%M}"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(40), duration(150), duration(100_000)
    ('40 s', '2 min', '27 h 46 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def size(count: float) -> str:
    """Return a number of bytes as people say it.

    >>> size(900), size(45_000_000), size(5.6e12)
    ('1 kB', '45 MB', '5.6 TB')
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB")):
        if count >= 10**power:
            shown = count / 10**power
            return f"{shown:.1f} {unit}" if power > 6 and shown < 100 else f"{shown:.0f} {unit}"
    return f"{max(1, count / 1000):.0f} kB"
