"""Which class each mask of a composed scene shows, by the scene's truth."""

import numpy as np
from PIL import Image

from usam_core.head.mask_loss import UNKNOWN
from usam_core.masks.bits import unpack, valid_hw

PURE = 0.75
"""A mask shows a class when at least so much of it lies on it."""
CLEAR = 0.9
"""And background when at least so much of it lies on no object."""


def mask_targets(packed: np.ndarray, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what each mask shows, int64 (d,).

    Args:
        packed: uint8 (d, u, b), one mask a prompt.
        truth: (h, w), 0 background, i for class i.
        values: int64, the head's class of each label of `truth`; of label 0, the number that
            stands for background.
    """
    rows, columns = valid_hw(truth.shape[:2], packed.shape[-2])
    small = Image.fromarray(truth).resize((columns, rows), Image.Resampling.NEAREST)
    label = values[np.asarray(small)].ravel()
    masks = unpack(packed)[:, :rows, :columns].reshape(len(packed), -1)
    kinds, inverse = np.unique(label, return_inverse=True)
    counts = masks.astype(np.float32) @ np.eye(len(kinds), dtype=np.float32)[inverse]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    best = share.argmax(axis=1)
    targets = kinds[best].astype(np.int64)
    least = np.where(targets == values[0], CLEAR, PURE)
    targets[share[np.arange(len(share)), best] < least] = UNKNOWN
    return targets
