"""Evaluate: compare the labels with truth; tables, JSON, and a contact sheet."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from usam_core.config.project import Project
from usam_core.errors import ConfigError, InputError
from usam_core.files.digest import files_digest
from usam_core.inference.reliability import expected_calibration_error
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.lineage.document import portable
from usam_core.metrics.boundaries import Boundaries
from usam_core.metrics.scores import (
    AveragePrecision,
    Confusion,
    FalsePositives,
    StatedProbabilities,
    write_report,
)
from usam_core.outputs.sheets import save_contact_sheet
from usam_core.progress import Progress
from usam_core.report.page import enlarged
from usam_core.steps import annotate
from usam_core.steps.base import Input, Inputs, StepResult, step_folder
from usam_core.steps.record import finished, labels_record, made_input
from usam_core.steps.render import picture_and_labels, write_reliability
from usam_core.truth import open_truth
from usam_core.truth.base import Truth
from usam_core.truth.voc import PNGS

CALCULATIONS = (
    "usam_core.inference.reliability",
    "usam_core.metrics.scores",
    "usam_core.outputs.sheets",
    "usam_core.truth.coco",
    "usam_core.truth.voc",
)
"""Modules that decide the step's results."""

COMMON_IMAGES = 10
"""A class counts as common when at least this many evaluated images hold it."""
SHEET_IMAGES = 12


def inputs(project: Project) -> Inputs:
    """What the metrics depend on: the labels and the truth."""
    record = _annotated(project)
    return {
        "labels": made_input(project, record),
        "truth": truth_input(project),
        "label_of": project.config.label_of,
        "colours": [spec.color for spec in project.config.classes],
        "edited": annotate.edited_images(project),
    }


def truth_input(project: Project) -> Input:
    """The truth as an input of a step."""

    def lineage() -> dict[str, str]:
        path = cast(Path, project.truth_path)
        return {"path": portable(path, project.root), "sha256": files_digest(path, PNGS)}

    return Input(open_truth(project).digest(), lineage)


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Score every labelled image that has truth, and write the tables and the sheet.

    Raises:
        ConfigError: the project names no truth.
        InputError: no labelled image has truth.
        MissingStepError: `annotate` has not run.
    """
    total = _annotated(project).summary["images"]
    truth = open_truth(project)
    truth.expect(image.path for image in annotate.labels(project).images([]))
    label_map = LabelMap.of(project.config)
    confusion, presence = Confusion(label_map.names), FalsePositives(label_map.names)
    stated, precision = StatedProbabilities(), AveragePrecision(label_map)
    boundaries = Boundaries(label_map.names)
    shown: list[LabelledImage] = []
    scored = edited = 0
    with progress.bar("Scoring", total) as bar:
        for image in annotate.labels(project).sorted_images(["instances"]):
            bar.advance()
            expected = truth.label_map(image.path, image.size_hw)
            if expected is None:
                continue
            if image.is_edited():
                edited += 1  # a person's labels say nothing about the head
                continue
            confusion.add(expected, image.labels)
            presence.add(expected, image.labels)
            boundaries.add(expected, image.labels)
            stated.add(expected, image.instances)
            precision.add(truth.instances(image.path), image.instances)
            scored += 1
            if len(shown) < SHEET_IMAGES:
                shown.append(replace(image, instances=()))
    if not scored:
        raise InputError(
            f"{project.truth_path}: no truth for any of {total} labelled images"
            + (f" but {edited} that were edited by hand" if edited else "")
            + "; expected files or file names with the images' names"
            + "".join(f"\n  {note}" for note in truth.notes)
        )
    folder = step_folder(project, "evaluate")
    semantic, instance = confusion.scores(COMMON_IMAGES), precision.scores()
    absent = presence.scores()
    boundary = boundaries.scores(confusion.images[1:].tolist(), COMMON_IMAGES)
    notes = truth.notes
    if not confusion.matrix[1:].any():
        notes.append("no truth pixel has a class: nothing can be found right")
    files = write_report(folder, semantic, instance, absent, confusion, boundary)
    table = stated.table()
    files += write_reliability(folder, table, "listed masks")
    files.append(folder / "contact_sheet.png")
    _sheet(project, files[-1], shown, truth)
    summary = {
        "images": scored,
        "without_truth": total - scored - edited,
        "edited": edited,
        "miou": semantic.miou,
        "miou_common": semantic.miou_common,
        "map50": instance.map50 if instance else None,
        "boundary_f": boundary.mean,
        "boundary_f_common": boundary.mean_common,
        "false_positive_rate": absent.rate,
        "ece": expected_calibration_error(table),
        "per_class_iou": semantic.per_class,
        "truth_notes": notes,
    }
    return finished("evaluate", key, folder / "metrics.json", summary, files)


def _annotated(project: Project) -> StepResult:
    if project.config.evaluation is None:
        raise ConfigError(
            f"{project.file}: no `evaluation` section; expected `evaluation: {{format: voc or "
            "coco, path: ...}} to measure against truth"
        )
    return labels_record(project)


def _sheet(project: Project, target: Path, images: list[LabelledImage], truth: Truth) -> None:
    label_map, rows = LabelMap.of(project.config), []
    for image in images:
        rgb, labels = picture_and_labels(project, image.path, image.png_file)
        expected = enlarged(cast(np.ndarray, truth.label_map(image.path)), labels.shape)
        rows.append((image.path, rgb, expected, labels))
    save_contact_sheet(target, rows, label_map.names, label_map.colors)


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    parts = [f"mIoU {s['miou']:.3f} on {s['images']} images"]
    if s["map50"] is not None:
        parts.append(f"mAP50 {s['map50']:.3f}")
    if s["boundary_f"] is not None:
        parts.append(f"boundary F {s['boundary_f']:.3f}")
    parts.append(f"false positives on absent classes {s['false_positive_rate']:.3f}")
    if s["ece"] is not None:
        parts.append(f"ECE {s['ece']:.3f}")
    if s["without_truth"]:
        parts.append(f"{s['without_truth']} images without truth left out")
    if s.get("edited"):
        parts.append(f"{s['edited']} images edited by hand left out")
    parts += [f"truth: {note}" for note in s["truth_notes"]]
    return ", ".join(parts)
