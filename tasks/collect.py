"""The collect step as tasks: one a class, each with its own retries."""

from typing import Any

from prefect import task

from tasks.lineage import done_in_this_run, note_done
from tasks.policy import TASK, cached
from tasks.progress import RunProgress
from tasks.steps import cached_step
from usam_core import steps as stages
from usam_core.config.project import open_project
from usam_core.steps import StepResult


@task(
    name="collect-class",
    task_run_name="collect {name}",
    tags=["usam-collect"],
    **TASK,
)
def collect_class(project_file: str, level: str | None, name: str, refresh: bool) -> Any:
    """See `usam_core.steps.collect_class`; what is there already is not got again.

    Crawls take turns over all runs of a machine by a lock of the core's, which a kill frees; a
    limit of Prefect's was seen to stay taken for ever after one. For several machines, give the
    tag `usam-collect` a concurrency limit.
    """
    project = open_project(project_file, level)
    if done_in_this_run(project, "collect", name):
        return cached()
    counts = stages.collect_class(project, name, refresh=refresh, progress=RunProgress())
    note_done(project, "collect", name)
    return counts


def collect_all(
    project_file: str, level: str | None, refresh: bool = False, only: list[str] | None = None
) -> StepResult:
    """Collect class by class, then write the manifest.

    Args:
        project_file: the project.
        level: replaces the file's level when given.
        refresh: drop the pictures that were made or fetched before, and begin anew.
        only: drop the pictures of these classes alone; the others are got where they miss some.
    """
    project = open_project(project_file, level)
    if refresh or stages.intact("collect", project) is None:
        for spec in project.config.collected:
            wanted = not only or spec.name in only
            collect_class(project_file, level, spec.name, refresh and wanted)
    return cached_step("collect", project_file, level, refresh)
