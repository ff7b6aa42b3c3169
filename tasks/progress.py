"""Progress of a task: bars on the terminal, and a progress artifact on the run page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from usam_core.cli.terminal import progress_for_terminal
from usam_core.progress import Bar

_SECONDS_BETWEEN = 5.0


class _RunBar:
    def __init__(self, inner: Bar, what: str, total: int) -> None:
        self._inner = inner
        self._what = what
        self._total = total
        self._done = 0
        self._artifact = None
        self._written = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._inner.advance(count)
        self._done += count
        now = time.monotonic()
        # Each update is a request to the server: a quick bar makes none at all.
        if now - self._written > _SECONDS_BETWEEN:
            self._written = now
            self.write()

    def write(self) -> None:
        percent = 100 * self._done / max(1, self._total)
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=self._what)
        else:
            update_progress_artifact(self._artifact, percent)

    def close(self) -> None:
        if self._artifact is not None:
            self.write()


class RunProgress:
    """What the tasks hand to the core."""

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Show a bar on the terminal, and an artifact when the work takes more than seconds."""
        with progress_for_terminal().bar(what, total) as inner:
            if total is None or TaskRunContext.get() is None:
                yield inner
                return
            bar = _RunBar(inner, what, total)
            yield bar
            bar.close()
