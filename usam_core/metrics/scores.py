"""Scores against truth, collected image after image: pixels, instances, presence, confidence."""

import contextlib
import io
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools.cocoeval import COCOeval

from usam_core.config.training import BACKGROUND
from usam_core.files.atomic import write_json
from usam_core.files.spreadsheet import write_csv
from usam_core.inference.reliability import reliability
from usam_core.labels.image import Instance
from usam_core.labels.label_map import LabelMap
from usam_core.metrics.boundaries import BoundaryScores
from usam_core.truth.base import VOID

COCO_DETECTIONS = 100
MIN_SHARE = 0.5
"""Share of a mask's known pixels that must be of its class for the mask to be right."""


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """IoU of each class and its means.

    Attributes:
        per_class: IoU by name, background first; None for a class in neither truth nor labels.
        images: number of images whose truth holds each class.
        miou: mean over background and all classes, without the Nones (docs/method.md, metrics).
        miou_common: mean over background and the classes that enough images hold.
        common: names of these classes.
        pixel_accuracy: share of the known pixels that are right.
    """

    per_class: dict[str, float | None]
    images: dict[str, int]
    miou: float
    miou_common: float
    common: list[str]
    pixel_accuracy: float


class Confusion:
    """Confusion matrix of pixels: rows are truth, columns labels.

    Args:
        classes: names of the labels 1, 2, ...
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = [BACKGROUND, *classes]
        size = len(self.names)
        self.matrix = np.zeros((size, size), np.int64)
        self.images = np.zeros(size, np.int64)

    def add(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """Count one image.

        Args:
            truth: integers (h, w), 0 to c, or -1 where nothing is known.
            labels: integers (h, w), 0 to c.

        Raises:
            ValueError: shapes differ, or a value is out of range.
        """
        if truth.shape != labels.shape:
            raise ValueError(f"truth {truth.shape} and labels {labels.shape} differ in shape")
        size = len(self.names)
        known = truth != VOID
        rows, columns = truth[known].astype(np.int64), labels[known].astype(np.int64)
        if len(rows) and (largest := max(rows.max(), columns.max())) >= size:
            raise ValueError(f"values up to {largest}; expected below {size}")
        pairs = np.bincount(rows * size + columns, minlength=size**2)
        self.matrix += pairs.reshape(size, size)
        self.images[np.unique(rows)] += 1

    def scores(self, common_images: int = 10) -> SemanticScores:
        """Scores so far; `miou_common` counts classes that at least so many images hold."""
        hit = np.diag(self.matrix)
        union = self.matrix.sum(0) + self.matrix.sum(1) - hit
        iou = np.where(union > 0, hit / np.maximum(union, 1), np.nan)
        common = self.images >= common_images
        common[0] = True
        values = [None if np.isnan(value) else float(value) for value in iou]
        return SemanticScores(
            per_class=dict(zip(self.names, values, strict=True)),
            images=dict(zip(self.names, self.images.tolist(), strict=True)),
            miou=_mean(iou),
            miou_common=_mean(iou[common]),
            common=[name for name, is_common in zip(self.names, common, strict=True) if is_common],
            pixel_accuracy=float(hit.sum() / max(1, self.matrix.sum())),
        )


def _mean(iou: np.ndarray) -> float:
    return float(np.nanmean(iou)) if not np.isnan(iou).all() else 0.0


@dataclass(frozen=True, slots=True)
class PresenceScores:
    """False positives where a class is absent: how often it is painted, and how much.

    Attributes:
        rate: share of all (image, absent class) pairs in which the class was painted.
        per_class: the same by class; None for a class that no image lacks.
        area: mean share of such an image's known pixels that the class took, by class.
    """

    rate: float
    per_class: dict[str, float | None]
    area: dict[str, float | None]


class FalsePositives:
    """Counts absent classes that were painted.

    Args:
        classes: names of the labels 1, 2, ...
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = list(classes)
        self._absent = np.zeros(len(classes), np.int64)
        self._painted = np.zeros(len(classes), np.int64)
        self._area = np.zeros(len(classes))

    def add(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """Count one image; arguments as for `Confusion.add`."""
        known = truth != VOID
        size = len(self._classes) + 1
        held = np.bincount(truth[known], minlength=size)[1:size] > 0
        painted = np.bincount(labels[known], minlength=size)[1:size]
        self._absent += ~held
        self._painted += ~held & (painted > 0)
        self._area += np.where(held, 0, painted / max(1, int(known.sum())))

    def scores(self) -> PresenceScores:
        """Scores so far."""
        pairs = int(self._absent.sum())
        rate = float(self._painted.sum() / pairs) if pairs else 0.0
        return PresenceScores(rate, self._shares(self._painted), self._shares(self._area))

    def _shares(self, counts: np.ndarray) -> dict[str, float | None]:
        rows = zip(self._classes, counts, self._absent, strict=True)
        return {name: float(count / absent) if absent else None for name, count, absent in rows}


class StatedProbabilities:
    """Whether stated probabilities come true: the calibration of the listed masks.

    A mask is right when at least half of its known pixels are of its class: truth without numbered
    objects has no IoU. Only listed masks count, those that passed the thresholds.
    """

    def __init__(self) -> None:
        self._sure, self._right = array("d"), array("b")  # nine bytes a mask

    def add(self, truth: np.ndarray, instances: Iterable[Instance]) -> None:
        """Count one image's masks that have a probability and known pixels.

        Args:
            truth: integers (h, w), 0 to c, or -1 where nothing is known.
            instances: the image's.
        """
        for one in instances:
            under = truth[one.mask()]
            under = under[under != VOID]
            if under.size and one.probability is not None:
                self._sure.append(one.probability)
                share = (under == LabelMap.id_of(one.class_index)).mean()
                self._right.append(bool(share >= MIN_SHARE))

    def table(self) -> pd.DataFrame:
        """Accuracy and mean probability by bin; see `reliability`."""
        return reliability(np.array(self._sure), np.array(self._right, bool))


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
    """Matches instances with truth image by image and ranks them at the end.

    `COCOeval` of a whole set of images holds all their masks; this holds the score of each and
    whether it was matched, and gives the same numbers.
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
            instances: the predictions, best first.
        """
        if truth is None:
            return
        self._images += 1
        self._is_crowded |= len(truth) > COCO_DETECTIONS
        by_class: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
        for one in truth:
            index = LabelMap.index_of(one["category_id"])
            by_class.setdefault(index, ([], []))[0].append(one)
        for instance in instances:
            by_class.setdefault(instance.class_index, ([], []))[1].append(instance.to_coco())
        for index, (expected, predicted) in by_class.items():
            self._matches[index].add(expected, predicted)

    def scores(self) -> InstanceScores | None:
        """AP50 of the images so far; None when the truth has no instances."""
        if not self._images:
            return None
        limit = None if self._is_crowded else COCO_DETECTIONS
        precisions = [matches.precision(limit) for matches in self._matches.values()]
        known = [value for value in precisions if value is not None]
        per_class = dict(zip(self._label_map.names, precisions, strict=True))
        return InstanceScores(float(np.mean(known)) if known else None, per_class)


class _Matches:
    """Matches of one class: 14 bytes a prediction, and counts of the truth."""

    def __init__(self) -> None:
        self._scores, self._ranks = array("d"), array("I")
        self._is_matched, self._is_ignored = array("b"), array("b")
        self._expected = self._crowds = 0

    def add(self, expected: list[dict[str, Any]], predicted: list[dict[str, Any]]) -> None:
        """Match the masks of one image by `COCOeval`."""
        evaluation = _evaluation(max(1, len(predicted)))
        evaluation._gts[0, 0] = [
            {**one, "id": number, "ignore": one["iscrowd"]}
            for number, one in enumerate(expected, start=1)
        ]
        evaluation._dts[0, 0] = [{**one, "id": n} for n, one in enumerate(predicted, start=1)]
        evaluation.ious = {(0, 0): evaluation.computeIoU(0, 0)}
        params = evaluation.params
        one = evaluation.evaluateImg(0, 0, params.areaRng[0], params.maxDets[-1])
        self._crowds += int(one["gtIgnore"].sum())
        self._expected += len(expected)
        self._scores.extend(one["dtScores"])
        self._ranks.extend(range(len(predicted)))
        self._is_matched.extend((one["dtMatches"][0] > 0).tolist())
        self._is_ignored.extend(one["dtIgnore"][0].tolist())

    def precision(self, limit: int | None) -> float | None:
        """Mean of COCO's interpolated precision; None where the truth holds no object.

        `limit` is the number of masks of an image that count, the best ones; None counts all.
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


def class_table(
    semantic: SemanticScores, instance: InstanceScores | None, absent: PresenceScores
) -> pd.DataFrame:
    """One row a class: images, iou, ap50, false_positive_rate, false_positive_area."""
    rows = [
        {
            "class": name,
            "images": semantic.images[name],
            "iou": iou,
            "ap50": instance.per_class.get(name) if instance else None,
            "false_positive_rate": absent.per_class.get(name),
            "false_positive_area": absent.area.get(name),
        }
        for name, iou in semantic.per_class.items()
    ]
    return pd.DataFrame(rows)


def write_report(
    folder: Path,
    semantic: SemanticScores,
    instance: InstanceScores | None,
    absent: PresenceScores,
    confusion: Confusion,
    boundary: BoundaryScores,
) -> list[Path]:
    """Write `metrics.json` and `per_class.csv`; return both paths."""
    metrics = {
        "semantic": asdict(semantic),
        "instance": asdict(instance) if instance else None,
        "boundary": asdict(boundary),
        "absent_classes": asdict(absent),
        "confusion": {"names": confusion.names, "pixels": confusion.matrix.tolist()},
    }
    write_json(folder / "metrics.json", metrics)
    table = write_csv(folder / "per_class.csv", class_table(semantic, instance, absent))
    return [folder / "metrics.json", table]
