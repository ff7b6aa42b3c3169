"""The steps as Prefect tasks: each one call to `usam_core.stages`, cached by content."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.lineage import flow_run, made_by_this_run
from tasks.policy import BY_CONTENT, ONCE_A_RUN, RETRIES
from tasks.progress import RunProgress, whole_bar
from usam_core import stages
from usam_core.project import open_project
from usam_core.stages import StepResult

MOST_EMBED_TASKS = 200
"""An embed step becomes at most so many task runs, however many images there are."""

GROUPS_A_WORKER = 4
"""A task run has at least so many groups for each worker, which would else wait at its end."""


@task(
    name="step",
    task_run_name="{step}",
    cache_policy=BY_CONTENT,
    persist_result=True,
    **RETRIES,
)
def run_step(
    step: str, key: str, project_file: str, level: str | None, refresh: bool
) -> dict[str, Any]:
    """See `usam_core.stages.run_step`; `key` is there for the cache."""
    del key
    project = open_project(project_file, level)
    result = stages.run_step(
        step, project, refresh=refresh, progress=RunProgress(), flow_run=flow_run()
    )
    return result.to_json()


@task(
    name="embed-shards",
    task_run_name="embed shards {first} of {total}",
    cache_policy=NO_CACHE,  # Prefect's default would hash every path of every group
    **RETRIES,
)
def embed_shards(
    project_file: str, groups: list[dict[str, str]], first: str, total: int
) -> list[dict[str, int]]:
    """Embed some groups of images, one shard each; the store itself is the cache."""
    del first, total
    return stages.embed_groups(open_project(project_file, None), groups, RunProgress())


@task(name="plan-embed", cache_policy=NO_CACHE, **RETRIES)
def plan_embed(project_file: str) -> list[dict[str, str]]:
    """Return the groups of images that the store does not have."""
    return stages.plan_embed(open_project(project_file, None), RunProgress()).groups


@task(name="forget-embeddings", cache_policy=ONCE_A_RUN, persist_result=True, **RETRIES)
def forget_embeddings(project_file: str) -> int:
    """See `usam_core.stages.forget_embeddings`."""
    return stages.forget_embeddings(open_project(project_file, None))


def cached_step(
    step: str, project_file: str, level: str | None, refresh: bool = False
) -> StepResult:
    """Run a step's task, from the cache only while its outputs are undamaged.

    Prefect's record does not know whether the files it speaks of are still there; the core does.
    """
    project = open_project(project_file, level)
    # A retry of the run does not repeat what its first attempt has done on request.
    refresh = refresh and not made_by_this_run(project, step)
    stages.tidy(step, project)
    with stages.listed_once():
        key = stages.step_key(step, project)
        found = None if refresh else stages.intact(step, project, key)
    run = run_step.with_options(refresh_cache=found is None)
    result = StepResult.from_json(run(step, key, project_file, level, refresh))
    return found or result


def embed_all(project_file: str, level: str | None, refresh: bool = False) -> StepResult:
    """Embed what is missing, in at most `MOST_EMBED_TASKS` tasks, then record the step.

    Args:
        project_file: the project.
        level: replaces the file's level when given.
        refresh: forget what is stored of the project's images first.
    """
    if refresh:
        forget_embeddings(project_file)
    # Images that come meanwhile are the next run's: the record speaks of what was planned.
    with stages.listed_once():
        groups = plan_embed(project_file)
        if not groups:
            return cached_step("embed", project_file, level)
        counts = _embed(project_file, level, groups)
        result = cached_step("embed", project_file, level)
    embedded = sum(count["embedded"] for count in counts)
    done = embedded + sum(count["quarantined"] for count in counts)
    summary = {**result.summary, "embedded": embedded, "reused": result.summary["images"] - done}
    return StepResult("embed", result.key, not done, result.path, summary, result.outputs)


def _embed(
    project_file: str, level: str | None, groups: list[dict[str, str]]
) -> list[dict[str, int]]:
    project = open_project(project_file, level)
    counts: list[dict[str, int]] = []
    with (
        stages.embed_workers(project, len(groups)) as workers,
        whole_bar("Embedding", sum(map(len, groups))),
    ):
        many = GROUPS_A_WORKER * workers if workers > 1 else 1
        size = max(-(-len(groups) // MOST_EMBED_TASKS), many)
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            span = f"{start + 1} to {start + len(some)}"
            counts += embed_shards(project_file, some, span, len(groups))
    return counts
