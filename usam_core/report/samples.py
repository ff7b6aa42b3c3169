"""Which masks a person should look at: of each class the best, the doubtful, the dropped."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("best", "doubtful", "rejected")


@dataclass(frozen=True, slots=True)
class Sample:
    """One mask to be shown.

    Attributes:
        kind: one of `KINDS`.
        label: its class, 1 is the first.
        rank: what it was chosen by; larger is shown first.
        file_name: its image.
        record: as `annotate` recorded it.
        confidence: what was compared with the threshold.
        threshold: of its class.
    """

    kind: str
    label: int
    rank: float
    file_name: str
    record: dict[str, Any]
    confidence: float
    threshold: float


class SampleKeeper:
    """Looks at image after image and keeps the few samples of each class.

    * best: the highest scores;
    * doubtful: kept, but the mean of two things is high: the entropy as a share of the largest
      possible, and how near the confidence is to the threshold;
    * rejected: dropped masks that came nearest to the threshold.

    Args:
        thresholds: float (c,), the least confidence of each class.
        times_iou: scores are confidence times predicted IoU, as `inference.score` says.
        most: samples of a kind and class; of one image there is but one.
    """

    def __init__(self, thresholds: Sequence[float], times_iou: bool, most: int) -> None:
        self._thresholds = thresholds
        self._times_iou = times_iou
        self._most = most
        self._kept: dict[tuple[str, int], list[tuple[float, int, Sample]]] = {}
        self._seen = 0

    def add(self, entry: dict[str, Any]) -> None:
        """Look at what `annotate` recorded of one image."""
        found: dict[tuple[str, int], Sample] = {}
        for record in entry["annotations"]:
            label = record["category_id"]
            threshold = float(self._thresholds[label - 1])
            sure = self._confidence(record)
            for kind, rank in (
                ("best", record["score"]),
                ("doubtful", self._doubt(record["entropy"], sure, threshold)),
            ):
                sample = Sample(kind, label, rank, entry["file_name"], record, sure, threshold)
                _keep_larger(found, sample)
        for record in entry["missed"]:
            label, threshold = record["category_id"], record["threshold"]
            rank = record["score"] / max(threshold, 1e-6)
            sample = Sample(
                "rejected", label, rank, entry["file_name"], record, record["score"], threshold
            )
            _keep_larger(found, sample)
        for key, sample in found.items():
            self._seen += 1
            heap = self._kept.setdefault(key, [])
            heapq.heappush(heap, (sample.rank, -self._seen, sample))
            if len(heap) > self._most:
                heapq.heappop(heap)

    def samples(self) -> list[Sample]:
        """Return all samples by class, kind, and rank."""
        return [
            sample
            for label, kind in sorted({(label, KINDS.index(kind)) for kind, label in self._kept})
            for _, _, sample in sorted(self._kept[KINDS[kind], label], reverse=True)
        ]

    def _confidence(self, record: dict[str, Any]) -> float:
        iou = min(max(record["predicted_iou"], 0.0), 1.0)
        return record["score"] / iou if self._times_iou and iou > 0 else record["score"]

    def _doubt(self, entropy: float, sure: float, threshold: float) -> float:
        largest = math.log(max(2, len(self._thresholds)))
        near = 1 - (sure - threshold) / max(1 - threshold, 1e-6)
        return float(np.clip(entropy / largest, 0, 1) + np.clip(near, 0, 1)) / 2


def _keep_larger(found: dict[tuple[str, int], Sample], sample: Sample) -> None:
    key = (sample.kind, sample.label)
    if key not in found or found[key].rank < sample.rank:
        found[key] = sample
