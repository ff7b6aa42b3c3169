"""What the summary of the step annotate says beside its counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from usam_core.config.project import Project
from usam_core.metrics.gate import COVERED
from usam_core.steps.calibrated import calibration_file


def review_summary(entries: Iterable[dict[str, Any]], decisions: int) -> dict[str, Any]:
    """Count the decisions that found their mask again, and those that did not."""
    if not decisions:
        return {}
    found: Counter[str] = Counter()
    images = set()
    for entry in entries:
        # An image may be there twice under two names: a decision counts once.
        if entry["sha256"] in images or "rejected" not in entry:
            continue
        images.add(entry["sha256"])
        found["rejected"] += len(entry["rejected"])
        found.update(r["reviewed"] for r in entry["annotations"] if "reviewed" in r)
    kinds = ("accepted", "changed", "rejected")
    applied = {kind: found[kind] for kind in kinds}
    return {"reviewed": {**applied, "not_applied": decisions - sum(applied.values())}}


def notes_on_settings(project: Project) -> list[str]:
    """Say which settings had nothing to go by, because no calibration could be fitted."""
    if calibration_file(project) is not None:
        return []
    config = project.config.inference
    asked = {
        "inference.thresholds: calibrated": config.thresholds == "calibrated",
        f"inference.presence: {config.presence:g}": config.presence > 0,
    }
    return [
        f"{setting} had no effect: there were too few held-out scenes to calibrate on (`usam "
        f"calibrate {project.file}` says how many are needed)"
        for setting, given in asked.items()
        if given
    ]


def covered_images(entries: Iterable[dict[str, Any]], names: Sequence[str]) -> dict[str, int]:
    """Count the images that each class covers nearly whole; classes with none are left out."""
    found: Counter[str] = Counter()
    for entry in entries:
        least = COVERED * entry["height"] * entry["width"]
        pixels = entry.get("pixels", {}).items()
        found.update(names[int(n) - 1] for n, count in pixels if int(n) and count > least)
    return dict(found)


def notes_on_edits(edited: int) -> list[str]:
    """Say that label PNGs which a person has changed were not painted over, if there are any."""
    if not edited:
        return []
    return [
        f"{edited} label PNGs changed by hand are kept (`usam export --show-edits` says how); "
        "coco.json has the masks as they were made. To undo an edit, delete its PNG"
    ]
