"""Which masks a person should look at: of each class the best, the doubtful, the dropped."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from usam_core.labels.image import Instance, LabelledImage

KINDS = ("best", "doubtful", "rejected")


@dataclass(frozen=True, slots=True)
class Sample:
    """One mask to be shown.

    Attributes:
        kind: one of `KINDS`.
        class_index: of its class.
        rank: what it was chosen by; larger is shown first.
        file_name: its image.
        instance: the mask.
        confidence: what was compared with the threshold.
        threshold: of its class.
    """

    kind: str
    class_index: int
    rank: float
    file_name: str
    instance: Instance
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

    def add(self, image: LabelledImage) -> None:
        """Look at the masks of one image."""
        found: dict[tuple[str, int], Sample] = {}
        for one in image.instances:
            threshold = float(self._thresholds[one.class_index])
            sure = self._confidence(one)
            doubt = self._doubt(one.entropy, sure, threshold)
            for kind, rank in (("best", one.score), ("doubtful", doubt)):
                sample = Sample(kind, one.class_index, rank, image.path, one, sure, threshold)
                _keep_larger(found, sample)
        for one in image.missed:
            rank = one.score / max(one.threshold, 1e-6)
            at = (image.path, one, one.score, one.threshold)
            _keep_larger(found, Sample("rejected", one.class_index, rank, *at))
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
            for index, kind in sorted({(index, KINDS.index(kind)) for kind, index in self._kept})
            for _, _, sample in sorted(self._kept[KINDS[kind], index], reverse=True)
        ]

    def _confidence(self, one: Instance) -> float:
        iou = min(max(one.predicted_iou, 0.0), 1.0)
        return one.score / iou if self._times_iou and iou > 0 else one.score

    def _doubt(self, entropy: float, sure: float, threshold: float) -> float:
        largest = math.log(max(2, len(self._thresholds)))
        near = 1 - (sure - threshold) / max(1 - threshold, 1e-6)
        return float(np.clip(entropy / largest, 0, 1) + np.clip(near, 0, 1)) / 2


def _keep_larger(found: dict[tuple[str, int], Sample], sample: Sample) -> None:
    key = (sample.kind, sample.class_index)
    if key not in found or found[key].rank < sample.rank:
        found[key] = sample
