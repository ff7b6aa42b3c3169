"""Instance metrics: average precision of masks at IoU 0.5, by `pycocotools`."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from usam_core.truth.base import Truth

COCO_DETECTIONS = 100


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """Average precision at mask IoU 0.5.

    Attributes:
        map50: mean over the classes that the truth holds; None if it holds none.
        per_class: AP50 by name; None for a class that the truth does not hold.
    """

    map50: float | None
    per_class: dict[str, float | None]


def average_precision(
    truth: Truth, entries: Iterable[dict[str, Any]], classes: Sequence[str]
) -> InstanceScores | None:
    """Return AP50 of the images whose instances the truth has, or None when it has none.

    Args:
        truth: gives each image's instances with our category ids.
        entries: labelled images as `stages.annotate.entries` yields them.
        classes: names of the categories 1, 2, ...
    """
    images, expected, found = [], [], []
    for image_id, entry in enumerate(entries, start=1):
        instances = truth.instances(entry["file_name"])
        if instances is None:
            continue
        images.append({"id": image_id, "height": entry["height"], "width": entry["width"]})
        for instance in instances:
            expected.append({**instance, "image_id": image_id, "id": len(expected) + 1})
        found += [{**record, "image_id": image_id} for record in entry["annotations"]]
    if not images:
        return None
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    held = {instance["category_id"] for instance in expected if not instance["iscrowd"]}
    if not held:
        return InstanceScores(None, dict.fromkeys(classes))
    precision = _precision(images, expected, found, categories)
    values = {
        name: float(precision[:, i].mean()) if i + 1 in held else None
        for i, name in enumerate(classes)
    }
    return InstanceScores(float(np.mean([v for v in values.values() if v is not None])), values)


def _precision(
    images: list[dict], expected: list[dict], found: list[dict], categories: list[dict]
) -> np.ndarray:
    """Return COCO's interpolated precision at IoU 0.5, float64 (101 recalls, c)."""
    if not found:
        return np.zeros((101, len(categories)))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": images,
            "annotations": expected,
            "categories": categories,
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [1, 10, _most_detections(expected, found)]
        evaluation.evaluate()
        evaluation.accumulate()
    # Axes: IoU threshold, recall, class, area range (0 is all), most detections (the last).
    return np.maximum(evaluation.eval["precision"][0, :, :, 0, -1], 0)


def _most_detections(expected: list[dict], found: list[dict]) -> int:
    """Return how many of an image's masks count: COCO's best 100; all where an image holds more."""
    objects, masks = (Counter(one["image_id"] for one in ones) for ones in (expected, found))
    is_crowded = max(objects.values()) > COCO_DETECTIONS
    return max(COCO_DETECTIONS, *masks.values()) if is_crowded else COCO_DETECTIONS
