"""Non-maximum suppression of masks, by IoU and by containment."""

import numpy as np

from usam_core.overlap import Overlaps


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
    alive = np.ones(len(order), bool)
    for number in range(len(order)):
        # Only with masks that stay, and only of masks that still may: a tenth of all pairs.
        worse = number + 1 + np.flatnonzero(alive[number + 1 :])
        if not alive[number] or not len(worse):
            continue
        overlap, inside = overlaps(number, worse)
        same = classes[worse] == classes[number]
        alive[worse] = ~((overlap > iou) | (same & (inside > containment)))
    return order[alive]
