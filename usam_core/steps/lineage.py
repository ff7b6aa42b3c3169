"""What each step's `lineage.json` says: inputs with digests, weights, settings, code, parents.

`origins` is asked before a step runs, together with its key: what changes during the run belongs
to the next one. Long lists are not repeated: they stand in outputs of the step (the manifest, the
parts), whose digests the document holds.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.files.digest import file_digest, files_digest, listed_digest, value_digest
from usam_core.files.fsspec_io import is_url
from usam_core.head.checkpoint import card_path
from usam_core.lineage.document import LINEAGE, checkout, portable, versions
from usam_core.sources.base import manifest_path
from usam_core.steps import annotate, collect, embed
from usam_core.steps.blocks import block_specs, head_blocks
from usam_core.steps.calibrated import calibration_file
from usam_core.steps.class_texts import text_inputs
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import labelled_images, listed_pairs
from usam_core.steps.record import StepResult, made_digest, read_record
from usam_core.steps.review_log import decided, decisions_digest, decisions_file
from usam_core.store.blocks import block_id

PARENTS: dict[str, tuple[str, ...]] = {
    "collect": (),
    "embed": ("collect",),
    "compose": ("collect", "embed"),
    "describe": ("collect", "embed", "compose"),
    "fit": ("collect", "embed", "compose", "describe"),
    "calibrate": ("fit", "compose", "describe"),
    "annotate": ("fit", "calibrate", "embed", "describe"),
    "evaluate": ("annotate",),
    "export": ("annotate",),
    "report": ("annotate", "evaluate"),
}

_SETTINGS: dict[str, tuple[str, ...]] = {
    "collect": ("classes", "negatives", "training", "images"),
    "embed": ("sam", "images"),
    "compose": ("classes", "negatives", "compose", "images"),
    "describe": ("features", "sam", "images"),
    "fit": ("classes", "negatives", "level", "head"),
    "calibrate": ("classes", "level", "inference"),
    "annotate": ("classes", "level", "inference", "outputs", "images"),
    "evaluate": ("classes", "level", "evaluation"),
    "export": ("classes", "level", "outputs"),
    "report": ("report",),
}
"""Sections of the project file that a step reads."""


def origins(step: str, project: Project) -> dict[str, Any]:
    """Return what a step is about to be made of: settings, inputs, weights and parents."""
    settings = project.config.model_dump(mode="json", include=set(_SETTINGS[step]))
    inputs, weights = _READS[step](project)
    return {
        "config": settings,
        "seed": project.config.seed,
        "inputs": inputs,
        "weights": weights,
        "parents": [_parent(project, parent) for parent in _parents(step, project)],
    }


def document(
    project: Project,
    result: StepResult,
    code: str,
    made_of: dict[str, Any],
    flow_run: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the lineage of a step that has just run.

    Args:
        project: the project.
        result: the step's result, its outputs with their digests.
        code: digest of the code that decided the result.
        made_of: `origins`, from before it ran.
        flow_run: what Prefect calls the run (`id`, `name`), if it was one.
    """
    full = {
        "step": result.step,
        "key": result.key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": project.config.name,
        "project_file": project.file.name,
        "code": {"sha256": code, "checkout": checkout(), "versions": versions()},
        "flow_run": dict(flow_run) if flow_run else None,
        **made_of,
        "outputs": result.outputs,
    }
    if result.step == "embed":
        full["shown"] = result.summary["shown"]
    if result.step == "collect":
        # The manifest is not recorded yet, but it lies there.
        full["pictures"] = _pictures_in(project, result.summary["provenance"])
    return full


def _collect(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    inputs = collect.inputs(project)
    source = {key: inputs[key] for key in ("classes", "filters", "min_per_class")}
    read: dict[str, Any] = {"source": {"name": inputs["source"], "sha256": value_digest(source)}}
    if inputs["labelled"] is not None:
        read["images"] = _images(project)
    return read, {}


def _embed(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    read = {
        "images": _images(project),
        "pictures": _pictures(project),
        "store": _store(project),
    }
    return read, {"checkpoint": _checkpoint(project)}


def _compose(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    read = {"pictures": _pictures(project), "store": _store(project)}
    return read, {"checkpoint": _checkpoint(project)}


def _describe(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    blocks = {name: block_id(spec) for name, spec in block_specs(project).items()}
    read = {
        "images": _images(project),
        "pictures": _pictures(project),
        "store": _store(project),
        "blocks": {"ids": blocks, "specs": block_specs(project)},
    }
    return read, {"checkpoint": _checkpoint(project)}


def _fit(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    read = {"store": _store(project), **_blocks(project)}
    if project.config.head.text != "alone":
        read["pictures"] = _pictures(project)
        if project.config.head.reviewed:
            read |= _decisions(project)
    said = text_inputs(project)
    if said:
        read["text"] = {**said["text"]["model"], "sha256": value_digest(said)}
    return read, {"checkpoint": _checkpoint(project)}


def _annotate(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    read, weights = _calibrate(project)
    fitted = calibration_file(project)
    if fitted is not None:
        weights["calibration"] = {
            "path": portable(fitted, project.root),
            "sha256": file_digest(fitted),
        }
    return {"images": _images(project), **_decisions(project), **read}, weights


def _decisions(project: Project) -> dict[str, Any]:
    """Return the decisions of a person that the step reads; nothing where there are none."""
    said = [one for of_image in decided(project).values() for one in of_image]
    if not said:
        return {}
    log = decisions_file(project)
    return {
        "decisions": {
            "path": portable(log, project.root),
            "count": len(said),
            "sha256": decisions_digest(said),
            # Lines are only ever added: so far the log must stay as it is.
            "log_bytes": log.stat().st_size,
            "log_sha256": file_digest(log),
        }
    }


def _calibrate(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    head = annotate.head_path(project)
    weights = {
        "checkpoint": _checkpoint(project),
        "head": {
            "path": portable(head, project.root),
            "sha256": file_digest(head),
            "card_sha256": file_digest(card_path(head)),
        },
    }
    read = {"store": _store(project), **_blocks(project)}
    return read, weights


def _evaluate(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"labels": _labels(project), "truth": _truth(project)}, {}


def _from_labels(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"labels": _labels(project)}, {}


def _labels(project: Project) -> dict[str, Any]:
    folder = step_folder(project, "annotate")
    record = read_record(folder)
    return {
        "path": portable(folder, project.root),
        "sha256": made_digest(record) if record else None,
    }


def _truth(project: Project) -> dict[str, Any] | None:
    truth = project.truth_path
    if truth is None:
        return None
    return {"path": portable(truth, project.root), "sha256": files_digest(truth, "*.png")}


_READS = {
    "collect": _collect,
    "embed": _embed,
    "compose": _compose,
    "describe": _describe,
    "fit": _fit,
    "calibrate": _calibrate,
    "annotate": _annotate,
    "evaluate": _evaluate,
    "export": _from_labels,
    "report": _from_labels,
}


def _images(project: Project) -> dict[str, Any]:
    root = project.images.root
    return {
        "path": root if is_url(root) else portable(project.images_path, project.root),
        "count": len(labelled_images(project)),
        "sha256": listed_digest(listed_pairs(project)),
    }


def _pictures(project: Project) -> dict[str, Any]:
    return _pictures_in(project, collect.training_provenance(project))


def _pictures_in(project: Project, provenance: dict[str, Any]) -> dict[str, Any]:
    manifest = manifest_path(step_folder(project, "collect"))
    table = collect.read_table(project)
    return {
        "manifest": portable(manifest, project.root),
        "sha256": collect.pictures_digest(table),
        "count": len(table),
        "per_class": {str(k): int(v) for k, v in table["class"].value_counts(sort=False).items()},
        "provenance": provenance,
    }


def _store(project: Project) -> dict[str, Any]:
    store = embed.store_folder(project)
    return {"path": portable(store, project.root), "spec": embed.spec(project)}


def _blocks(project: Project) -> dict[str, Any]:
    blocks = head_blocks(project)
    return {"blocks": {"ids": blocks}} if blocks else {}


def _parents(step: str, project: Project) -> list[str]:
    """Return the steps that a step is made from; `describe` only where the head needs it."""
    unneeded = set() if head_blocks(project) else {"describe"}
    if step == "fit" and project.config.head.text == "alone":
        unneeded = {"collect", "compose"}  # no picture taught it
    if step == "report" and project.config.evaluation is None:
        unneeded = {"evaluate"}
    return [parent for parent in PARENTS[step] if parent not in unneeded]


def _checkpoint(project: Project) -> dict[str, Any]:
    local: Path | None = project.checkpoint
    spec = embed.spec(project)
    return {
        "model": spec["model"],
        "sha256": spec["checkpoint_sha256"],
        "path": portable(local, project.root) if local else None,
    }


def _parent(project: Project, step: str) -> dict[str, Any]:
    file = step_folder(project, step) / LINEAGE
    sha256 = file_digest(file) if file.exists() else None
    return {"step": step, "path": portable(file, project.root), "sha256": sha256}
