"""What a run writes into Prefect's log: its steps, their progress, and failures as sentences."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from usam_core.cli.watch import WATCH
from usam_core.config.project import Project
from usam_core.errors import UsamError
from usam_core.steps import STEPS, StepResult

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class _Sentences(logging.Filter):
    """Lets an error of ours stand as its sentence; the traceback is for errors nobody foresaw."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UsamError):
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_Sentences())


def log(line: str) -> None:
    """Write a line into the log of the run at hand, if there is one."""
    try:
        get_run_logger().info(line)
    except MissingContextError:
        return


@contextmanager
def numbered(project: Project, steps: Sequence[str]) -> Iterator[None]:
    """Number the steps while the block does them, on the terminal and in the log."""
    with WATCH.run(project, steps) as course:
        log(f"{len(steps)} steps: {', '.join(steps)}")
        yield
        log(f"all {course.done} steps are done")


def tell(result: StepResult) -> None:
    """Say that a step is finished, and what came of it."""
    sentence = STEPS[result.step].sentence(result.summary, result.reused)
    if WATCH.course is None:
        log(f"{result.step}: {sentence}")
    else:
        log(WATCH.finish(sentence))
