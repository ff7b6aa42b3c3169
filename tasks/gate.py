"""The quality gate as a task: it fails the run, and says on its page why, with pictures."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from tasks.report import data_uri
from usam_core.config.project import load_project
from usam_core.errors import GateError
from usam_core.files.text import markdown

GATE_EVENT = "usam.quality-gate.failed"
"""What an automation waits for (deployments/notify.py)."""


@task(name="quality-gate", persist_result=False)
def pass_gate(project_file: str, changes: dict[str, str]) -> None:
    """Judge the run just finished.

    Raises:
        GateError: it is not to be trusted; the labels stay where they are.
    """
    from usam_core.steps.gate import check_gate  # torch and all: when it is needed

    project = load_project(project_file, **changes)
    verdict = check_gate(project)
    if not verdict.objections:
        return
    reasons = [f"{objection.check}: {objection.reason}" for objection in verdict.objections]
    lines = [
        "# This run did not pass the quality gate",
        "",
        *(f"* {markdown(text)}" for text in reasons),
    ]
    if verdict.sheet is not None:
        lines += ["", f"![images that show it]({data_uri(verdict.sheet)})"]
    create_markdown_artifact(
        "\n".join(lines), key="quality-gate", description=markdown("; ".join(reasons))
    )
    name = project.config.name
    resource = {"prefect.resource.id": f"usam.project.{name}", "prefect.resource.name": name}
    emit_event(GATE_EVENT, resource=resource, payload={"reasons": reasons})
    raise GateError(
        "the run did not pass the quality gate: "
        + "; ".join(reasons)
        + f". Look at {verdict.sheet or project.out}; the labels are kept, and settings of `gate` "
        "say what passes"
    )
