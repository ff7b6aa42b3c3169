"""Progress of a run: bars on the terminal, and a progress artifact on the run page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext

from usam_core.cli.terminal import progress_for_terminal
from usam_core.files.text import markdown
from usam_core.progress import Bar, Pace

_SECONDS_BETWEEN = 5.0


class _RunBar:
    def __init__(self, inner: Bar, what: str, total: int) -> None:
        self._inner = inner
        self._what = what
        self._pace = Pace(total)
        self._artifact = None
        self._written = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._inner.advance(count)
        self._pace.advance(count)
        now = time.monotonic()
        # Each update is a request to the server: a quick bar makes none at all.
        if now - self._written > _SECONDS_BETWEEN:
            self._written = now
            self.write()

    def write(self) -> None:
        text = markdown(f"{self._what}: {self._pace}")
        if self._artifact is None:
            self._artifact = create_progress_artifact(self._pace.percent, description=text)
        else:
            update_progress_artifact(self._artifact, self._pace.percent, text)

    def close(self) -> None:
        if self._artifact is not None:
            self.write()


_whole: ContextVar[tuple[str, Bar] | None] = ContextVar("whole", default=None)


@contextmanager
def whole_bar(what: str, total: int) -> Iterator[None]:
    """Show one bar for work that several task runs share; their own bars of that name add to it."""
    with RunProgress().bar(what, total) as bar:
        token = _whole.set((what, bar))
        try:
            yield
        finally:
            _whole.reset(token)


class RunProgress:
    """What the tasks hand to the core."""

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Show a bar on the terminal, and an artifact when the work takes more than seconds."""
        whole = _whole.get()
        if whole is not None and whole[0] == what:
            yield whole[1]
            return
        with progress_for_terminal().bar(what, total) as inner:
            if total is None or not (TaskRunContext.get() or FlowRunContext.get()):
                yield inner
                return
            bar = _RunBar(inner, what, total)
            try:
                yield bar
            finally:
                bar.close()
