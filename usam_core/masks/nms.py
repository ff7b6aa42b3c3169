"""Non-maximum suppression of masks, by IoU and by containment."""

import numpy as np

from usam_core.masks.overlap import Overlaps


def suppress(
    packed: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou: float,
    containment: float,
) -> np.ndarray:
    """Return which masks stay, best first, int64 (p',).

    Going down the scores, a mask is dropped when a kept one overlaps it by more than `iou`,
    whatever its class (one thing has one name), or when a kept one of the same class contains it
    or lies in it by more than `containment` (a part of a thing is not a second thing).

    Args:
        packed: uint8 (p, u, b).
        scores: float32 (p,); ties go to the first.
        classes: int64 (p,).
        iou: 0 to 1; 1 drops nothing by IoU.
        containment: 0 to 1; 1 drops nothing by containment.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = Overlaps(packed[order])
    classes = classes[order]
    stay, left = [], np.arange(len(order))
    while len(left):
        # Only with masks that stay, and only of masks that still may: a tenth of all pairs.
        best, left = left[0], left[1:]
        stay.append(best)
        overlap, inside = overlaps(best, left)
        same = classes[left] == classes[best]
        left = left[~((overlap > iou) | (same & (inside > containment)))]
    return order[stay]
