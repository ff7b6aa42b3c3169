"""Which object of a scene each mask is."""

import numpy as np
from PIL import Image

from usam_core.calibration.fit import NONE
from usam_core.masks import areas, unpack, valid_hw

LEAST_IOU = 0.5
"""A mask is an object when it overlaps it by at least this IoU, as in AP50."""


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
    sizes = areas(packed)
    shown = np.full(len(packed), NONE, np.int64)
    best = np.full(len(packed), LEAST_IOU)
    for label in np.unique(small[small > 0]):
        region = (small == label).ravel()
        shared = (masks & region).sum(axis=1)
        iou = shared / np.maximum(sizes + region.sum() - shared, 1)
        shown[iou >= best] = values[label]
        best = np.maximum(best, iou)
    return shown
