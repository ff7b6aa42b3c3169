"""Lineage and Prefect: which run made a step's outputs, and the chain on the run page."""

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from usam_core.lineage.chain import read_chain
from usam_core.lineage.diagram import markdown
from usam_core.project import Project
from usam_core.stages import StepResult, step_folder


def flow_run() -> dict[str, str] | None:
    """Return `id`, `name` and, if it is a deployment's, `deployment` of the run at hand."""
    found = {
        "id": runtime.flow_run.id,
        "name": runtime.flow_run.name,
        "deployment": runtime.deployment.name,
    }
    if not found["id"]:
        return None
    return {key: str(value) for key, value in found.items() if value}


def report_lineage(project: Project, results: list[StepResult]) -> None:
    """Show what the last step's outputs were made of: a diagram, and a table of the same."""
    if not results:
        return
    chain = read_chain(step_folder(project, results[-1].step))
    create_markdown_artifact(
        markdown(chain),
        key="lineage",
        description="What the outputs were made of; `usam lineage FILE` checks it",
    )
