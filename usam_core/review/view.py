"""Pictures of one mask: the part of the image around it, and the mask to lay over it."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

LONGEST = 1024
"""Longest side of a picture that is sent, pixels."""
_MARGIN = 0.75
"""Of the mask's longer side: so much of its surroundings is shown on each side."""
_MIN = 32
"""And at least so many pixels."""
_OPACITY = 90


def window(box_xywh: tuple[float, ...], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of an image that is shown around a mask.

    >>> window((10, 10, 40, 20), (100, 200))
    (0, 0, 82, 62)
    """
    left, top, width, height = box_xywh
    margin = max(_MIN, _MARGIN * max(width, height))
    bounds = (left - margin, top - margin, left + width + margin, top + height + margin)
    limits = (size_hw[1], size_hw[0]) * 2
    x0, y0, x1, y1 = (int(np.clip(b, 0, m)) for b, m in zip(bounds, limits, strict=True))
    return x0, y0, x1, y1


def photograph(rgb: np.ndarray, part: tuple[int, int, int, int]) -> bytes:
    """Return a part of an image as JPEG, at most `LONGEST` pixels long; small ones are enlarged.

    Args:
        rgb: uint8 (h, w, 3).
        part: as `window` returns it.
    """
    return _encoded(_sized(Image.fromarray(rgb).crop(part), Image.Resampling.LANCZOS), "JPEG")


def veil(mask: np.ndarray, part: tuple[int, int, int, int], color: tuple[int, ...]) -> bytes:
    """Return a mask in its class's colour with a white and black rim, PNG, clear elsewhere.

    Args:
        mask: bool (h, w).
        part: as `window` returns it; the picture is as large as that of `photograph`.
        color: red, green, blue.
    """
    grey = Image.fromarray(mask.astype(np.uint8) * 255).crop(part)
    inside = np.asarray(_sized(grey, Image.Resampling.BILINEAR)) >= 128
    layer = np.zeros((*inside.shape, 4), np.uint8)
    layer[inside] = (*color, _OPACITY)
    outer = ndimage.binary_dilation(inside, iterations=3) & ~inside
    layer[outer] = (0, 0, 0, 255)
    layer[ndimage.binary_dilation(inside, iterations=2) & ~inside] = (255, 255, 255, 255)
    return _encoded(Image.fromarray(layer), "PNG")


def _sized(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    scale = LONGEST / max(image.size)
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), resampling)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()
