"""Instance metrics: average precision of masks at IoU 0.5, by `pycocotools`."""

import contextlib
import io
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from usam_core.labels.image import Instance
from usam_core.labels.label_map import LabelMap

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


class AveragePrecision:
    """Matches instances with truth, image after image, and ranks them at the end.

    `COCOeval` of a whole set of images holds all their masks; this holds the score of each, and
    whether it was matched. What comes out is the same.
    """

    def __init__(self, label_map: LabelMap) -> None:
        self._label_map = label_map
        self._matches = {index: _Matches() for index in range(len(label_map.names))}
        self._images = 0
        self._is_crowded = False

    def add(self, truth: list[dict[str, Any]] | None, instances: Sequence[Instance]) -> None:
        """Match one image.

        Args:
            truth: COCO annotations with our category ids; None where the truth has no instances.
            instances: what was found, best first.
        """
        if truth is None:
            return
        self._images += 1
        self._is_crowded |= len(truth) > COCO_DETECTIONS
        by_class: dict[int, tuple[list, list]] = {}
        for one in truth:
            index = LabelMap.index_of(one["category_id"])
            by_class.setdefault(index, ([], []))[0].append(one)
        for instance in instances:
            by_class.setdefault(instance.class_index, ([], []))[1].append(instance.to_coco())
        for index, (expected, found) in by_class.items():
            self._matches[index].add(expected, found)

    def scores(self) -> InstanceScores | None:
        """AP50 of the images so far; None when the truth has no instances."""
        if not self._images:
            return None
        limit = None if self._is_crowded else COCO_DETECTIONS
        values = {
            name: self._matches[index].precision(limit)
            for index, name in enumerate(self._label_map.names)
        }
        known = [value for value in values.values() if value is not None]
        return InstanceScores(float(np.mean(known)) if known else None, values)


class _Matches:
    """Of one class: scores and matches of what was found, 14 bytes each; how much there was."""

    def __init__(self) -> None:
        self._scores, self._ranks = array("d"), array("I")
        self._is_matched, self._is_ignored = array("b"), array("b")
        self._expected = self._crowds = 0

    def add(self, expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
        """Match the masks of one image by `COCOeval`."""
        evaluation = _evaluation(max(1, len(found)))
        evaluation._gts[0, 0] = [
            {**one, "id": number, "ignore": one["iscrowd"]}
            for number, one in enumerate(expected, start=1)
        ]
        evaluation._dts[0, 0] = [{**one, "id": n} for n, one in enumerate(found, start=1)]
        evaluation.ious = {(0, 0): evaluation.computeIoU(0, 0)}
        params = evaluation.params
        one = evaluation.evaluateImg(0, 0, params.areaRng[0], params.maxDets[-1])
        self._crowds += int(one["gtIgnore"].sum())
        self._expected += len(expected)
        self._scores.extend(one["dtScores"])
        self._ranks.extend(range(len(found)))
        self._is_matched.extend((one["dtMatches"][0] > 0).tolist())
        self._is_ignored.extend(one["dtIgnore"][0].tolist())

    def precision(self, limit: int | None) -> float | None:
        """The mean of COCO's interpolated precision; None where nothing was to be found.

        Args:
            limit: so many masks of an image count, the best ones; None counts all.
        """
        if self._expected == self._crowds:
            return None
        counts = np.array(self._ranks) < (limit or np.inf)
        evaluation = _evaluation(max(1, len(counts)))
        evaluation.evalImgs = [
            {
                "dtScores": np.array(self._scores)[counts],
                "dtMatches": np.array(self._is_matched)[None, counts],
                "dtIgnore": np.array(self._is_ignored, bool)[None, counts],
                "gtIgnore": np.arange(self._expected) < self._crowds,
            }
        ]
        evaluation._paramsEval = evaluation.params
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        return float(np.maximum(evaluation.eval["precision"], 0).mean())


def _evaluation(detections: int) -> COCOeval:
    """A COCOeval of one image and one category at IoU 0.5, of masks of any size."""
    evaluation = COCOeval(iouType="segm")
    params = evaluation.params
    params.imgIds, params.catIds = [0], [0]
    params.iouThrs, params.maxDets = np.array([0.5]), [detections]
    params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
    return evaluation
