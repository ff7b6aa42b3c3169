"""Overlap of masks, counted on packed bits at low resolution, and suppression by it."""

import numpy as np

from usam_core.masks.bits import areas, words


class Overlaps:
    """Compares masks one with many, eight bytes at a time.

    Args:
        packed: uint8 (p, u, b).
    """

    def __init__(self, packed: np.ndarray) -> None:
        self._words = words(packed)
        self._area = areas(packed)

    def __call__(self, one: int, others: np.ndarray) -> np.ndarray:
        """Return the IoU of one mask with others, float64 (q,), 0 to 1.

        An empty mask overlaps nothing, not even itself.

        Args:
            one: number of the mask.
            others: int64 (q,), numbers of the others.
        """
        shared = np.bitwise_count(self._words[others] & self._words[one]).sum(axis=1, dtype=int)
        union = self._area[others] + self._area[one] - shared
        return shared / np.maximum(union, 1)


def suppress(packed: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Return which masks stay, best first, int64 (p',).

    Going down the scores, a mask is dropped when a kept one overlaps it by more than `iou`,
    whatever its class: one thing has one name.

    Args:
        packed: uint8 (p, u, b).
        scores: float32 (p,); ties go to the first.
        iou: 0 to 1; 1 drops nothing.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = Overlaps(packed[order])
    stay, left = [], np.arange(len(order))
    while len(left):
        # Only with masks that stay, and only of masks that still may: a tenth of all pairs.
        best, left = left[0], left[1:]
        stay.append(best)
        left = left[overlaps(best, left) <= iou]
    return order[stay]
