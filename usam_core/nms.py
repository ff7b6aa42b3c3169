"""Non-maximum suppression of masks, by IoU and by containment."""

import numpy as np

from usam_core.overlap import iou_and_containment


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
    overlap, inside = iou_and_containment(packed[order])
    same = classes[order][:, None] == classes[order][None]
    conflict = (overlap > iou) | (same & (inside > containment))
    alive = np.ones(len(order), bool)
    for number in range(len(order)):
        if alive[number]:
            alive[number + 1 :] &= ~conflict[number, number + 1 :]
    return order[alive]
