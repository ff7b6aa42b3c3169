"""A sheet of training pictures: what was kept of a class, and what was dropped with its reason."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from usam_core.errors import InputError
from usam_core.files.atomic import whole_file
from usam_core.images.read import read_image

_SIDE = 120
_CAPTION = 16
_COLUMNS = 8
_MAX = 48
_QUALITY = 80


def save_picture_sheet(
    path: Path, name: str, kept: Sequence[str], dropped: Sequence[tuple[str, str]]
) -> None:
    """Write the sheet of one class as JPEG.

    Args:
        path: where to.
        name: the class.
        kept: files of the pictures kept; the first 48 are shown.
        dropped: file and reason of the others; the first 48 whose file is there are shown.
    """
    there = [(file, code) for file, code in dropped if os.path.isfile(file)]
    kept_tiles = [(file, "") for file in kept]
    parts = [
        _part(f"{name}: {len(kept)} kept", kept_tiles[:_MAX]),
        _part(f"{len(dropped)} dropped", there[:_MAX]),
    ]
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    with whole_file(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=_QUALITY)


def _part(title: str, tiles: Sequence[tuple[str, str]]) -> Image.Image:
    font = ImageFont.load_default(size=11)
    rows = -(-len(tiles) // _COLUMNS)
    height = _CAPTION + rows * (_SIDE + _CAPTION)
    part = Image.new("RGB", (_COLUMNS * _SIDE, height), "white")
    draw = ImageDraw.Draw(part)
    draw.text((4, 1), title, fill="black", font=font)
    for number, (file, caption) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = column * _SIDE, _CAPTION + row * (_SIDE + _CAPTION)
        part.paste(_thumbnail(file), (left, top))
        draw.text((left + 2, top + _SIDE + 1), caption[:20], fill="black", font=font)
    return part


def _thumbnail(file: str) -> Image.Image:
    side = _SIDE - 4
    # What was dropped may be damaged in any way: a grey tile stands for it.
    return thumbnail(file, side) or Image.new("RGB", (side, side), "lightgrey")


def thumbnail(file: str, side: int) -> Image.Image | None:
    """Return a picture as it is read for the model, reduced, or None where it cannot be read."""
    try:
        return ImageOps.contain(Image.fromarray(read_image(file).rgb), (side, side))
    except InputError:
        return None
