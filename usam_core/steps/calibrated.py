"""What `fit` and `calibrate` left for the steps after them."""

import json
from pathlib import Path

from usam_core.config.project import Project
from usam_core.files.digest import file_digest
from usam_core.head.checkpoint import card_path
from usam_core.inference.calibration import Calibration
from usam_core.lineage.document import portable
from usam_core.steps.base import Input
from usam_core.steps.folders import step_folder
from usam_core.steps.record import needed_record, whole_output

CALIBRATION = "calibration.json"


def calibration_file(project: Project) -> Path | None:
    """Return the fitted calibration's file, or None where there were too few scenes to fit any.

    Raises:
        MissingStepError: `calibrate` has not run.
    """
    folder = step_folder(project, "calibrate")
    recorded = needed_record(folder, "calibration", project.file).outputs
    return whole_output(folder, CALIBRATION) if CALIBRATION in recorded else None


def head_input(head: Path, root: Path) -> Input:
    """A head's file as an input of a step; its card is another one."""
    sha256 = file_digest(head)

    def lineage() -> dict[str, str]:
        card = file_digest(card_path(head))
        return {"path": portable(head, root), "sha256": sha256, "card_sha256": card}

    return Input(sha256, lineage, "fit", weights=True)


def calibration_input(fitted: Path | None, root: Path) -> Input:
    """The file of `calibration_file` as an input of a step."""
    if fitted is None:
        return Input(None, step="calibrate")
    said = {"path": portable(fitted, root), "sha256": file_digest(fitted)}
    return Input(said["sha256"], lambda: said, "calibrate", weights=True)


def read_calibration(file: Path | None) -> Calibration | None:
    """Return the calibration in a file of `calibration_file`."""
    if file is None:
        return None
    return Calibration.from_json(json.loads(file.read_text(encoding="utf-8")))
