"""Cut the one object out of a training picture, and find what may lie behind objects."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from usam_core.config.training import ComposeConfig
from usam_core.masks.bits import unpack, upscale, valid_hw
from usam_core.sources.scenes import surface
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


_GRID = 32
_MIN_SIDE = 5  # of the grid: a smaller part, made large, shows pixels and nothing else
_BLUR = 1 / 14  # of the shorter side: nothing can be recognised any more


def texture(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Return a drawn surface, uint8 (h, w, 3)."""
    return np.clip(surface(rng, size_hw), 0, 255).astype(np.uint8)


def blurred(rgb: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return a whole picture, filling the frame, with nothing left to recognise."""
    sigma = min(size_hw) * _BLUR
    filled = fill(rgb, size_hw).astype(np.float32)
    return ndimage.gaussian_filter(filled, (sigma, sigma, 0)).astype(np.uint8)


def beside(cutout: Cutout, size_hw: tuple[int, int]) -> np.ndarray | None:
    """Return the largest part of a picture beside its object, filling the frame; None if small."""
    h, w = cutout.mask.shape
    cells = np.zeros((_GRID, _GRID), bool)
    rows, columns = np.nonzero(cutout.mask)
    cells[rows * _GRID // h, columns * _GRID // w] = True
    top, left, bottom, right = largest_empty(ndimage.binary_dilation(cells))
    if min(bottom - top, right - left) < _MIN_SIDE:
        return None
    part = cutout.rgb[
        top * h // _GRID : bottom * h // _GRID, left * w // _GRID : right * w // _GRID
    ]
    return fill(part, size_hw) if min(part.shape[:2]) > 1 else None


def fill(rgb: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Scale a picture so that it covers the frame, and cut off what stands out, evenly."""
    h, w = size_hw
    scale = max(h / rgb.shape[0], w / rgb.shape[1])
    wide = (max(w, round(rgb.shape[1] * scale)), max(h, round(rgb.shape[0] * scale)))
    large = np.asarray(Image.fromarray(rgb).resize(wide, Image.Resampling.BICUBIC))
    top, left = (large.shape[0] - h) // 2, (large.shape[1] - w) // 2
    return large[top : top + h, left : left + w]


def largest_empty(taken: np.ndarray) -> tuple[int, int, int, int]:
    """Return the largest rectangle of False: top, left, bottom, right, the last two beyond it.

    >>> largest_empty(np.array([[True, False, False], [True, False, False]]))
    (0, 1, 2, 3)
    """
    best, found = 0, (0, 0, 0, 0)
    height = np.zeros(taken.shape[1], int)
    for row, line in enumerate(taken):
        height = np.where(line, 0, height + 1)
        for left in range(len(height)):
            lowest = np.minimum.accumulate(height[left:])
            sizes = lowest * np.arange(1, len(lowest) + 1)
            widest = int(sizes.argmax())
            if sizes[widest] > best:
                best = int(sizes[widest])
                found = (row + 1 - int(lowest[widest]), left, row + 1, left + widest + 1)
    return found
