"""The collect step as tasks: one a class, each with its own retries, crawls one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import task
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from tasks.policy import RETRIES
from tasks.progress import RunProgress
from tasks.steps import cached_step, open_project
from usam_core import stages
from usam_core.project import Project
from usam_core.stages import StepResult

WEB_LIMIT = "usam-web"
"""Prefect's global concurrency limit: over all runs of a server, one class is crawled at a time.

Within a class the crawler keeps to its own limits a host; two crawls would double them."""


@task(name="collect-class", task_run_name="collect {name}", **RETRIES)
def collect_class(project_file: str, level: str | None, name: str, refresh: bool) -> dict[str, int]:
    """See `usam_core.stages.collect_class`; what is there already is not got again."""
    project = open_project(project_file, level)
    with _turn(project):
        return stages.collect_class(project, name, refresh=refresh, progress=RunProgress())


def collect_all(
    project_file: str, level: str | None, refresh: bool = False, only: list[str] | None = None
) -> StepResult:
    """Collect class by class, then filter and write the manifest.

    Args:
        project_file: the project.
        level: replaces the file's level when given.
        refresh: drop the pictures that were made or fetched before, and begin anew.
        only: drop the pictures of these classes alone; the others are got where they miss some.
    """
    project = open_project(project_file, level)
    if refresh or stages.intact("collect", project) is None:
        for spec in project.config.classes:
            wanted = not only or spec.name in only
            collect_class(project_file, level, spec.name, refresh and wanted)
    return cached_step("collect", project_file, level, refresh)


@contextmanager
def _turn(project: Project) -> Iterator[None]:
    if project.config.training.source != "web":
        yield
        return
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(WEB_LIMIT, 1)
    with concurrency(WEB_LIMIT, occupy=1):
        yield
