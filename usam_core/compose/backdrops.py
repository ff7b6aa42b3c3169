"""What lies behind the objects of a composed scene; always without the classes' own objects."""

import numpy as np
from PIL import Image
from scipy import ndimage

from usam_core.compose.cutout import Cutout
from usam_core.sources.textures import surface

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
