"""What a TIFF's header, its OME-XML and its tags claim: against its size, and of its pixels.

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
from usam_core.images.pillow import MAX_SCANS, jpeg_size, scans_in
from usam_core.images.stores.base import Layout, named
from usam_core.images.stores.limits import MAX, check_count, check_metadata

_PAGES_LOOKED_AT = 16


def within(decode: Callable[..., Any], pixels: int) -> Callable[..., Any]:
    """Return a page's decoder that refuses a JPEG of more pixels than its tile has.

    The library makes room for what the JPEG says of itself, and fills what it lacks with grey.
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
    """Refuse pages and OME-XML that would fill the memory before the library believes them.

    Raises:
        UnusableImage: the file cannot hold what they speak of.
    """
    path, size = file.filehandle.path, file.filehandle.size
    check_count(path, "pages", len(file.pages), size)
    said = file.ome_metadata if file.is_ome else None
    if not said:
        return
    check_metadata(path, len(said))
    try:
        root = ElementTree.fromstring(said)
    except ElementTree.ParseError:
        return
    for pixels in root.iterfind("./{*}Image/{*}Pixels"):
        sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "XYZCT"}
        parts = pixels.findall("./{*}TiffData")
        counts = [_number(part, "PlaneCount", _number(part, "NumPlanes", 0)) for part in parts]
        check_count(path, "planes", sum(count or 1 for count in counts), size)
        # An entry without a number means every page.
        check_count(path, "planes", counts.count(0) * len(file.pages) // 64, size)
        named = dict.fromkeys(_number(part, "IFD", 0) for part in parts)
        pages = [n for n in islice((0, *named), _PAGES_LOOKED_AT) if 0 <= n < len(file.pages)]
        smallest = min((max(1, file.pages[n].size) for n in pages), default=1)
        check_count(path, "planes", math.prod(sizes.values()) // smallest, size)
    for along in root.iter():
        if "Start" in along.attrib and "End" in along.attrib:
            start, end, step = (float(along.get(key, 1)) for key in ("Start", "End", "Step"))
            check_count(path, "planes", int(min(MAX + 1, abs(end - start) / abs(step or 1))), size)


def _number(element: ElementTree.Element, name: str, default: int) -> int:
    return int(element.get(name, default))


_EXTRA = tifffile.EXTRASAMPLE
_KIND = tifffile.PHOTOMETRIC
_COMPRESSION = tifffile.COMPRESSION
_COLORS = ("red", "green", "blue")
_ORIENTATION_TAG, _INKS_TAG, _EXTRA_TAG, _FORMATS_TAG, _NODATA_TAG = 274, 332, 338, 339, 42113
_CMYK = 1
_WITH_COLORS = (
    *(_COMPRESSION.JPEG, _COMPRESSION.ALT_JPEG, _COMPRESSION.JPEG_LOSSY, _COMPRESSION.PNG),
    *(_COMPRESSION.JPEG2000, _COMPRESSION.JPEG_2000_LOSSY, _COMPRESSION.APERIO_JP2000_YCBC),
    *(_COMPRESSION.APERIO_JP2000_RGB, _COMPRESSION.JPEGXL, _COMPRESSION.JPEGXL_DNG),
    *(
        _COMPRESSION.JPEGXR,
        _COMPRESSION.JPEGXR_NDPI,
        _COMPRESSION.WEBP,
        _COMPRESSION.WEBP_DEPRECATED,
    ),
)
"""Compressions that turn luma and chroma into red, green and blue themselves."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the samples of a pixel mean.

    Attributes:
        channels: their names, once `shown` has run.
        is_color: whether they are those of one picture.
        values: their type in the file.
        dtype: their type once `shown` has run.
        bits: how many bits of an unsigned integer are used, where these are fewer than it has.
        nodata: the value that says that there is none.
        orientation: 1 to 8, as TIFF 6.0 says.
        kind: how colours are kept.
        alpha: number of the sample that says how opaque a pixel is.
        is_associated: whether the other samples have been multiplied by that.
        by_libtiff: luma and chroma, which only libtiff turns into colours.
        colormap: uint8 (3, n), of a palette.
        has_hole: whether one of its colours says that there is none, and is black for that.
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
    colormap: np.ndarray | None
    has_hole: bool

    @property
    def mixes(self) -> bool:
        """Return whether a channel depends on several samples."""
        return self.is_associated or self.by_libtiff or self.kind in ("palette", "cmyk")

    @property
    def most(self) -> int:
        """Return the greatest value that a sample can have; of floats 1."""
        return 2 ** (self.bits or 8 * self.values.itemsize) - 1 if self.values.kind == "u" else 1

    def shown(self, values: np.ndarray, numbers: Sequence[int] | None) -> np.ndarray:
        """Return the channels that samples make: light for ink, colours for numbers.

        Args:
            values: (c, h, w) as the file holds them.
            numbers: of the samples that came, where not all of them did; all must where `mixes`.
        """
        if self.kind == "palette":
            return self.colormap[:, np.minimum(values[0], self.colormap.shape[1] - 1)]
        if self.kind == "cmyk":
            return self._without_ink(values)
        if self.kind == "ink":
            light = [n != self.alpha for n in numbers or range(len(values))]
            values = values.copy()
            values[light] = self._inverted(values[light])
        if self.is_associated:
            values = self._divided(values)
        return values

    def _inverted(self, values: np.ndarray) -> np.ndarray:
        if values.dtype == bool:
            return ~values
        return values.dtype.type(self.most) - values if values.dtype.kind == "u" else values

    def _divided(self, values: np.ndarray) -> np.ndarray:
        """Return colours that were multiplied by their opacity as they were before."""
        alpha = values[self.alpha]
        found = values.copy()
        seen = alpha > 0
        # As libtiff and Pillow round: down.
        wide = values[:, seen].astype(np.uint64 if values.dtype.kind == "u" else np.float64)
        divided = wide * wide.dtype.type(self.most)
        divided = (
            divided // wide[self.alpha] if values.dtype.kind == "u" else divided / wide[self.alpha]
        )
        found[:, seen] = np.minimum(divided, wide.dtype.type(self.most))
        found[self.alpha] = alpha
        return found

    def _without_ink(self, values: np.ndarray) -> np.ndarray:
        high = values[:4] >> (8 * values.dtype.itemsize - 8)
        ink = np.ascontiguousarray(np.moveaxis(high, 0, -1), np.uint8)
        return np.moveaxis(np.asarray(Image.fromarray(ink, "CMYK").convert("RGB")), -1, 0)


def pixels_of(
    page: tifffile.TiffPage, dtype: np.dtype, layout: Layout, names: Sequence[str]
) -> Pixels:
    """Say what the samples of a series mean.

    Args:
        page: its first page.
        dtype: of its values.
        layout: of its axes.
        names: of its channels, where something gives some.

    Raises:
        InputError: they are of a kind that is not read here.
    """
    kind = page.photometric
    by_libtiff = kind == _KIND.YCBCR and page.compression not in _WITH_COLORS
    _refuse(page, dtype, layout, by_libtiff)
    used = page.bitspersample if isinstance(page.bitspersample, int) else None
    bits = used if dtype.kind == "u" and used and used < 8 * dtype.itemsize else None
    alpha, is_associated = (None, False) if layout.channels > 1 else _alpha(page, layout.samples)
    if is_associated and (dtype.kind not in "uf" or dtype == np.uint64):
        raise InputError(
            f"{page.parent.filehandle.path}: unsupported associated alpha of type {dtype}; "
            "expected unsigned integers of up to 32 bits, or floats. Convert the file"
        )
    nodata = _nodata(page, dtype)
    if kind == _KIND.MINISWHITE and nodata is not None and dtype.kind == "u":
        nodata = 2 ** (bits or 8 * dtype.itemsize) - 1 - nodata
    colormap = None
    has_hole = False
    if kind == _KIND.PALETTE:
        # Some writers fill the map's 16 bits with values of 8, as libtiff knows.
        colormap = (page.colormap >> 8 * (page.colormap.max() > 255)).astype(np.uint8)
        has_hole = nodata is not None and nodata < colormap.shape[1]
        if has_hole:
            colormap[:, int(nodata)] = 0
    return Pixels(
        channels=_channels(kind, layout, alpha, names),
        is_color=_is_color(kind, layout),
        values=dtype,
        dtype=np.dtype(np.uint8) if kind in (_KIND.PALETTE, _KIND.SEPARATED) else dtype,
        bits=None if kind in (_KIND.PALETTE, _KIND.SEPARATED) else bits,
        nodata=None if kind in (_KIND.PALETTE, _KIND.SEPARATED) else nodata,
        orientation=_orientation(page),
        kind={_KIND.MINISWHITE: "ink", _KIND.PALETTE: "palette", _KIND.SEPARATED: "cmyk"}.get(
            kind, "light"
        ),
        alpha=alpha,
        is_associated=is_associated,
        by_libtiff=by_libtiff,
        colormap=colormap,
        has_hole=has_hole,
    )


def _refuse(page: tifffile.TiffPage, dtype: np.dtype, layout: Layout, by_libtiff: bool) -> None:
    """Refuse pixels of a kind that is not read here."""
    kind, inks = page.photometric, page.tags.valueof(_INKS_TAG, _CMYK)
    formats = page.tags.valueof(_FORMATS_TAG, 1)
    said = f"{getattr(kind, 'name', kind)}, {layout.samples} samples of type {dtype}"
    if isinstance(formats, tuple) and len(set(formats)) > 1:
        said += f", sample formats {formats}"
    elif kind in (_KIND.MINISBLACK, _KIND.MINISWHITE, _KIND.RGB):
        return
    elif kind == _KIND.PALETTE and dtype in (np.uint8, np.uint16, bool) and layout.samples == 1:
        if page.colormap is not None:
            return
        said += " without a colour map"
    elif kind == _KIND.SEPARATED and dtype in (np.uint8, np.uint16) and layout.samples >= 4:
        if inks == _CMYK:
            return
        said += f", ink set {inks}"
    elif kind == _KIND.YCBCR and dtype == np.uint8 and layout.samples == 3:
        return
    raise InputError(
        f"{page.parent.filehandle.path}: unsupported colour kind {said}; expected greyscale, RGB, "
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
    said = page.tags.get(_EXTRA_TAG) is not None
    return (
        (3, False) if page.photometric == _KIND.RGB and samples == 4 and not said else (None, False)
    )


def _is_color(kind: int, layout: Layout) -> bool:
    if kind in (_KIND.PALETTE, _KIND.SEPARATED):
        return True
    return kind in (_KIND.RGB, _KIND.YCBCR) and layout.channels == 1 and 3 <= layout.samples <= 4


def _channels(
    kind: int, layout: Layout, alpha: int | None, names: Sequence[str]
) -> tuple[str, ...]:
    found, samples = layout.channels, layout.samples
    if kind in (_KIND.PALETTE, _KIND.SEPARATED):
        return _COLORS
    every = list(named(names, found * samples))
    if found == 1 and kind in (_KIND.RGB, _KIND.YCBCR) and samples >= 3:
        every[:3] = _COLORS
    if found == 1 and samples == 2 and alpha == 1:
        every[0] = "grey"
    if alpha is not None:
        every[alpha] = "alpha"
    return tuple(every)


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> float | None:
    """Return the value that GDAL's tag names, if the type can hold it."""
    try:
        value = float(str(page.tags.valueof(_NODATA_TAG, "")).strip(" \0"))
    except ValueError:
        return None
    if dtype.kind == "f":
        return value
    if dtype.kind not in "ui" or not np.isfinite(value) or value != int(value):
        return None
    return value if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max else None


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION_TAG, 1)
    return int(value) if value in range(1, 9) else 1
