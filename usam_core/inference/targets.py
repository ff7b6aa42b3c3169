"""Which class each mask of a scene shows."""

import numpy as np
from PIL import Image

from usam_core.inference.fit_calibration import NONE
from usam_core.masks.bits import areas, unpack, valid_hw

MIN_SHARE = 0.5
"""A mask shows a class when so much of it lies on an object of it, whole or part: the question is
what the mask is of, as for images whose truth is pixels alone (`usam_core.metrics.scores`)."""


def shown_classes(packed: np.ndarray, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the class that each mask shows, int64 (p,), or `NONE`.

    Args:
        packed: uint8 (p, u, b).
        truth: integers (h, w), 0 background, i the scene's object of class i.
        values: int64, the head's class of each label of `truth`.
    """
    rows, columns = valid_hw(truth.shape[:2], packed.shape[-2])
    small = np.asarray(Image.fromarray(truth).resize((columns, rows), Image.Resampling.NEAREST))
    masks = unpack(packed)[:, :rows, :columns].reshape(len(packed), rows * columns)
    sizes = np.maximum(areas(packed), 1)
    shown = np.full(len(packed), NONE, np.int64)
    best = np.full(len(packed), MIN_SHARE)
    # By class and not by label: at a coarser level two objects may be of one.
    for value in np.unique(values[np.unique(small)]):
        if value == NONE:
            continue
        share = (masks & np.isin(small, np.flatnonzero(values == value)).ravel()).sum(1) / sizes
        shown[share >= best] = value
        best = np.maximum(best, share)
    return shown
