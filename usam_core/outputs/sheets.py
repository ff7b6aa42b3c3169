"""Sheets of pictures: labels beside the truth; the training pictures of a class, kept and not."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from usam_core.errors import InputError
from usam_core.files.atomic import whole_file
from usam_core.images.read import read_image
from usam_core.labels.overlay import overlay, with_legend

_COMPARED = 240
"""Width of a picture on a contact sheet, pixels."""
_TILE = 120
_TITLE, _CAPTION = 18, 16
_COLUMNS = 8
_MAX_TILES = 48

Row = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""Caption, image uint8 (h, w, 3), truth and labels, integers (h, w) each."""


def save_contact_sheet(
    path: Path, rows: Sequence[Row], classes: Sequence[str], colors: np.ndarray
) -> None:
    """Write image, truth and labels side by side as PNG, one row an image, with a legend.

    `classes` are the names of the labels 1, 2, ..., `colors` uint8 (c + 1, 3).
    """
    font = ImageFont.load_default(size=12)
    strips = [_strip(row, colors) for row in rows]
    height = sum(strip.height + _TITLE for strip in strips)
    sheet = Image.new("RGB", (3 * _COMPARED, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (caption, *_), strip in zip(rows, strips, strict=True):
        draw.text((4, top + 2), f"{caption}   image | truth | labels", fill="black", font=font)
        sheet.paste(strip, (0, top + _TITLE))
        top += strip.height + _TITLE
    every = np.arange(len(colors))[None]
    drawn = with_legend(np.asarray(sheet), every, classes, colors)
    with whole_file(path) as temporary:
        drawn.save(temporary, format="PNG", optimize=True)


def _strip(row: Row, colors: np.ndarray) -> Image.Image:
    _, rgb, truth, labels = row
    height = max(1, round(_COMPARED * rgb.shape[0] / rgb.shape[1]))
    strip = Image.new("RGB", (3 * _COMPARED, height))
    for number, picture in enumerate(
        (rgb, overlay(rgb, truth, colors), overlay(rgb, labels, colors))
    ):
        strip.paste(Image.fromarray(picture).resize((_COMPARED, height)), (number * _COMPARED, 0))
    return strip


def save_picture_sheet(
    path: Path, name: str, kept: Sequence[str], dropped: Sequence[tuple[str, str]]
) -> None:
    """Write a sheet of the training pictures of one class as JPEG.

    Shown are the first 48 files of the pictures kept, and of the others, given with their reasons,
    the first 48 that are there.
    """
    there = [(file, code) for file, code in dropped if os.path.isfile(file)]
    parts = [
        _tiles(f"{name}: {len(kept)} kept", [(file, "") for file in kept[:_MAX_TILES]]),
        _tiles(f"{len(dropped)} dropped", there[:_MAX_TILES]),
    ]
    sheet = Image.new("RGB", (_COLUMNS * _TILE, sum(part.height for part in parts)), "white")
    sheet.paste(parts[0], (0, 0))
    sheet.paste(parts[1], (0, parts[0].height))
    with whole_file(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=80)


def _tiles(title: str, tiles: Sequence[tuple[str, str]]) -> Image.Image:
    font = ImageFont.load_default(size=11)
    rows = -(-len(tiles) // _COLUMNS)
    part = Image.new("RGB", (_COLUMNS * _TILE, _CAPTION + rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(part)
    draw.text((4, 1), title, fill="black", font=font)
    side = _TILE - 4
    for number, (file, caption) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = column * _TILE, _CAPTION + row * (_TILE + _CAPTION)
        # What was dropped may be damaged in any way: a gray tile stands for it.
        part.paste(
            thumbnail(file, side) or Image.new("RGB", (side, side), "lightgrey"), (left, top)
        )
        draw.text((left + 2, top + _TILE + 1), caption[:20], fill="black", font=font)
    return part


def thumbnail(file: str, side: int) -> Image.Image | None:
    """A picture as it is read for the model, reduced, or None where it cannot be read."""
    try:
        return ImageOps.contain(Image.fromarray(read_image(file).rgb), (side, side))
    except InputError:
        return None
