"""The quality gate of a project: statistics of its last run, its history, a sheet of suspects."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from usam_core.config.palette import class_colors
from usam_core.config.project import Project
from usam_core.files.atomic import whole_file
from usam_core.files.sealed import read_sealed, sealed, unsealed, write_sealed
from usam_core.metrics.gate import Objection, RunStatistics, judge
from usam_core.outputs.overlay import overlay
from usam_core.steps import annotate
from usam_core.steps.annotate_notes import covered_images
from usam_core.steps.folders import step_folder
from usam_core.steps.record import StepResult, labels_record, made_digest, read_record
from usam_core.steps.render import picture_and_labels
from usam_core.store.commit import remove_folder

_log = logging.getLogger(__name__)
_STATISTICS = TypeAdapter(RunStatistics)

HISTORY = "history.jsonl"
SUSPECTS = "suspects.jpg"
LABELS = "labels.json"

_SUSPECTS = 6
_SIDE = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a run.

    Attributes:
        objections: empty when the run passes.
        statistics: what it was judged by.
        sheet: overlays of the images that speak most for the objections; None where no image was
            labelled.
    """

    objections: list[Objection]
    statistics: RunStatistics
    sheet: Path | None = None


def check_gate(project: Project) -> Verdict:
    """Judge the last run; one that passes joins the history that later runs are compared with.

    Raises:
        MissingStepError: `annotate` has not run.
    """
    folder = step_folder(project, "gate")
    now = _statistics(project)
    history = _read(folder / HISTORY)
    objections = judge(now, [run for run in history if run.key != now.key], project.config.gate)
    sheet = None
    if objections:
        suspects = _suspects(_per_image(project), objections)
        sheet = folder / SUSPECTS if suspects else None
        _draw(project, suspects, folder / SUSPECTS)
    elif all(run.key != now.key for run in history):
        _write(folder / HISTORY, [*history, now])
    return Verdict(objections, now, sheet)


def _statistics(project: Project) -> RunStatistics:
    labels = _labels(project)
    quarantined = len(_summary(project, "embed").get("quarantined", []))
    total = labels["images"] + quarantined
    return RunStatistics(
        key=labels["key"],
        images=labels["images"],
        quarantined=quarantined / total if total else 0.0,
        class_share=labels["class_share"],
        mean_score=labels["mean_score"],
        miou=_summary(project, "evaluate").get("miou"),
        covered=labels["covered"],
    )


def _labels(project: Project) -> dict[str, Any]:
    """Return what the labels are in sum; it is worked out once for the same labels."""
    record = labels_record(project)
    names = project.config.label_names
    of = {"key": record.key, "made": made_digest(record), "classes": names}
    file = step_folder(project, "gate") / LABELS
    known = _known(file)
    if {name: known.get(name) for name in of} == of and "covered" in known:
        return known
    areas, pixels, images, scores = dict.fromkeys(names, 0), 0, 0, []
    folder = step_folder(project, "annotate")
    for entry in annotate.entries(folder):
        images += 1
        pixels += entry["height"] * entry["width"]
        for annotation in entry["annotations"]:
            areas[names[annotation["category_id"] - 1]] += annotation["area"]
            scores.append(annotation["score"])
    found = {
        **of,
        "images": images,
        "class_share": {name: area / max(1, pixels) for name, area in areas.items()},
        "mean_score": float(np.mean(scores)) if scores else None,
        "covered": covered_images(annotate.recorded(folder), names),
    }
    write_sealed(file, found)
    return found


def _known(file: Path) -> dict[str, Any]:
    try:
        return read_sealed(file)
    except (OSError, ValueError):
        return {}


def _per_image(project: Project) -> list[dict[str, Any]]:
    """Return of each image its names, its classes' areas and its mean score."""
    names = project.config.label_names
    per_image = []
    for entry in annotate.entries(step_folder(project, "annotate")):
        areas = dict.fromkeys(names, 0)
        for annotation in entry["annotations"]:
            areas[names[annotation["category_id"] - 1]] += annotation["area"]
        scores = [annotation["score"] for annotation in entry["annotations"]]
        score = float(np.mean(scores)) if scores else 1.0
        per_image.append({**entry, "annotations": None, "areas": areas, "score": score})
    return per_image


def _summary(project: Project, step: str) -> dict[str, Any]:
    record: StepResult | None = read_record(step_folder(project, step))
    return {} if record is None else record.summary


def _suspects(per_image: list[dict[str, Any]], objections: list[Objection]) -> list[dict[str, Any]]:
    """Return the images that show best what is objected to: much of a class, or low scores."""
    classes = [objection.class_name for objection in objections if objection.class_name]
    if classes:
        ranked = sorted(per_image, key=lambda e: -sum(e["areas"][name] for name in classes))
    else:
        ranked = sorted(per_image, key=lambda e: e["score"])
    return ranked[:_SUSPECTS]


def _draw(project: Project, entries: list[dict[str, Any]], target: Path) -> None:
    if not entries:
        target.unlink(missing_ok=True)
        return
    config, labels = project.config, step_folder(project, "annotate")
    colors = class_colors(config.label_names, {s.name: s.color for s in config.classes})
    tiles = []
    for entry in entries:
        rgb, found = picture_and_labels(project, entry["file_name"], labels / entry["png"])
        shown = overlay(rgb, found, colors)
        tile = Image.fromarray(shown)
        tile.thumbnail((_SIDE, _SIDE))
        tiles.append(tile)
    sheet = Image.new("RGB", (3 * _SIDE, -(-len(tiles) // 3) * _SIDE), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % 3 * _SIDE, number // 3 * _SIDE))
    with whole_file(target) as temporary:
        sheet.save(temporary, format="JPEG", quality=85)


def unreadable_lines(file: Path) -> list[int]:
    """Return the numbers, from 1 on, of the history's lines that are not as they were written."""
    return [number for number, run in _lines(file) if run is None]


def drop_unreadable(file: Path) -> None:
    """Leave out of a history what cannot be read."""
    runs = [run for _, run in _lines(file) if run is not None]
    remove_folder(file)
    if runs:
        _write(file, runs)


def _lines(file: Path) -> Iterator[tuple[int, RunStatistics | None]]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError:
        yield 1, None
        return
    for number, line in enumerate(text.splitlines() or [""], start=1):
        try:
            yield number, _STATISTICS.validate_python(unsealed(json.loads(line)))
        except (ValueError, TypeError):
            yield number, None


def _read(path: Path) -> list[RunStatistics]:
    found = []
    for number, run in _lines(path):
        if run is None:
            _log.warning("%s:%d: no statistics of a run; the line is left out", path, number)
        else:
            found.append(run)
    return found


def _write(path: Path, runs: list[RunStatistics]) -> None:
    with whole_file(path) as temporary:
        text = "".join(json.dumps(sealed(asdict(run))) + "\n" for run in runs)
        temporary.write_text(text, encoding="utf-8")
