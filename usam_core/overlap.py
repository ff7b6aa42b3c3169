"""How masks overlap, counted on packed bits at low resolution."""

import numpy as np

from usam_core.masks import areas


def intersections(packed: np.ndarray) -> np.ndarray:
    """Return the shared pixels of every pair of masks, int64 (p, p).

    Args:
        packed: uint8 (p, u, b).
    """
    flat = packed.reshape(len(packed), packed.shape[1] * packed.shape[2])
    shared = np.empty((len(flat), len(flat)), np.int64)
    for number, mask in enumerate(flat):
        shared[number] = np.bitwise_count(flat & mask).sum(axis=1, dtype=np.int64)
    return shared


def iou_and_containment(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the IoU of every pair, and how much of the smaller one lies in the other.

    Args:
        packed: uint8 (p, u, b).

    Returns:
        Two float64 (p, p), 0 to 1; an empty mask overlaps nothing, not even itself.
    """
    shared = intersections(packed)
    area = areas(packed)
    union = area[:, None] + area[None] - shared
    smaller = np.minimum(area[:, None], area[None])
    return shared / np.maximum(union, 1), shared / np.maximum(smaller, 1)
