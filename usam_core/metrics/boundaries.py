"""How well borders lie: the boundary F-score, of border pixels that agree within a distance.

Of each class, as in Csurka and others (BMVC 2013) and DAVIS: a border pixel of the labels is right
if one of the truth lies within the tolerance, and the other way round. Pixels are added up over all
images, as for IoU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from usam_core.truth.base import VOID

TOLERANCE = 0.0075
"""Distance that is still right, as a share of the image's diagonal; at least one pixel."""


@dataclass(frozen=True, slots=True)
class BoundaryScores:
    """F-score of the borders of each class.

    Attributes:
        mean: over the classes that the truth holds; None where it holds none.
        mean_common: over those that enough images hold.
        per_class: by name; None for a class that the truth does not hold.
    """

    mean: float | None
    mean_common: float | None
    per_class: dict[str, float | None]


class Boundaries:
    """Compares borders image by image.

    Args:
        classes: names of the labels 1, 2, ...
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = list(classes)
        # Found and all border pixels of the truth, right and all border pixels of the labels.
        self._counts = np.zeros((len(self._names), 4), np.int64)

    def add(self, truth: np.ndarray, labels: np.ndarray) -> None:
        """Count one image.

        Where the truth is void, it is taken to be what is known nearest, so that VOC's bands have
        the border in their middle; farther than the tolerance from anything known nothing counts.

        Args:
            truth: integers (h, w), 0 to c, or `VOID`.
            labels: integers (h, w), 0 to c.
        """
        most = max(1.0, TOLERANCE * float(np.hypot(*truth.shape)))
        truth, known = _filled(truth, most)
        for label in np.union1d(np.unique(truth), np.unique(labels)).tolist():
            if label < 1:
                continue
            expected, found = (np.argwhere(border(one == label) & known) for one in (truth, labels))
            self._counts[label - 1] += (
                *(_near(expected, found, most), len(expected)),
                *(_near(found, expected, most), len(found)),
            )

    def scores(self, images: Sequence[int], common_images: int = 10) -> BoundaryScores:
        """Scores so far.

        Args:
            images: how many images hold each class.
            common_images: a class is common that so many hold.
        """
        values: list[float | None] = []
        for found, expected, right, painted in self._counts.tolist():
            recall, precision = found / max(1, expected), right / max(1, painted)
            total = recall + precision
            values.append((2 * recall * precision / total if total else 0.0) if expected else None)
        known = [value for value in values if value is not None]
        common = [
            value
            for value, count in zip(values, images, strict=True)
            if value is not None and count >= common_images
        ]
        return BoundaryScores(
            float(np.mean(known)) if known else None,
            float(np.mean(common)) if common else None,
            dict(zip(self._names, values, strict=True)),
        )


def border(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask, bool (h, w), with a side to what is not mask.

    The image's own rim is no border.
    """
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    return mask & ~inside


def _near(these: np.ndarray, others: np.ndarray, most: float) -> int:
    """How many of some pixels, int (n, 2), have one of the others within a distance."""
    if not len(these) or not len(others):
        return 0
    distance, _ = cKDTree(others).query(these, distance_upper_bound=np.nextafter(most, np.inf))
    return int(np.isfinite(distance).sum())


def _filled(truth: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth with the nearest label where it is void, and where that is near enough."""
    void = truth == VOID
    if void.all() or not void.any():
        return truth, ~void
    distance, (rows, columns) = ndimage.distance_transform_edt(void, return_indices=True)
    return truth[rows, columns], distance <= most
