"""Lineage and Prefect: which run made a step's outputs, and the chain on the run page."""

import json

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from usam_core.config.project import Project
from usam_core.files.atomic import write_json
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import LINEAGE
from usam_core.lineage.show import markdown
from usam_core.steps import StepResult, step_folder


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


_DONE = ".done-in-run.json"


def done_in_this_run(project: Project, step: str, what: str) -> bool:
    """Return whether an earlier attempt at this run has noted that `what` of the step is done."""
    return what in _noted(project, step)


def note_done(project: Project, step: str, what: str) -> None:
    """Note in the step's folder what a retry of this run does not do again."""
    now = flow_run()
    if now is not None:
        note = {"flow_run": now["id"], "done": [*_noted(project, step), what]}
        write_json(step_folder(project, step) / _DONE, note)


def _noted(project: Project, step: str) -> list[str]:
    now = flow_run()
    try:
        note = json.loads((step_folder(project, step) / _DONE).read_text(encoding="utf-8"))
        return note["done"] if now is not None and note["flow_run"] == now["id"] else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


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
