"""Parts of images as pictures, and masks drawn on them as runs: what pages and server exchange.

A page shows a part of an image, a box of its pixels. What is drawn there is drawn on a grid over
the part, one cell a pixel, or several pixels where the part is larger than `LONGEST`.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from usam_core.errors import InputError
from usam_core.images.ref import Box
from usam_core.masks.rle import crop, encode, inside
from usam_core.masks.seams import shifted

LONGEST = 1024
"""Longest side of a picture that is sent, and of the grid that is drawn on."""
THUMBNAIL = 256
_MARGIN = 0.75
"""Surroundings shown on each side of a mask, as a share of its longer side; but at least `_MIN`."""
_MIN = 32
_OPACITY = 90


def window(box_xywh: tuple[float, ...], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of an image that is shown around a mask.

    >>> window((10, 10, 40, 20), (100, 200))
    (0, 0, 82, 62)
    """
    left, top, width, height = box_xywh
    margin = max(_MIN, _MARGIN * max(width, height))
    bounds = (left - margin, top - margin, left + width + margin, top + height + margin)
    limits = (size_hw[1], size_hw[0]) * 2
    x0, y0, x1, y1 = (int(np.clip(b, 0, m)) for b, m in zip(bounds, limits, strict=True))
    return x0, y0, x1, y1


def part_of(given: Sequence[int], size_hw: tuple[int, int]) -> Box:
    """The box of an image that a page names by left, top, right, bottom.

    Raises:
        InputError: it is not within the image.
    """
    left, top, right, bottom = given
    h, w = size_hw
    if not (0 <= left < right <= w and 0 <= top < bottom <= h):
        raise InputError(
            f"part {list(given)}: expected left, top, right, bottom within {w} x {h} pixels"
        )
    return Box((top, bottom), (left, right))


def grid_hw(box: Box) -> tuple[int, int]:
    """Rows and columns of the grid over a part.

    >>> grid_hw(Box((0, 60), (0, 80))), grid_hw(Box((0, 1024), (0, 2048)))
    ((60, 80), (512, 1024))
    """
    scale = min(1.0, LONGEST / max(box.size_hw))
    rows, columns = (max(1, int(side * scale + 0.5)) for side in box.size_hw)
    return rows, columns


def reduced(rgb: np.ndarray, box: Box) -> np.ndarray:
    """A part's pixels, uint8 (h, w, 3), at the size of its grid."""
    rows, columns = grid_hw(box)
    if rgb.shape[:2] == (rows, columns):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BOX))


def to_runs(mask: np.ndarray) -> list[int]:
    """A mask as lengths of runs along its rows, what is not mask first; `from_runs` reads them.

    >>> to_runs(np.array([[False, True], [True, False]]))
    [1, 2, 1]
    """
    flat = np.concatenate([[False], mask.ravel(), [not mask.size or not mask.flat[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(run) for run in np.diff(np.concatenate([[0], edges]))]


def from_runs(runs: Sequence[int], size_hw: tuple[int, int]) -> np.ndarray:
    """The mask, bool (h, w), that a page has drawn.

    Raises:
        InputError: the runs do not fill it.
    """
    h, w = size_hw
    lengths = np.asarray(runs, np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != h * w:
        raise InputError(f"runs: expected {h} x {w} cells, got {int(lengths.sum())}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(h, w)


def on_grid(rle: dict[str, Any], box: Box) -> np.ndarray:
    """The part of a mask as it is drawn on the grid, bool."""
    mask = inside(rle, *box.slices)
    rows, columns = grid_hw(box)
    if mask.shape == (rows, columns):
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((columns, rows), Image.Resampling.BOX)) >= 128


def drawn_on(
    rle: dict[str, Any] | None, grid: np.ndarray, box: Box, size_hw: tuple[int, int]
) -> dict[str, Any]:
    """A mask of an image after a person has drawn on a part of it.

    Args:
        rle: the mask before, which stays beyond the part; None for none.
        grid: bool, what is on the part's grid now.
        box: the part.
        size_hw: rows and columns of the image.

    Raises:
        InputError: nothing is left of it.
    """
    top, bottom, left, right = *box.rows, *box.columns
    if rle is not None:
        old = crop(rle)
        h, w = old.mask.shape
        top, left = min(top, old.top), min(left, old.left)
        bottom, right = max(bottom, old.top + h), max(right, old.left + w)
    whole = Box((top, bottom), (left, right))
    mask = np.zeros(whole.size_hw, bool) if rle is None else inside(rle, *whole.slices)
    here = Image.fromarray(grid.astype(np.uint8) * 255)
    full = np.asarray(here.resize(box.size_hw[::-1], Image.Resampling.BILINEAR)) >= 128
    mask[box.rows[0] - top : box.rows[1] - top, box.columns[0] - left : box.columns[1] - left] = (
        full
    )
    if not mask.any():
        raise InputError("the outline is empty: expected at least a pixel; to remove it, reject it")
    return shifted(encode(mask), whole, size_hw)


def photograph(rgb: np.ndarray) -> bytes:
    """A part of an image, uint8 (h, w, 3), as JPEG, its longer side `LONGEST` pixels."""
    return _encoded(_sized(Image.fromarray(rgb), Image.Resampling.LANCZOS, LONGEST), "JPEG")


def thumbnail(rgb: np.ndarray, mask: np.ndarray, color: tuple[int, ...]) -> bytes:
    """A small JPEG of a part with a mask, bool (h, w), in its class's color and a rim."""
    small = _sized(Image.fromarray(rgb), Image.Resampling.LANCZOS, THUMBNAIL).convert("RGBA")
    small.alpha_composite(_veil(mask, color, THUMBNAIL))
    return _encoded(small.convert("RGB"), "JPEG")


def rims(masks: Sequence[np.ndarray], colors: Sequence[tuple[int, ...]], size_hw: Any) -> bytes:
    """Outlines of masks, bool (rows, columns), in their colors; PNG, clear elsewhere."""
    layer = np.zeros((*size_hw, 4), np.uint8)
    for mask, color in zip(masks, colors, strict=True):
        layer[mask & ~ndimage.binary_erosion(mask, iterations=1)] = (*color, 255)
    return _encoded(Image.fromarray(layer), "PNG")


def _veil(mask: np.ndarray, color: tuple[int, ...], longest: int) -> Image.Image:
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    inner = np.asarray(_sized(grey, Image.Resampling.BILINEAR, longest)) >= 128
    layer = np.zeros((*inner.shape, 4), np.uint8)
    layer[inner] = (*color, _OPACITY)
    outer = ndimage.binary_dilation(inner, iterations=3) & ~inner
    layer[outer] = (0, 0, 0, 255)
    layer[ndimage.binary_dilation(inner, iterations=2) & ~inner] = (255, 255, 255, 255)
    return Image.fromarray(layer)


def _sized(image: Image.Image, resampling: Image.Resampling, longest: int) -> Image.Image:
    scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), resampling)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()
