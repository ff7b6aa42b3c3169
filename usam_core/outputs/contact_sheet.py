"""Contact sheets: image, truth and labels side by side, one row an image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from usam_core.files.atomic import whole_file
from usam_core.labels.overlay import overlay, with_legend

_SIDE = 240
_CAPTION = 18

Row = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def contact_sheet(rows: Sequence[Row], classes: Sequence[str], colors: np.ndarray) -> Image.Image:
    """Return the sheet.

    Args:
        rows: caption, image uint8 (h, w, 3), truth and labels, integers (h, w) each.
        classes: names of the labels 1, 2, ...
        colors: uint8 (c + 1, 3).
    """
    font = ImageFont.load_default(size=12)
    strips = [_strip(row, colors) for row in rows]
    width = 3 * _SIDE
    height = sum(strip.height + _CAPTION for strip in strips)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (caption, *_), strip in zip(rows, strips, strict=True):
        draw.text((4, top + 2), f"{caption}   image | truth | labels", fill="black", font=font)
        sheet.paste(strip, (0, top + _CAPTION))
        top += strip.height + _CAPTION
    every = np.arange(len(colors))[None]
    return with_legend(np.asarray(sheet), every, classes, colors)


def save_contact_sheet(
    path: Path, rows: Sequence[Row], classes: Sequence[str], colors: np.ndarray
) -> None:
    """Write the sheet as PNG."""
    with whole_file(path) as temporary:
        contact_sheet(rows, classes, colors).save(temporary, format="PNG", optimize=True)


def _strip(row: Row, colors: np.ndarray) -> Image.Image:
    _, rgb, truth, labels = row
    pictures = [rgb, overlay(rgb, truth, colors), overlay(rgb, labels, colors)]
    height = max(1, round(_SIDE * rgb.shape[0] / rgb.shape[1]))
    strip = Image.new("RGB", (3 * _SIDE, height))
    for number, picture in enumerate(pictures):
        strip.paste(Image.fromarray(picture).resize((_SIDE, height)), (number * _SIDE, 0))
    return strip
