"""A TIFF's header, OME-XML and tags: its claims against its size, and the meaning of its samples.

c samples, h x w pixels
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image

from usam_core.errors import InputError
from usam_core.images.errors import MAX_COUNT, check_count, check_metadata
from usam_core.images.stores.base import COLORS, Layout, named
from usam_core.images.stores.picture import MAX_SCANS, jpeg_size, scans_in

_PAGES_LOOKED_AT = 16
_EXTRA = tifffile.EXTRASAMPLE
_KIND = tifffile.PHOTOMETRIC
_COMPRESSION = tifffile.COMPRESSION
_ORIENTATION_TAG, _INKS_TAG, _EXTRA_TAG, _FORMATS_TAG, _NODATA_TAG = 274, 332, 338, 339, 42113
_CMYK = 1
_WITH_COLORS = (
    *(_COMPRESSION.JPEG, _COMPRESSION.ALT_JPEG, _COMPRESSION.JPEG_LOSSY, _COMPRESSION.PNG),
    *(_COMPRESSION.JPEG2000, _COMPRESSION.JPEG_2000_LOSSY, _COMPRESSION.APERIO_JP2000_YCBC),
    *(_COMPRESSION.APERIO_JP2000_RGB, _COMPRESSION.JPEGXL, _COMPRESSION.JPEGXL_DNG),
    *(_COMPRESSION.JPEGXR, _COMPRESSION.JPEGXR_NDPI, _COMPRESSION.WEBP),
    _COMPRESSION.WEBP_DEPRECATED,
)
"""Compressions that turn luma and chroma into red, green and blue themselves."""


def within(decode: Callable[..., Any], pixels: int) -> Callable[..., Any]:
    """Return a page's decoder that refuses a JPEG of more pixels than its tile has.

    The library allocates what the JPEG says of itself, and fills what it lacks with gray.
    """

    def checked(data: bytes | None, index: int, **options: Any) -> Any:
        height, width = jpeg_size(data) if data else (0, 0)
        if height * width > 4 * pixels:
            raise ValueError(
                f"cannot decompress: a JPEG of {width} x {height} in a tile of {pixels} values"
            )
        if data and scans_in(data) > MAX_SCANS:
            raise ValueError(f"cannot decompress: a JPEG of more than {MAX_SCANS} scans")
        return decode(data, index, **options)

    return checked


def check_claims(file: tifffile.TiffFile) -> None:
    """Refuse pages and OME-XML that would fill the memory before the library believes them."""
    path, size = file.filehandle.path, file.filehandle.size
    check_count(path, "pages", len(file.pages), size)
    text = file.ome_metadata if file.is_ome else None
    if not text:
        return
    check_metadata(path, len(text))
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return
    for pixels in root.iterfind("./{*}Image/{*}Pixels"):
        sizes = [int(pixels.get(f"Size{axis}", 1)) for axis in "XYZCT"]
        parts = pixels.findall("./{*}TiffData")
        counts = [int(part.get("PlaneCount", part.get("NumPlanes", 0))) for part in parts]
        check_count(path, "planes", sum(count or 1 for count in counts), size)
        # An entry without a number means every page.
        check_count(path, "planes", counts.count(0) * len(file.pages) // 64, size)
        first = dict.fromkeys(int(part.get("IFD", 0)) for part in parts)
        pages = [n for n in islice((0, *first), _PAGES_LOOKED_AT) if 0 <= n < len(file.pages)]
        smallest = min((max(1, file.pages[n].size) for n in pages), default=1)
        check_count(path, "planes", math.prod(sizes) // smallest, size)
    for along in root.iter():
        if "Start" in along.attrib and "End" in along.attrib:
            start, end, step = (float(along.get(key, 1)) for key in ("Start", "End", "Step"))
            count = int(min(MAX_COUNT + 1, abs(end - start) / abs(step or 1)))
            check_count(path, "planes", count, size)


@dataclass(frozen=True, slots=True)
class Pixels:
    """The meaning of a pixel's samples.

    Attributes:
        channels: their names, after `shown`.
        is_color: whether they are those of one picture.
        values: their type in the file.
        dtype: their type after `shown`.
        bits: used bits of an unsigned integer, where these are fewer than it has.
        nodata: the value that means no data.
        orientation: 1 to 8, as TIFF 6.0 says.
        kind: how colors are kept.
        alpha: number of the sample that is opacity.
        is_associated: whether the other samples have been multiplied by that.
        by_libtiff: luma and chroma, which only libtiff turns into colors.
        colormap: uint8 (3, n), of a palette; else (3, 0).
        has_hole: whether one of its colors means no data, and is black for that.
    """

    channels: tuple[str, ...]
    is_color: bool
    values: np.dtype
    dtype: np.dtype
    bits: int | None
    nodata: float | None
    orientation: int
    kind: Literal["light", "ink", "palette", "cmyk"]
    alpha: int | None
    is_associated: bool
    by_libtiff: bool
    colormap: np.ndarray
    has_hole: bool

    @property
    def mixes(self) -> bool:
        """Whether a channel depends on several samples."""
        return self.is_associated or self.by_libtiff or self.kind in ("palette", "cmyk")

    @property
    def max_value(self) -> int:
        """The greatest value of a sample; of floats 1."""
        return 2 ** (self.bits or 8 * self.values.itemsize) - 1 if self.values.kind == "u" else 1

    def shown(self, values: np.ndarray, numbers: Sequence[int] | None) -> np.ndarray:
        """Return the channels that samples make: light for ink, colors for numbers.

        Args:
            values: (c, h, w) as the file holds them.
            numbers: of the samples given, where not all of them are; all must where `mixes`.
        """
        if self.kind == "palette":
            index: Any = np.minimum(values[0], self.colormap.shape[1] - 1)
            return self.colormap[:, index]
        if self.kind == "cmyk":
            high = values[:4] >> (8 * values.dtype.itemsize - 8)
            ink = np.ascontiguousarray(np.moveaxis(high, 0, -1), np.uint8)
            return np.moveaxis(np.asarray(Image.fromarray(ink, "CMYK").convert("RGB")), -1, 0)
        if self.kind == "ink" and values.dtype.kind in "bu":
            light = [n != self.alpha for n in numbers or range(len(values))]
            values = values.copy()
            is_bool = values.dtype == bool
            white = values.dtype.type(self.max_value)
            values[light] = ~values[light] if is_bool else white - values[light]
        return self._divided(values) if self.is_associated else values

    def _divided(self, values: np.ndarray) -> np.ndarray:
        """Return colors that were multiplied by their opacity as they were before."""
        alpha = values[self.alpha]
        seen = alpha > 0
        # As libtiff and Pillow round: down.
        is_whole = values.dtype.kind == "u"
        some: Any = values[:, seen].astype(np.uint64 if is_whole else np.float64)
        largest = some.dtype.type(self.max_value)
        product, by = some * largest, some[self.alpha]
        colors = values.copy()
        colors[:, seen] = np.minimum(product // by if is_whole else product / by, largest)
        colors[self.alpha] = alpha
        return colors


def pixels_of(
    page: tifffile.TiffPage, dtype: np.dtype, layout: Layout, names: Sequence[str]
) -> Pixels:
    """Return the meaning of the samples of a series.

    Args:
        page: its first page.
        dtype, layout: of its values.
        names: of its channels, where something gives some.

    Raises:
        InputError: they are of a kind that is not read here.
    """
    photometric = page.photometric
    by_libtiff = photometric == _KIND.YCBCR and page.compression not in _WITH_COLORS
    _refuse(page, dtype, layout)
    used = page.bitspersample if isinstance(page.bitspersample, int) else None
    bits = used if dtype.kind == "u" and used and used < 8 * dtype.itemsize else None
    alpha, is_associated = (None, False) if layout.channels > 1 else _alpha(page, layout.samples)
    if is_associated and (dtype.kind not in "uf" or dtype == np.uint64):
        raise InputError(
            f"{page.parent.filehandle.path}: unsupported associated alpha of type {dtype}; "
            "expected unsigned integers of up to 32 bits, or floats. Convert the file"
        )
    nodata = _nodata(page, dtype)
    kind: Literal["light", "ink", "palette", "cmyk"] = "light"
    colormap, has_hole = np.zeros((3, 0), np.uint8), False
    if photometric == _KIND.MINISWHITE:
        kind = "ink"
        if nodata is not None and dtype.kind == "u":
            nodata = 2 ** (bits or 8 * dtype.itemsize) - 1 - nodata
    elif photometric == _KIND.PALETTE and page.colormap is not None:
        kind = "palette"
        # Some writers fill the map's 16 bits with values of 8, as libtiff knows.
        colormap = (page.colormap >> 8 * (page.colormap.max() > 255)).astype(np.uint8)
        if nodata is not None and nodata < colormap.shape[1]:
            has_hole = True
            colormap[:, int(nodata)] = 0
    elif photometric == _KIND.SEPARATED:
        kind = "cmyk"
    becomes_rgb = kind in ("palette", "cmyk")
    orientation = page.tags.valueof(_ORIENTATION_TAG, 1)
    is_rgb = layout.channels == 1 and photometric in (_KIND.RGB, _KIND.YCBCR)
    return Pixels(
        channels=COLORS if becomes_rgb else _channels(layout, is_rgb, alpha, names),
        is_color=becomes_rgb or (is_rgb and 3 <= layout.samples <= 4),
        values=dtype,
        dtype=np.dtype(np.uint8) if becomes_rgb else dtype,
        bits=None if becomes_rgb else bits,
        nodata=None if becomes_rgb else nodata,
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        kind=kind,
        alpha=alpha,
        is_associated=is_associated,
        by_libtiff=by_libtiff,
        colormap=colormap,
        has_hole=has_hole,
    )


def _refuse(page: tifffile.TiffPage, dtype: np.dtype, layout: Layout) -> None:
    """Refuse pixels of a kind that is not read here."""
    kind, inks = page.photometric, page.tags.valueof(_INKS_TAG, _CMYK)
    formats = page.tags.valueof(_FORMATS_TAG, 1)
    got = f"{getattr(kind, 'name', kind)}, {layout.samples} samples of type {dtype}"
    if isinstance(formats, tuple) and len(set(formats)) > 1:
        got += f", sample formats {formats}"
    elif kind in (_KIND.MINISBLACK, _KIND.MINISWHITE, _KIND.RGB):
        return
    elif kind == _KIND.PALETTE and dtype in (np.uint8, np.uint16, bool) and layout.samples == 1:
        if page.colormap is not None:
            return
        got += " without a colour map"
    elif kind == _KIND.SEPARATED and dtype in (np.uint8, np.uint16) and layout.samples >= 4:
        if inks == _CMYK:
            return
        got += f", ink set {inks}"
    elif kind == _KIND.YCBCR and dtype == np.uint8 and layout.samples == 3:
        return
    raise InputError(
        f"{page.parent.filehandle.path}: unsupported colour kind {got}; expected greyscale, RGB, "
        "a palette, or CMYK of 8 or 16 bit. Convert the file"
    )


def _alpha(page: tifffile.TiffPage, samples: int) -> tuple[int | None, bool]:
    """Return which sample is opacity, and whether the others were multiplied by it."""
    extra = tuple(page.extrasamples or ())
    colors = max(1, samples - len(extra))
    for number, kind in enumerate(extra, start=colors):
        if kind in (_EXTRA.ASSOCALPHA, _EXTRA.UNASSALPHA) and number < samples:
            return number, kind == _EXTRA.ASSOCALPHA
    # Programs that leave the tag away mean opacity.
    is_untold = page.photometric == _KIND.RGB and page.tags.get(_EXTRA_TAG) is None
    return (3 if is_untold and samples == 4 else None), False


def _channels(
    layout: Layout, is_rgb: bool, alpha: int | None, names: Sequence[str]
) -> tuple[str, ...]:
    channels = list(named(names, layout.channels * layout.samples))
    if is_rgb and layout.samples >= 3:
        channels[:3] = COLORS
    if layout.channels == 1 and layout.samples == 2 and alpha == 1:
        channels[0] = "grey"
    if alpha is not None:
        channels[alpha] = "alpha"
    return tuple(channels)


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> float | None:
    """Return the value of GDAL's tag, if the type can hold it."""
    try:
        value = float(str(page.tags.valueof(_NODATA_TAG, "")).strip(" \0"))
    except ValueError:
        return None
    if dtype.kind == "f":
        return value
    if dtype.kind not in "ui" or not np.isfinite(value) or value != int(value):
        return None
    return value if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None
