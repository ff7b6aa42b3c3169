"""What each step's `lineage.json` says: inputs with digests, weights, settings, code, parents.

`origins` is asked before a step runs, of the inputs that its key is made of: what changes during
the run belongs to the next one. Long lists are not repeated: they stand in outputs of the step (the
manifest, the parts), whose digests the document holds.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from usam_core.config.project import Project
from usam_core.files.digest import file_digest
from usam_core.lineage.document import LINEAGE, checkout, portable, versions
from usam_core.steps.base import Input, Inputs, Step, StepResult
from usam_core.steps.folders import step_folder


def origins(step: Step, project: Project, inputs: Inputs) -> dict[str, Any]:
    """What a step is about to be made of: settings, inputs, weights and parents."""
    read = {name: value for name, value in inputs.items() if isinstance(value, Input)}
    said = {name: text for name, value in read.items() if (text := value.lineage()) is not None}
    used = {value.step for value in read.values()}
    return {
        "config": project.config.model_dump(mode="json", include=set(step.settings)),
        "seed": project.config.seed,
        "inputs": {name: text for name, text in said.items() if not read[name].weights},
        "weights": {name: text for name, text in said.items() if read[name].weights},
        "parents": [_parent(project, parent) for parent in step.parents if parent in used],
    }


def document(
    step: Step,
    project: Project,
    result: StepResult,
    made_of: dict[str, Any],
    flow_run: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The lineage of a step that has just run.

    Args:
        step: the step.
        project: the project.
        result: the step's result, its outputs with their digests.
        made_of: `origins`, from before it ran.
        flow_run: what Prefect calls the run (`id`, `name`), if it was one.
    """
    more = getattr(step.code, "facts", None)
    return {
        "step": step.name,
        "key": result.key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": project.config.name,
        "project_file": project.file.name,
        "code": {"sha256": step.revision, "checkout": checkout(), "versions": versions()},
        "flow_run": dict(flow_run) if flow_run else None,
        **made_of,
        "outputs": result.outputs,
        **(more(project, result) if more else {}),
    }


def _parent(project: Project, step: str) -> dict[str, Any]:
    file = step_folder(project, step) / LINEAGE
    sha256 = file_digest(file) if file.exists() else None
    return {"step": step, "path": portable(file, project.root), "sha256": sha256}
