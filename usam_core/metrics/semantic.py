"""Semantic metrics: confusion over C + 1 classes, IoU of each, mIoU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from usam_core.truth.base import VOID

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """IoU of each class and their means.

    Attributes:
        per_class: IoU by name, background first; None for a class that is in neither truth nor
            labels.
        images: in how many images the truth holds each class.
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
    """Counts pixels by truth and label, image after image.

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
        t, found = truth[known].astype(np.int64), labels[known].astype(np.int64)
        if len(t) and max(t.max(), found.max()) >= size:
            raise ValueError(f"values up to {max(t.max(), found.max())}; expected below {size}")
        self.matrix += np.bincount(t * size + found, minlength=size**2).reshape(size, size)
        self.images[np.unique(t)] += 1

    def scores(self, common_images: int = 10) -> SemanticScores:
        """Return the scores of all images so far.

        Args:
            common_images: how many images must hold a class for `miou_common`.
        """
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
