"""Progress of long work: one small protocol, silent unless a front end gives more.

The command line shows `rich` bars (`usam_core.cli`), the Prefect tasks write progress artifacts
(`tasks.report`); the core only ever calls `bar` and `advance`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
    """Items done of a total, per second, and the time left; `str` gives all three."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._begun = clock()
        self._done = 0

    def advance(self, count: int = 1) -> None:
        """Report `count` more items as done."""
        self._done += count

    @property
    def percent(self) -> float:
        """Share that is done, 0 to 100."""
        return 100 * self._done / max(1, self._total)

    def __str__(self) -> str:
        text = f"{self._done:,} of {self._total:,}"
        seconds = self._clock() - self._begun
        if not self._done or not seconds:
            return text
        rate = self._done / seconds
        left = (self._total - self._done) / rate
        return f"{text}, {rate:.3g} a second, {duration(left)} left"


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
