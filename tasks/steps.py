"""The steps as Prefect tasks: each one call to `usam_core.steps`, which knows what still holds."""

from collections.abc import Sequence
from typing import Any

from prefect import task

from tasks.lineage import done_in_this_run, flow_run, made_by_this_run, note_done
from tasks.policy import TASK, cached
from tasks.progress import RunProgress, whole_bar
from usam_core import steps as stages
from usam_core.config.project import load_project
from usam_core.steps import StepResult

MAX_EMBED_TASKS = 200
"""An embed step becomes at most so many task runs, however many images there are."""

GROUPS_PER_WORKER = 4
"""A task run has at least so many groups for each worker, which would else wait at its end."""


@task(name="step", task_run_name="{step}", **TASK)
def run_step(step: str, project_file: str, changes: dict[str, str], refresh: bool) -> Any:
    """See `usam_core.steps.run_step`."""
    project = load_project(project_file, **changes)
    # A retry of the run does not repeat what its first attempt has done on request.
    refresh = refresh and not made_by_this_run(project, step)
    result = stages.run_step(
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
    if step == "collect":
        _collect_all(project_file, changes, refresh, only)
    return _cached_step(step, project_file, changes, refresh)


def _cached_step(
    step: str, project_file: str, changes: dict[str, str], refresh: bool = False
) -> StepResult:
    """Run a step's task; a step that is intact does nothing, and is shown as Cached."""
    state = run_step(step, project_file, changes, refresh, return_state=True)
    return StepResult.from_json(state.result())


def _collect_all(
    project_file: str, changes: dict[str, str], refresh: bool, only: Sequence[str]
) -> None:
    """Collect class by class; the step itself writes the manifest."""
    project = load_project(project_file, **changes)
    if refresh or stages.intact("collect", project) is None:
        for spec in project.config.collected:
            wanted = not only or spec.name in only
            collect_class(project_file, changes, spec.name, refresh and wanted)


def _embed_all(project_file: str, changes: dict[str, str], refresh: bool) -> StepResult:
    """Embed what is missing, in at most `MAX_EMBED_TASKS` tasks, then record the step."""
    if refresh:
        forget_embeddings(project_file, changes)
    # Images that come meanwhile are the next run's: the record speaks of what was planned.
    with stages.listed_once():
        groups = plan_embed(project_file, changes)
        if not groups:
            return _cached_step("embed", project_file, changes)
        counts = _embed(project_file, changes, groups)
        result = _cached_step("embed", project_file, changes)
    embedded = sum(count["embedded"] for count in counts)
    done = embedded + sum(count["quarantined"] for count in counts)
    summary = {**result.summary, "embedded": embedded, "reused": result.summary["images"] - done}
    return StepResult("embed", result.key, not done, result.path, summary, result.outputs)


def _embed(
    project_file: str, changes: dict[str, str], groups: list[dict[str, str]]
) -> list[dict[str, int]]:
    from usam_core.steps import embed

    project = load_project(project_file, **changes)
    counts: list[dict[str, int]] = []
    with (
        embed.workers(project, len(groups)) as workers,
        whole_bar("Embedding", sum(map(len, groups))),
    ):
        many = GROUPS_PER_WORKER * workers if workers > 1 else 1
        size = max(-(-len(groups) // MAX_EMBED_TASKS), many)
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            span = f"{start + 1} to {start + len(some)}"
            counts += embed_shards(project_file, changes, some, span, len(groups))
    return counts
