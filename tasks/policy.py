"""When a step's task is served from the cache, and when it is tried again."""

from typing import Any

from prefect.cache_policies import INPUTS, RUN_ID, CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task, exponential_backoff

from usam_core.errors import TransientError


def _key(_: TaskRunContext, parameters: dict[str, Any]) -> str:
    return f"usam-{parameters['step']}-{parameters['key']}"


BY_CONTENT = CacheKeyFnPolicy(cache_key_fn=_key)
"""Cache on the step's key alone: the digest of its revision and of the content of its inputs.

Prefect's own policies would hash paths, which do not change when a file does, and the wrapper's
source, which does not change when the core does.
"""

ONCE_A_RUN = RUN_ID + INPUTS
"""What throws results away on request is done once a run: a retry of the run does not again."""


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


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": only_transient,
}
"""Options of every task: three tries more, after about 5, 10 and 20 seconds."""
