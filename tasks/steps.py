"""The steps as Prefect tasks: each one call to `usam_core.steps`, which knows what still holds."""

import json
from collections.abc import Sequence
from typing import Any

from prefect import runtime, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff

from tasks.report import RunProgress, whole_bar
from usam_core import steps as core
from usam_core.config.project import Project, load_project
from usam_core.errors import TransientError
from usam_core.files.atomic import write_json
from usam_core.lineage.document import LINEAGE
from usam_core.steps import StepResult, step_folder

MAX_EMBED_TASKS = 200
"""An embed step becomes at most so many task runs, however many images there are."""

GROUPS_PER_WORKER = 4
"""A task run has at least so many groups for each worker, which would else wait at its end."""

_DONE = ".done-in-run.json"


def cached(data: Any = None) -> State[Any]:
    """Return the state of a task run that found its work done; the UI shows it as Cached."""
    return Completed(name="Cached", data=data)


def only_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failed task is worth another try: only where the world failed."""
    del task, run
    try:
        state.result()
    except Exception as error:
        return isinstance(error, TransientError)
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


def flow_run() -> dict[str, str] | None:
    """Return `id`, `name` and, if it is a deployment's, `deployment` of the run at hand."""
    if not runtime.flow_run.id:
        return None
    run = {"id": runtime.flow_run.id, "name": runtime.flow_run.name}
    run["deployment"] = runtime.deployment.name
    return {key: str(value) for key, value in run.items() if value}


def made_by_this_run(project: Project, step: str) -> bool:
    """Say whether a step's outputs are of this very run: of an earlier attempt at it."""
    run = flow_run()
    try:
        text = (step_folder(project, step) / LINEAGE).read_text(encoding="utf-8")
        return run is not None and json.loads(text)["flow_run"]["id"] == run["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def done_in_this_run(project: Project, step: str, what: str) -> bool:
    """Say whether an earlier attempt at this run has noted that `what` of the step is done."""
    return what in _noted(project, step)


def note_done(project: Project, step: str, what: str) -> None:
    """Note in the step's folder what a retry of this run does not do again."""
    if run := flow_run():
        note = {"flow_run": run["id"], "done": [*_noted(project, step), what]}
        write_json(step_folder(project, step) / _DONE, note)


def _noted(project: Project, step: str) -> list[str]:
    run = flow_run()
    try:
        note = json.loads((step_folder(project, step) / _DONE).read_text(encoding="utf-8"))
        return note["done"] if run is not None and note["flow_run"] == run["id"] else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


@task(name="step", task_run_name="{step}", **TASK)
def run_step(step: str, project_file: str, changes: dict[str, str], refresh: bool = False) -> Any:
    """See `usam_core.steps.run_step`; a step that is intact is shown as Cached."""
    project = load_project(project_file, **changes)
    # A retry of the run does not repeat what its first attempt has done on request.
    refresh = refresh and not made_by_this_run(project, step)
    result = core.run_step(
        step, project, refresh=refresh, progress=RunProgress(), flow_run=flow_run()
    )
    return cached(result.to_json()) if result.reused else result.to_json()


@task(name="collect-class", task_run_name="collect {name}", tags=["usam-collect"], **TASK)
def collect_class(project_file: str, changes: dict[str, str], name: str, refresh: bool) -> Any:
    """See `usam_core.steps.collect`; what is there already is not got again.

    Crawls take turns over all runs of a machine by a lock of the core's, which a kill frees; a
    limit of Prefect's was seen to stay taken for ever after one. For several machines, give the
    tag `usam-collect` a concurrency limit.
    """
    project = load_project(project_file, **changes)
    if done_in_this_run(project, "collect", name):
        return cached()
    from usam_core.steps import collect  # torch and all: when it is needed

    counts = collect.collect_class(project, name, refresh=refresh, progress=RunProgress())
    note_done(project, "collect", name)
    return counts


@task(name="embed-shards", task_run_name="embed shards {first} of {total}", **TASK)
def embed_shards(
    project_file: str,
    changes: dict[str, str],
    groups: list[dict[str, str]],
    first: str,
    total: int,
) -> list[dict[str, int]]:
    """Embed some groups of images, one shard each; the store itself is the cache."""
    del first, total
    from usam_core.steps import embed

    return embed.embed_groups(load_project(project_file, **changes), groups, RunProgress())


@task(name="plan-embed", **TASK)
def plan_embed(project_file: str, changes: dict[str, str]) -> list[dict[str, str]]:
    """Return the groups of images that the store does not have."""
    from usam_core.steps import embed

    return embed.plan(load_project(project_file, **changes), RunProgress())


@task(name="forget-embeddings", **TASK)
def forget_embeddings(project_file: str, changes: dict[str, str]) -> Any:
    """See `usam_core.steps.embed`; done once a run, not again by a retry of it."""
    project = load_project(project_file, **changes)
    if done_in_this_run(project, "embed", "forgotten"):
        return cached()
    from usam_core.steps import embed

    count = embed.forget(project)
    note_done(project, "embed", "forgotten")
    return count


def do_step(
    step: str,
    project_file: str,
    changes: dict[str, str],
    refresh: bool = False,
    only: Sequence[str] = (),
) -> StepResult:
    """Run a step, in several tasks where its work can be parted.

    Args:
        step: one of `STEPS`.
        project_file: the project.
        changes: settings that replace the file's: `level`, `recipe`.
        refresh: do it again even if nothing has changed.
        only: of `collect`: drop the pictures of these classes alone; the others are got where they
            miss some.
    """
    if step == "embed":
        return _embed_all(project_file, changes, refresh)
    if step == "collect":  # class by class; the step itself writes the manifest
        project = load_project(project_file, **changes)
        if refresh or core.intact("collect", project) is None:
            for spec in project.config.collected:
                wanted = not only or spec.name in only
                collect_class(project_file, changes, spec.name, refresh and wanted)
    return _step(step, project_file, changes, refresh)


def _step(
    step: str, project_file: str, changes: dict[str, str], refresh: bool = False
) -> StepResult:
    # The state, so that a step that did nothing stays Cached.
    state = run_step(step, project_file, changes, refresh, return_state=True)
    return StepResult.from_json(state.result())


def _embed_all(project_file: str, changes: dict[str, str], refresh: bool) -> StepResult:
    """Embed what is missing, in at most `MAX_EMBED_TASKS` tasks, then record the step."""
    from usam_core.steps import embed

    if refresh:
        forget_embeddings(project_file, changes)
    # Images that come meanwhile are the next run's: the record speaks of what was planned.
    with core.listed_once():
        groups = plan_embed(project_file, changes)
        if not groups:
            return _step("embed", project_file, changes)
        counts: list[dict[str, int]] = []
        with (
            embed.workers(load_project(project_file, **changes), len(groups)) as workers,
            whole_bar("Embedding", sum(map(len, groups))),
        ):
            share = GROUPS_PER_WORKER * workers if workers > 1 else 1
            size = max(-(-len(groups) // MAX_EMBED_TASKS), share)
            for start in range(0, len(groups), size):
                some = groups[start : start + size]
                span = f"{start + 1} to {start + len(some)}"
                counts += embed_shards(project_file, changes, some, span, len(groups))
        result = _step("embed", project_file, changes)
    embedded = sum(count["embedded"] for count in counts)
    done = embedded + sum(count["quarantined"] for count in counts)
    summary = {**result.summary, "embedded": embedded, "reused": result.summary["images"] - done}
    return StepResult("embed", result.key, not done, result.path, summary, result.outputs)
