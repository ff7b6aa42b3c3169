"""Label maps as palette PNGs, the PASCAL VOC convention: the pixel value is the label."""

import hashlib
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from usam_core.config.training import voc_palette
from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file
from usam_core.files.digest import file_digest

_PNG = b"\x89PNG\r\n\x1a\n"
_VOID = 255
_GRAY, _RGB, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 4, 6
"""Kinds of PNG, as numbered in their header."""
SIGNATURE = "usam"
"""Text in a signed PNG: the digest of its label map, by which a person's edit shows."""


def save_label_png(path: Path, labels: np.ndarray, *, signed: bool = False) -> None:
    """Write a label map, without waiting for the disk: whoever counts on it keeps its digest.

    Args:
        path: the file.
        labels: uint8 (h, w) becomes a palette PNG with VOC's colors; uint16 (255 classes and more,
            for 255 is void) a 16-bit grayscale PNG.
        signed: let `edited_png` know it for ours.
    """
    if labels.dtype == np.uint8:
        picture = Image.fromarray(labels).convert("L")
        picture = Image.frombytes("P", picture.size, picture.tobytes())
        picture.putpalette(voc_palette().tobytes())
    else:
        picture = Image.fromarray(labels.astype(np.uint16))
    texts = PngInfo()
    if signed:
        texts.add_text(SIGNATURE, _signature(labels))
    # Run lengths suit label maps: smaller than zlib's usual search, in half the time.
    packed = {"compress_level": 1, "compress_type": zlib.Z_RLE}
    with whole_file(path, sync=False) as temporary:
        picture.save(temporary, format="PNG", pnginfo=texts, **packed)


def read_label_png(path: Path) -> np.ndarray:
    """Return the label map of a PNG, uint8 or uint16 (h, w).

    A PNG in color, as some editors save it, is read by VOC's colors. Others are void, as is 255
    where a pixel has 8 bit: 65535, which is no class.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        with opened_png(path) as picture:
            labels = stored_values(picture, path)
        if labels.ndim == 3:
            values, known = values_of_colors(labels)
            if known.all() or not (labels == labels[..., :1]).all():
                labels = np.where(known, values, _VOID).astype(np.uint8)
            else:
                labels = labels[..., 0]  # grayscale, saved in color
    except Exception as error:  # decoders raise anything on damaged bytes
        raise StoreError(
            f"{path}: cannot be read as labels ({error}); run the step again that writes it"
        ) from error
    if labels.dtype != np.uint8:
        return labels.astype(np.uint16)
    void = labels == _VOID
    return np.where(void, np.uint16(65535), labels) if void.any() else labels


def edited_png(path: Path, size_hw: tuple[int, int] | None, sha256: str | None) -> bool:
    """Return whether a label PNG is a person's: there, whole, and not as we wrote it.

    What cannot be read, or has another size, is damage and no edit.

    Args:
        path: the PNG.
        size_hw: rows and columns of its image; None if any will do.
        sha256: digest of the file that we recorded last, if any.
    """
    try:
        if file_digest(path) == sha256:
            return False
        labels = read_label_png(path)
        with opened_png(path) as picture:
            signature = picture.info.get(SIGNATURE)
    except Exception:  # decoders raise anything on damaged bytes
        return False
    return size_hw in (None, labels.shape) and signature != _signature(labels)


def opened_png(path: Path) -> Image.Image:
    """Open a picture; a PNG of any size, for that of a large image is beyond Pillow's limit."""
    with open(path, "rb") as file:
        is_png = file.read(len(_PNG)) == _PNG
    return PngImageFile(path) if is_png else Image.open(path, formats=["PNG"])


def stored_values(picture: Image.Image, path: Path) -> np.ndarray:
    """Return the values that an opened PNG holds, not what they look like.

    Pillow stretches gray of 2 and 4 bits to 8, and cuts 16 bits to 8 where there are colors or
    opacity.

    Returns:
        uint8 or uint16 (h, w); uint8 (h, w, 3) of a PNG in colors.

    Raises:
        ValueError: it has colors of 16 bit.
    """
    with open(path, "rb") as file:
        depth, kind = file.read(26)[24:]
    if depth == 16 and kind in (_RGB, _GRAY_ALPHA, _RGB_ALPHA):
        values = imagecodecs.png_decode(path.read_bytes())
        colors = values[..., : 1 if kind == _GRAY_ALPHA else 3]
        if (colors != colors[..., :1]).any():
            raise ValueError("colours of 16 bit are no labels")
        return colors[..., 0]
    values = np.asarray(picture)
    if picture.mode == "I":  # 16 bit, as older Pillow has it
        return values.astype(np.uint16)
    if kind == _GRAY and depth < 8:
        return values.astype(np.uint8) // (1 if depth == 1 else 255 // (2**depth - 1))
    if values.ndim == 2:
        return values
    return values[..., 0] if kind == _GRAY_ALPHA else values[..., :3]


def is_reindexed(picture: Image.Image, values: np.ndarray) -> bool:
    """Return whether a palette PNG shows VOC's colors, but at other numbers than VOC."""
    if picture.mode != "P" or values.ndim != 2:
        return False
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = np.unique(values[values < len(palette)])
    numbers, known = values_of_colors(palette[used][None])
    return bool(known.all() and (numbers[0] != used).any())


def _signature(labels: np.ndarray) -> str:
    return hashlib.sha256(labels.astype("<u2").tobytes()).hexdigest()


def values_of_colors(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of colors, uint8 (h, w, 3), by VOC's palette, and where it has the color.

    Both are (h, w), uint8 and bool; where that is False the label means nothing.
    """
    numbers = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    palette = voc_palette().astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    order = np.argsort(palette)
    at = order[np.minimum(np.searchsorted(palette, numbers, sorter=order), 255)]
    return at.astype(np.uint8), palette[at] == numbers
