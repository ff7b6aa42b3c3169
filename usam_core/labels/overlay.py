"""Overlays: the image with its labels in color, and a legend of the classes it shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from usam_core.config.training import BACKGROUND
from usam_core.files.atomic import whole_file

_OPACITY = 0.5
_LINE = 18


def overlay(rgb: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The image with labels blended over it and their borders drawn, uint8 (h, w, 3).

    Args:
        rgb: uint8 (h, w, 3).
        labels: integers (h, w); 0 and void, below 0 or beyond the colors, are left as they are.
        colors: uint8 (c + 1, 3).
    """
    known = (labels > 0) & (labels < len(colors))
    color = colors[np.where(known, labels, 0)].astype(np.float32)
    blended = np.where(known[..., None], rgb * (1 - _OPACITY) + color * _OPACITY, rgb)
    border = known & (ndimage.grey_erosion(labels, size=3) != ndimage.grey_dilation(labels, size=3))
    blended[border] = color[border]
    return blended.astype(np.uint8)


def with_legend(
    picture: np.ndarray, labels: np.ndarray, classes: Sequence[str], colors: np.ndarray
) -> Image.Image:
    """The picture with a strip below it that names the classes present."""
    names = (BACKGROUND, *classes)
    present = [int(v) for v in np.unique(labels) if 0 < v < len(names)]
    image = Image.fromarray(picture)
    font = ImageFont.load_default(size=12)
    lines: list[list[tuple[int, int]]] = [[]]
    left = 4
    for value in present:
        width = int(font.getlength(names[value])) + _LINE + 10
        if left + width > image.width and lines[-1]:
            lines.append([])
            left = 4
        lines[-1].append((left, value))
        left += width
    strip = Image.new("RGB", (image.width, image.height + _LINE * len(lines)), "white")
    strip.paste(image)
    draw = ImageDraw.Draw(strip)
    for number, items in enumerate(lines):
        top = image.height + number * _LINE
        for left, value in items:
            fill = tuple(int(channel) for channel in colors[value])
            draw.rectangle((left, top + 4, left + 10, top + 14), fill=fill, outline="black")
            draw.text((left + 14, top + 1), names[value], fill="black", font=font)
    return strip


def save_overlay(
    path: Path, rgb: np.ndarray, labels: np.ndarray, classes: Sequence[str], colors: np.ndarray
) -> None:
    """Write an overlay with its legend as JPEG."""
    picture = with_legend(overlay(rgb, labels, colors), labels, classes, colors)
    with whole_file(path) as temporary:
        picture.save(temporary, format="JPEG", quality=88)
