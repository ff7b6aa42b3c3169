"""Work ahead of a loop and behind it, on threads, with bounded queues.

A loop that feeds a device should wait neither for files nor for the disk: `prefetch` makes its
inputs while it is busy, `BackgroundWriter` writes its outputs. Both keep the order, hold few items,
pass errors on to the loop, and leave no thread behind however the loop ends.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    function: Callable[[Item], Made], items: Iterable[Item], threads: int, depth: int
) -> Iterator[Made]:
    """Yield `function` of each item in order, worked out while the caller is busy with others.

    Close the iterator (`contextlib.closing`) if it may not be used up; what was begun is finished,
    nothing more is begun.

    Args:
        function: called on the threads; its error is raised in its item's place.
        items: taken from the caller's thread.
        threads: how many are worked on at a time.
        depth: how many are begun and not yet taken, at most.
    """
    left = iter(items)
    with ThreadPoolExecutor(threads, "usam-ahead") as pool:
        waiting = deque(pool.submit(function, item) for item in islice(left, depth))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


class BackgroundWriter:
    """Does jobs on threads behind a loop; leaving the block waits for them.

    If the block is left by an error, jobs that are not begun are dropped. The first error of a job
    is raised at the next `put`, or when the block is left.

    Args:
        threads: jobs at a time; with one, they are done in order.
        depth: jobs put and not yet done, at most; `put` waits beyond that.
    """

    def __init__(self, threads: int, depth: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "usam-behind")
        self._depth = depth
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del error, traceback
        if kind is None:
            try:
                while self._waiting:
                    self._waiting.popleft().result()
            finally:
                self._pool.shutdown(cancel_futures=True)
        else:
            self._pool.shutdown(cancel_futures=True)

    def put(self, function: Callable[..., Made], *arguments: Any) -> "Future[Made]":
        """Have `function(*arguments)` done; the result is in what is returned."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
        future = self._pool.submit(function, *arguments)
        self._waiting.append(future)
        return future
