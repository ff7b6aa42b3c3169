"""How much and how fast: the caps of one class, the pace of a host, and how a fetch can end."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from usam_core.errors import without_secrets

Permit = Callable[[str], None]
"""Looks at an address before each request to it; raises `FetchFailed` to forbid it."""


class FetchFailed(Exception):
    """An address gave nothing of use.

    Args:
        code: one short word for counting, as in `Rejected.code`.
        reason: a sentence for people.
        again: whether another try may go better.
        wait: seconds that the server asked to wait before it.
        lost: whether it looks as if this machine, not the other one, had no network.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        again: bool = False,
        wait: float | None = None,
        lost: bool = False,
    ) -> None:
        self.code, self.reason = code, without_secrets(reason)
        super().__init__(self.reason)
        self.again = again
        self.wait = wait
        self.lost = lost

    @property
    def settled(self) -> bool:
        """Whether a page that failed so stays as it is: asked tomorrow, it would fail again."""
        return not self.again and self.code not in ("timeout", "tls", "private_address")


class CapReached(Exception):
    """The class has used up its time or its bytes; what is left may be fetched later."""


class Budget:
    """The time and the bytes that one class may use; shared by its threads.

    Attributes:
        answered: whether any server said anything since the beginning.

    Args:
        seconds: most time, from now.
        max_bytes: most bytes received.
        used: seconds and bytes of both that are used up already.
    """

    def __init__(self, seconds: float, max_bytes: int, used: tuple[float, int] = (0.0, 0)) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds - used[0]
        self._most_bytes = max_bytes
        self._received = used[1]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.answered = False

    @property
    def used(self) -> tuple[float, int]:
        """Seconds and bytes used so far."""
        return self._seconds - (self._end - time.monotonic()), self._received

    def left(self) -> float:
        """Return the seconds left.

        Raises:
            CapReached: none are, or no bytes.
        """
        left = self._end - time.monotonic()
        if self._stopped.is_set():
            raise CapReached("the crawl was stopped")
        if left <= 0:
            raise CapReached(f"{self._seconds / 60:g} minutes (training.web.max_minutes) are over")
        self.spend(0)
        return left

    def sleep(self, seconds: float) -> None:
        """Wait, but not for what would come after the end.

        Raises:
            CapReached: the time would be over before the wait is.
        """
        self._stopped.wait(min(seconds, self.left()))
        self.left()

    def spend(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            CapReached: they are more than the class may have.
        """
        with self._lock:
            self._received += count
            if self._received > self._most_bytes:
                raise CapReached(
                    f"{self._most_bytes / 1e6:g} MB (training.web.max_total_mb) have been fetched"
                )

    def stop(self) -> None:
        """End what waits or is about to begin in other threads."""
        self._stopped.set()


@dataclass(slots=True)
class _HostPace:
    free: float
    interval: float


class Pace:
    """Keeps requests to one host apart, whatever the number of threads.

    Args:
        per_second: most requests a second to one host.
    """

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._hosts: dict[str, _HostPace] = {}
        self._lock = threading.Lock()

    def wait(self, host: str, budget: Budget) -> None:
        """Wait for this thread's turn at a host.

        Raises:
            CapReached: the class's time would be over first.
        """
        with self._lock:
            pace = self._pace(host)
            turn = max(pace.free, time.monotonic())
            pace.free = turn + pace.interval
        wait = turn - time.monotonic()
        if wait > 0:
            budget.sleep(wait)

    def pause(self, host: str, seconds: float) -> None:
        """Ask nothing of a host for a while, because it said so."""
        with self._lock:
            pace = self._pace(host)
            pace.free = max(pace.free, time.monotonic() + seconds)

    def slow_down(self, host: str, interval: float) -> None:
        """Keep requests to a host at least so many seconds apart."""
        with self._lock:
            pace = self._pace(host)
            # The request that asked for the interval counts too.
            pace.free += max(interval - pace.interval, 0)
            pace.interval = max(pace.interval, interval)

    def _pace(self, host: str) -> _HostPace:
        return self._hosts.setdefault(host, _HostPace(0.0, self._interval))
