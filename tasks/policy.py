"""What Prefect keeps of a task, how it shows what was there already, and when it tries again."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff

from usam_core.errors import TransientError


def cached(data: Any = None) -> State[Any]:
    """Return the state of a task run that found its work done; the UI shows it as Cached."""
    return Completed(name="Cached", data=data)


def only_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed task is worth another try: only where the world failed."""
    del task, run
    try:
        state.result()
    except TransientError:
        return True
    except Exception:
        return False
    return False


TASK: dict[str, Any] = {
    # Prefect unpickles what it keeps, from a folder that others may write to.
    "persist_result": False,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": only_transient,
}
"""Options of every task: no result is kept; three tries more, after about 5, 10 and 20 seconds."""
