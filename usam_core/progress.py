"""How long work tells that it goes on: one small protocol, silent unless a front end gives more.

The command line shows `rich` bars (`usam_core.cli`), the Prefect tasks write progress artifacts
(`tasks.report`); the core only ever calls `bar` and `advance`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of work that advances."""

    def advance(self, count: int = 1) -> None:
        """Say that `count` more items are done."""


class Progress(Protocol):
    """Makes bars."""

    def bar(self, what: str, total: int | None) -> AbstractContextManager[Bar]:
        """Return a context manager that yields a bar; `total` None means unknown."""


class _SilentBar:
    def advance(self, count: int = 1) -> None:
        del count


class Silent:
    """The default: says nothing."""

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Yield a bar that ignores everything."""
        del what, total
        yield _SilentBar()


SILENT = Silent()


class Advance:
    """Makes bars that all pass on what they are told to one function.

    Args:
        advance: called with the number of items done since the last call.
    """

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Yield a bar that passes on its advances."""
        del what, total
        yield self

    def advance(self, count: int = 1) -> None:
        """Say that `count` more items are done."""
        self._advance(count)
