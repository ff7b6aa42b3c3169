"""False positives where a class is absent: the complaint users have of names-only labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from usam_core.truth.base import VOID


@dataclass(frozen=True, slots=True)
class PresenceScores:
    """How often a class is painted on images that do not hold it.

    Attributes:
        rate: share of all (image, absent class) pairs in which the class was painted.
        per_class: the same for each class; None where it is absent from no image.
        area: mean share of such an image's known pixels that the class took, by class.
    """

    rate: float
    per_class: dict[str, float | None]
    area: dict[str, float | None]


class FalsePositives:
    """Counts absent classes that were painted, image after image.

    Args:
        classes: names of the labels 1, 2, ...
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = list(classes)
        self._absent = np.zeros(len(classes), np.int64)
        self._painted = np.zeros(len(classes), np.int64)
        self._area = np.zeros(len(classes))

    def add(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """Count one image; void pixels of the truth count for nothing.

        Args:
            truth: integers (h, w), 0 to c, or -1 where nothing is known.
            labels: integers (h, w), 0 to c.
        """
        known = truth != VOID
        size = len(self._classes) + 1
        held = np.bincount(truth[known], minlength=size)[1:size] > 0
        found = np.bincount(labels[known], minlength=size)[1:size]
        self._absent += ~held
        self._painted += ~held & (found > 0)
        self._area += np.where(held, 0, found / max(1, int(known.sum())))

    def scores(self) -> PresenceScores:
        """Return the scores of all images so far."""
        pairs = int(self._absent.sum())
        return PresenceScores(
            rate=float(self._painted.sum() / pairs) if pairs else 0.0,
            per_class=self._shares(self._painted),
            area=self._shares(self._area),
        )

    def _shares(self, counts: np.ndarray) -> dict[str, float | None]:
        return {
            name: float(count / absent) if absent else None
            for name, count, absent in zip(self._classes, counts, self._absent, strict=True)
        }
