"""Cut the one object out of a training picture, with the mask that SAM itself gives it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from usam_core.config.compose import ComposeConfig
from usam_core.masks.bits import unpack, upscale, valid_hw
from usam_core.types import MaskSet

_SPECK = 0.1


@dataclass(frozen=True, slots=True)
class Cutout:
    """A picture and where its object is.

    Attributes:
        class_name: what the object is.
        sha256: digest of the picture.
        rgb: uint8 (h, w, 3), the whole picture.
        mask: bool (h, w), the object.
    """

    class_name: str
    sha256: str
    rgb: np.ndarray
    mask: np.ndarray


def object_mask(mask_set: MaskSet, config: ComposeConfig) -> np.ndarray | None:
    """Return the mask that is the picture's single object, bool (h, w), or None.

    Of the masks of a plausible size that hold some of the middle and little of the border, it is
    the one with the largest product of predicted IoU and stability.

    Args:
        mask_set: what SAM said of the picture.
        config: the limits.
    """
    d, m = mask_set.predicted_iou.shape
    packed = mask_set.packed_masks.reshape(d * m, *mask_set.packed_masks.shape[2:])
    rows, columns = valid_hw(mask_set.size_hw, packed.shape[-2])
    masks = unpack(packed)[:, :rows, :columns]
    area = masks.mean(axis=(1, 2))
    right = (
        (area >= config.min_area)
        & (area <= config.max_area)
        & (center_share(masks) >= config.min_center)
        & (border_share(masks) <= config.max_border)
    )
    if not right.any():
        return None
    quality = (mask_set.predicted_iou * mask_set.stability).reshape(-1)
    best = int(np.where(right, quality, -np.inf).argmax())
    return without_specks(upscale(packed[best : best + 1], mask_set.size_hw)[0])


def without_specks(mask: np.ndarray) -> np.ndarray:
    """Return a mask (h, w) without parts smaller than a tenth of its largest, and without holes
    smaller than a tenth of what is left.

    >>> int(without_specks(np.array([[True, True, True], [False] * 3, [False] * 3])).sum())
    3
    """
    for value in (True, False):
        parts, _ = ndimage.label(mask == value)
        sizes = np.bincount(parts.ravel())
        least = _SPECK * (sizes[1:].max() if value else mask.sum())
        small = sizes < least
        small[0] = False
        mask = mask ^ small[parts]
    return mask


def center_share(masks: np.ndarray) -> np.ndarray:
    """Return how much of the middle ninth of the frame each mask covers, float64 (p,)."""
    h, w = masks.shape[1:]
    middle = masks[:, h // 3 : max(h // 3 + 1, 2 * h // 3), w // 3 : max(w // 3 + 1, 2 * w // 3)]
    return middle.mean(axis=(1, 2))


def border_share(masks: np.ndarray) -> np.ndarray:
    """Return how much of the frame's border each mask covers, float64 (p,)."""
    edges = [masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]]
    return np.concatenate(edges, axis=1).mean(axis=1)
