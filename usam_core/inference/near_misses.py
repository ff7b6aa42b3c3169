"""Which of an image's dropped masks came nearest to being kept: thresholds are checked by them."""

import numpy as np

from usam_core.masks.paint import Overlaps

MAX = 2
"""So many are kept of an image: there are always very many masks that nobody would want."""

_MIN = 0.5
"""Masks with less of their threshold than this share were not near it."""

_LOOKED_AT = 16


def near_misses(
    packed: np.ndarray, reached: np.ndarray, kept: np.ndarray, max_iou: float
) -> np.ndarray:
    """Return the rows of the dropped masks that came nearest, best first, int64 (at most `MAX`,).

    A mask of what a kept one, or a nearer miss, shows already is left out.

    Args:
        packed: uint8 (p, u, b), the dropped masks.
        reached: float (p,), confidence as a share of the threshold.
        kept: uint8 (k, u, b), the masks that were kept.
        max_iou: masks that overlap more than this show the same.
    """
    order = np.argsort(-reached, kind="stable")[:_LOOKED_AT]
    order = order[reached[order] >= _MIN]
    if not len(order):
        return order
    overlaps = Overlaps(np.concatenate([kept, packed[order]]))
    shown = list(range(len(kept)))
    found = []
    for row, place in enumerate(order, start=len(kept)):
        if not (overlaps(row, np.array(shown, np.int64)) > max_iou).any():
            shown.append(row)
            found.append(place)
        if len(found) == MAX:
            break
    return np.array(found, np.int64)
