"""Ctrl-C: work in hand is finished or sealed, then the run stops; a second one stops at once.

A block of `finishing` is work that would be lost if it were cut short: a shard whose images went
through SAM already. Within it the first Ctrl-C is only noted; the work looks at `stopping` now and
then and comes to an end that keeps what there is. Everywhere else everything that is written is
whole or absent, and the first Ctrl-C ends the work right there.

Without `watched`, as in a notebook or in a worker, Ctrl-C is Python's own.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_asked = False
_finishing = 0


def stopping() -> bool:
    """Whether someone has asked that the work come to its end; on any thread."""
    return _asked


def ask() -> None:
    """Ask that the work come to its end, as the first Ctrl-C does within `finishing`."""
    global _asked
    _asked = True


@contextmanager
def finishing() -> Iterator[None]:
    """Let the block come to its own end; then raise the `KeyboardInterrupt` that came meanwhile.

    Only the main thread's blocks count: signals arrive there.
    """
    global _finishing
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _finishing += 1
    try:
        yield
    finally:
        _finishing -= 1
    if _asked and not _finishing:
        raise KeyboardInterrupt


@contextmanager
def watched(noted: Callable[[], None], at_once: Callable[[], None]) -> Iterator[None]:
    """Take over Ctrl-C for the block, which the main thread runs.

    Args:
        noted: called at the first one if there is work to be finished; else a `KeyboardInterrupt`
            is raised at once.
        at_once: called at every further one; it ends the process.
    """
    global _asked
    _asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if _asked:
            at_once()
            return
        ask()
        if not _finishing:
            raise KeyboardInterrupt
        noted()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        if not _asked:  # else the process is about to end, and a further one hurries it
            signal.signal(signal.SIGINT, before)
