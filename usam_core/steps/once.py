"""What is looked at once in a run, however often it is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_T = TypeVar("_T")

_found: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("found", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within the block, each folder is listed once, however often it is asked for.

    A whole run is such a block: images that come while it works are the next run's, and none of
    its steps misses what an earlier one did not see. An inner block belongs to the outer one.
    """
    token = _found.set({}) if _found.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _found.reset(token)


def once(what: str, of: str, make: Callable[[], _T]) -> _T:
    """Return what `make` gives, within `listed_once` what it gave the first time.

    Args:
        what: what is made.
        of: what of, such as a folder.
        make: makes it; what it returns is shared and must not be changed.
    """
    found = _found.get()
    if found is None:
        return make()
    if (what, of) not in found:
        found[what, of] = make()
    return found[what, of]
