"""The quality gate of a project: statistics of its last run, its history, a sheet of suspects."""

import heapq
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from usam_core.config.project import Project
from usam_core.files.atomic import whole_file
from usam_core.files.digest import read_sealed, sealed, unsealed, write_sealed
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.labels.overlay import overlay
from usam_core.metrics.gate import Objection, RunStatistics, judge
from usam_core.steps import annotate
from usam_core.steps.annotate_notes import covering
from usam_core.steps.base import step_folder
from usam_core.steps.record import labels_record, made_digest, summary_of
from usam_core.steps.render import picture_and_labels
from usam_core.store.layout import remove_folder

_log = logging.getLogger(__name__)
_STATISTICS = TypeAdapter(RunStatistics)

HISTORY = "history.jsonl"
SUSPECTS = "suspects.jpg"
LABELS = "labels.json"
_SUSPECTS = 6
_SIDE = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's judgment of a run.

    Attributes:
        objections: empty when the run passes.
        statistics: what it was judged by.
        sheet: overlays of the images behind the objections; None where no image was labelled.
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
    now, history = _statistics(project), []
    for number, run in _lines(folder / HISTORY):
        if run is None:
            message = "%s:%d: no statistics of a run; the line is left out"
            _log.warning(message, folder / HISTORY, number)
        else:
            history.append(run)
    objections = judge(now, [run for run in history if run.key != now.key], project.config.gate)
    sheet = None
    if objections:
        suspects = _suspects(project, objections)
        sheet = folder / SUSPECTS if suspects else None
        _draw(project, suspects, folder / SUSPECTS)
    elif all(run.key != now.key for run in history):
        _write(folder / HISTORY, [*history, now])
    return Verdict(objections, now, sheet)


def _statistics(project: Project) -> RunStatistics:
    """Statistics of the last run; totals over its labels are computed once for the same labels."""
    record = labels_record(project)
    names = project.config.label_names
    of = {"key": record.key, "made": made_digest(record), "classes": names}
    file = step_folder(project, "gate") / LABELS
    try:
        totals = read_sealed(file)
    except (OSError, ValueError):
        totals = {}
    if {name: totals.get(name) for name in of} != of or "covered" not in totals:
        areas, covered = dict.fromkeys(names, 0), Counter[str]()
        images = pixels = instances = 0
        scores = 0.0
        for image in _images(project):
            images += 1
            pixels += image.size_hw[0] * image.size_hw[1]
            instances += len(image.instances)
            scores += sum(one.score for one in image.instances)
            for one in image.instances:
                areas[names[one.class_index]] += one.area
            covered.update(covering(image))
        totals = {
            **of,
            "images": images,
            "class_share": {name: area / max(1, pixels) for name, area in areas.items()},
            "mean_score": scores / instances if instances else None,
            "covered": dict(covered),
        }
        write_sealed(file, totals)
    quarantined = len(summary_of(project, "embed").get("quarantined", []))
    every = totals["images"] + quarantined
    return RunStatistics(
        **{
            name: totals[name] for name in ("key", "images", "class_share", "mean_score", "covered")
        },
        quarantined=quarantined / every if every else 0.0,
        miou=summary_of(project, "evaluate").get("miou"),
    )


def _images(project: Project) -> Iterator[LabelledImage]:
    """Yield the labelled images without their masks."""
    of_instance = ("class_index", "area", "score")
    columns = [f"instances.list.element.{name}" for name in of_instance]
    return annotate.labels(project).images(["pixels", *columns])


def _suspects(project: Project, objections: list[Objection]) -> list[tuple[str, str]]:
    """Path and label PNG of images with much of the classes objected to, or with low scores."""
    names = project.config.label_names
    classes = {one.class_name for one in objections if one.class_name}

    def rank(image: LabelledImage) -> float:
        if classes:
            return -sum(i.area for i in image.instances if names[i.class_index] in classes)
        return float(np.mean([i.score for i in image.instances])) if image.instances else 1.0

    ranked = ((rank(image), image.path, image.png) for image in _images(project))
    return [(path, png) for _, path, png in heapq.nsmallest(_SUSPECTS, ranked)]


def _draw(project: Project, images: list[tuple[str, str]], target: Path) -> None:
    if not images:
        target.unlink(missing_ok=True)
        return
    colors, labels = LabelMap.of(project.config).colors, step_folder(project, "annotate")
    tiles = []
    for path, png in images:
        tile = Image.fromarray(overlay(*picture_and_labels(project, path, labels / png), colors))
        tile.thumbnail((_SIDE, _SIDE))
        tiles.append(tile)
    sheet = Image.new("RGB", (3 * _SIDE, -(-len(tiles) // 3) * _SIDE), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % 3 * _SIDE, number // 3 * _SIDE))
    with whole_file(target) as temporary:
        sheet.save(temporary, format="JPEG", quality=85)


def unreadable_lines(file: Path) -> list[int]:
    """Numbers, from 1 on, of the history's lines that are not as they were written."""
    return [number for number, run in _lines(file) if run is None]


def drop_unreadable(file: Path) -> None:
    """Drop the lines of a history that cannot be read."""
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


def _write(path: Path, runs: list[RunStatistics]) -> None:
    with whole_file(path) as temporary:
        text = "".join(json.dumps(sealed(asdict(run))) + "\n" for run in runs)
        temporary.write_text(text, encoding="utf-8")
