"""Each step alone as a flow, to be deployed and rerun by itself."""

from typing import Any

from prefect import flow

from flows.annotate import Level
from tasks.collect import collect_all
from tasks.report import report_collected, report_metrics, report_quarantine
from tasks.steps import cached_step, embed_all


@flow(name="collect", flow_run_name="collect {project_file}")
def collect(
    project_file: str, refresh: bool = False, only: list[str] | None = None
) -> dict[str, Any]:
    """Get the training pictures; `refresh` drops those made or fetched, of `only` if given."""
    result = collect_all(project_file, None, refresh, only)
    report_collected(result)
    return result.to_json()


@flow(name="embed", flow_run_name="embed {project_file}")
def embed(project_file: str) -> dict[str, Any]:
    """Embed what the store does not have; see `usam_core.stages.embed`."""
    result = embed_all(project_file, None)
    report_quarantine(result)
    return result.to_json()


@flow(name="fit", flow_run_name="fit {project_file}")
def fit(project_file: str, level: Level | None = None, refresh: bool = False) -> dict[str, Any]:
    """Learn the head; see `usam_core.stages.fit`."""
    return cached_step("fit", project_file, level, refresh).to_json()


@flow(name="annotate", flow_run_name="label {project_file}")
def annotate(
    project_file: str, level: Level | None = None, refresh: bool = False
) -> dict[str, Any]:
    """Label the images; see `usam_core.stages.annotate`."""
    return cached_step("annotate", project_file, level, refresh).to_json()


@flow(name="evaluate", flow_run_name="evaluate {project_file}")
def evaluate(
    project_file: str, level: Level | None = None, refresh: bool = False
) -> dict[str, Any]:
    """Measure against truth; see `usam_core.stages.evaluate`."""
    result = cached_step("evaluate", project_file, level, refresh)
    report_metrics(result)
    return result.to_json()
