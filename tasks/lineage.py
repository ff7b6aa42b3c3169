"""Lineage and Prefect: which run made a step's outputs, and the chain on the run page."""

import json

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from usam_core.lineage.chain import read_chain
from usam_core.lineage.diagram import markdown
from usam_core.lineage.document import LINEAGE
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


def made_by_this_run(project: Project, step: str) -> bool:
    """Return whether a step's outputs are of this very run: of an earlier attempt at it."""
    now = flow_run()
    try:
        text = (step_folder(project, step) / LINEAGE).read_text(encoding="utf-8")
        made_by = json.loads(text)["flow_run"]
    except (OSError, ValueError, KeyError):
        return False
    return now is not None and made_by is not None and made_by["id"] == now["id"]


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
