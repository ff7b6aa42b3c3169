"""What `calibrate` left for the steps after it."""

import json
from pathlib import Path

from usam_core.config.project import Project
from usam_core.inference.calibration import Calibration
from usam_core.steps.folders import step_folder
from usam_core.steps.record import needed_record, whole_output

CALIBRATION = "calibration.json"


def calibration_file(project: Project) -> Path | None:
    """Return the fitted calibration's file, or None where there were too few scenes to fit any.

    Raises:
        MissingStepError: `calibrate` has not run.
    """
    folder = step_folder(project, "calibrate")
    recorded = needed_record(project, "calibrate", "calibration").outputs
    return whole_output(folder, CALIBRATION) if CALIBRATION in recorded else None


def read_calibration(file: Path | None) -> Calibration | None:
    """Return the calibration in a file of `calibration_file`."""
    if file is None:
        return None
    return Calibration.from_json(json.loads(file.read_text(encoding="utf-8")))
