"""TIFF and OME-TIFF stacks: series, time, z, channels; of a pyramid its full size alone."""

import io
import math
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from typing import Any, BinaryIO

import numpy as np
import tifffile
import zarr

from usam_core.errors import InputError
from usam_core.imagestores.apart import apart
from usam_core.imagestores.axes import Layout, layout, named
from usam_core.imagestores.base import ALL, ImageStore, Plane, PlaneInfo
from usam_core.imagestores.limits import MOST, check_count, check_metadata, check_part, check_values
from usam_core.pictures import MOST_SCANS, jpeg_size, scans_in
from usam_core.pixels import upright_planes

_SECONDARY = 0b101  # NewSubfileType: bit 0 a smaller copy of another page, bit 2 a mask
_BESIDE = ("thumbnail", "label", "macro", "overview")
"""Names that scanners of slides give to pictures beside the slide."""
_ORIENTATION_TAG = 274
_PARTS = 8
"""Tiles or strips of a page from which on it counts as read in parts."""
_COLOURS = ("red", "green", "blue")
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_PHOTOMETRIC = tifffile.PHOTOMETRIC
_COMPRESSION = tifffile.COMPRESSION
_JPEG = (_COMPRESSION.JPEG, _COMPRESSION.OJPEG)
_TRUSTED = (
    *(_COMPRESSION.NONE, _COMPRESSION.LZW, _COMPRESSION.ADOBE_DEFLATE, _COMPRESSION.DEFLATE),
    *(_COMPRESSION.PACKBITS, _COMPRESSION.ZSTD, _COMPRESSION.LZMA, _COMPRESSION.JPEG),
)
"""Compressions that are decoded here: the library is told how many bytes may come out. All others
bring sizes of their own, or decoders that few have tried to break: they are decoded apart."""
_PAGES_LOOKED_AT = 16


class TiffStore(ImageStore):
    """The planes of one TIFF file.

    Other files that an OME-TIFF speaks of are not opened: their planes are their own.

    Args:
        file: path of the file, or what is open for reading.
        decodes_all: decode compressions here that are else decoded in a process apart.

    Raises:
        InputError: a kind of TIFF that is not read here; the message says which.
        BadImage: its header speaks of more than the file can hold.
        Exception: whatever the library raises on damaged bytes.
    """

    def __init__(self, file: str | BinaryIO, *, decodes_all: bool = False) -> None:
        self._lock = threading.RLock()
        self._source, self._decodes_all = file, decodes_all
        self._file = tifffile.TiffFile(file, _multifile=False)
        try:
            _check_claims(self._file)
            self._series = [_Series(self._file, *found) for found in _full_size(self._file)]
            if not self._series:
                raise InputError(f"{file}: no picture of full size; expected at least one page")
            self._planes = dict(self._places())
        except BaseException:
            self.close()
            raise

    def planes(self) -> list[Plane]:
        """Return every plane in the order of the file."""
        return list(self._planes)

    def info(self, plane: Plane) -> PlaneInfo:
        """Return what the headers say of a plane."""
        return self._planes[plane][0].info

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return (c, h, w), upright; ink on white (`MINISWHITE`) is turned into light."""
        series, place = self._planes[plane]
        with self._lock:
            if series.is_trusted or self._decodes_all:
                return series.read(place, rows, columns, channels)
        source = self._source if isinstance(self._source, str) else self._source.getvalue()
        name, most = self._file.filehandle.path, series.plane_bytes
        return apart(name, most, _read, source, plane, rows, columns, channels)

    def in_parts(self, plane: Plane) -> bool:
        """Return whether it lies upright, in tiles or strips, or is not compressed."""
        return self._planes[plane][0].in_parts

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _places(self) -> Iterator[tuple[Plane, tuple["_Series", dict[str, int]]]]:
        found = []
        for number, series in enumerate(self._series):
            before = (("s", number),) if len(self._series) > 1 else ()
            found += [(before + plane, (series, dict(plane))) for plane in series.planes()]
        if len(found) == 1:
            found = [((), found[0][1])]
        yield from found


class _Series:
    """One series: its array, and what its axes are."""

    def __init__(
        self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, names: Sequence[str]
    ) -> None:
        key = series.keyframe
        self._file, self._series, self._key = file, series, key
        self._layout: Layout = layout(series.axes.lower().replace("q", "i"), series.shape)
        self._array: np.ndarray | zarr.Array | None = None
        self._orientation = _orientation(key)
        self._refuse_what_is_not_read()
        self._check_claims()
        height, width = self._layout.size_hw
        if self._orientation >= 5:
            height, width = width, height
        names, is_colour = self._channels(names)
        dtype = np.dtype(np.uint8) if self._is_palette else series.dtype
        used = key.bitspersample if isinstance(key.bitspersample, int) else max(key.bitspersample)
        self.info = PlaneInfo(
            size_hw=(height, width),
            channels=names,
            dtype=dtype.name,
            bits=used if dtype.kind == "u" and used < 8 * dtype.itemsize else None,
            is_colour=is_colour,
        )

    def _check_claims(self) -> None:
        """Refuse what the file cannot hold; of one block of bytes it must hold all."""
        file, series, key, lay = self._file.filehandle, self._series, self._key, self._layout
        check_count(file.path, "planes", math.prod(lay.lengths), file.size)
        check_count(file.path, "channels", lay.channels * lay.samples, file.size)
        if series.dataoffset is not None:
            end = series.dataoffset + math.prod(series.shape) * series.dtype.itemsize
            if end > file.size:
                raise EOFError(f"values end at byte {end}, the file at {file.size}")
            return
        check_values(file.path, self.plane_bytes, file.size)
        check_part(file.path, math.prod(key.chunks) * key.dtype.itemsize)
        check_count(file.path, "tiles or strips in a plane", math.prod(key.chunked), file.size)
        if key.compression in _JPEG:
            key.decode = _within(key.decode, math.prod(key.chunks))

    @property
    def plane_bytes(self) -> int:
        lay = self._layout
        return math.prod((*lay.size_hw, lay.channels, lay.samples, self._series.dtype.itemsize))

    @property
    def is_trusted(self) -> bool:
        return self._series.dataoffset is not None or self._key.compression in _TRUSTED

    @property
    def in_parts(self) -> bool:
        if self._orientation != 1:
            return False
        plain = self._series.dataoffset is not None and self._file.filehandle.is_file
        return plain or _PARTS * math.prod(self._key.chunks) <= math.prod(self._key.shape)

    @property
    def _is_palette(self) -> bool:
        return self._key.photometric == _PHOTOMETRIC.PALETTE

    def _refuse_what_is_not_read(self) -> None:
        kind, jpeg = self._key.photometric, self._key.compression
        read = (
            _PHOTOMETRIC.MINISBLACK,
            _PHOTOMETRIC.MINISWHITE,
            _PHOTOMETRIC.RGB,
            _PHOTOMETRIC.PALETTE,
        )
        # JPEG and JPEG 2000 inside hold YCbCr and are decoded to RGB.
        if kind in read or (kind == _PHOTOMETRIC.YCBCR and jpeg != tifffile.COMPRESSION.NONE):
            return
        raise InputError(
            f"{self._file.filename}: unsupported colour kind {kind.name}; expected greyscale, RGB "
            "or a palette. Convert the file"
        )

    def _channels(self, names: Sequence[str]) -> tuple[tuple[str, ...], bool]:
        found, samples = self._layout.channels, self._layout.samples
        if self._is_palette:
            return _COLOURS, True
        is_colour = self._key.photometric in (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR)
        extra = self._key.extrasamples or ()
        alpha = ("alpha",) if extra and extra[0] in _ALPHA else ()
        if is_colour and found == 1 and samples >= 3:
            return (*_COLOURS, *alpha, *named((), samples)[3 + len(alpha) :]), samples <= 4
        if found == 1 and alpha and samples == 2:
            return ("grey", "alpha"), False
        return named(names, found * samples), False

    def planes(self) -> list[Plane]:
        """Return the planes of the series; of several files, those that lie in this one."""
        every = [
            tuple(zip(self._layout.names, index, strict=True))
            for index in product(*map(range, self._layout.lengths))
        ]
        if self._series.kind != "ome" or len(self._file.pages) >= len(self._series):
            return every
        return [plane for plane in every if all(p is not None for p in self._pages(dict(plane)))]

    def read(
        self,
        place: dict[str, int],
        rows: slice,
        columns: slice,
        channels: Sequence[int] | None,
    ) -> np.ndarray:
        self._check_that_it_is_whole(place)
        window = (rows, columns) if self._orientation == 1 else (ALL, ALL)
        # A palette is one channel until it is looked up.
        values = self._layout.take(
            self._open(), place, *window, None if self._is_palette else channels
        )
        if self._is_palette:
            values = (self._key.colormap[:, values[0]] >> 8).astype(np.uint8)
            values = values if channels is None else values[list(channels)]
        if self._key.photometric == _PHOTOMETRIC.MINISWHITE:
            values = _inverted(values, self.info.bits)
        if self._orientation != 1:
            values = upright_planes(values, self._orientation)[:, rows, columns]
        return np.ascontiguousarray(values, values.dtype.newbyteorder("="))

    def _open(self) -> np.ndarray | zarr.Array:
        if self._array is None:
            series, file = self._series, self._file
            if series.dataoffset is not None and file.filehandle.is_file:
                # One block of bytes: any window of it is read without the rest.
                dtype = np.dtype(f"{file.byteorder}{series.dtype.char}")
                self._array = np.memmap(
                    file.filehandle.path, dtype, "r", series.dataoffset, series.shape
                )
            else:
                self._array = zarr.open_array(series.aszarr(level=0), mode="r")
        return self._array

    def _pages(self, place: dict[str, int]) -> Iterator[tifffile.TiffPage | None]:
        """Yield the pages that a plane's channels lie on; None for one that is in another file."""
        shape = self._series.shape[: self._series.ndim - self._key.ndim]
        if math.prod(shape) != len(self._series):
            return
        ranges = self._layout.ranges(place)[: len(shape)]
        for index in product(*ranges):
            yield self._series[int(np.ravel_multi_index(index, shape)) if shape else 0]

    def _check_that_it_is_whole(self, place: dict[str, int]) -> None:
        # The library fills what a cut file lacks with zeros.
        size = self._file.filehandle.size
        if self._series.dataoffset is not None:
            return
        pages = [page for page in self._pages(place) if page is not None]
        parts = min((len(page.dataoffsets) for page in pages), default=math.inf)
        if parts < (wanted := math.prod(self._key.chunked)):
            raise EOFError(f"a page of {wanted} tiles or strips has {parts}")
        ends = [
            offset + count
            for page in pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        if max(ends, default=0) > size:
            raise EOFError(f"values end at byte {max(ends)}, the file at {size}")


def _read(
    source: str | bytes,
    plane: Plane,
    rows: slice,
    columns: slice,
    channels: Sequence[int] | None,
) -> np.ndarray:
    """Return what `TiffStore.read` does; called in a process apart."""
    with TiffStore(
        source if isinstance(source, str) else io.BytesIO(source), decodes_all=True
    ) as it:
        return it.read(plane, rows, columns, channels)


def _within(decode: Callable[..., Any], pixels: int) -> Callable[..., Any]:
    """Return a page's decoder that refuses a JPEG of more pixels than its tile has.

    The library makes room for what the JPEG says of itself, and fills what it lacks with grey.
    """

    def checked(data: bytes | None, index: int, **options: Any) -> Any:
        height, width = jpeg_size(data) if data else (0, 0)
        if height * width > 4 * pixels:
            raise ValueError(
                f"cannot decompress: a JPEG of {width} x {height} in a tile of {pixels} values"
            )
        if data and scans_in(data) > MOST_SCANS:
            raise ValueError(f"cannot decompress: a JPEG of more than {MOST_SCANS} scans")
        return decode(data, index, **options)

    return checked


def _check_claims(file: tifffile.TiffFile) -> None:
    """Refuse pages and OME-XML that would fill the memory before the library believes them.

    Raises:
        BadImage: the file cannot hold what they speak of.
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
            check_count(path, "planes", int(min(MOST + 1, abs(end - start) / abs(step or 1))), size)


def _number(element: ElementTree.Element, name: str, default: int) -> int:
    return int(element.get(name, default))


def _full_size(
    file: tifffile.TiffFile,
) -> Iterator[tuple[tifffile.TiffPageSeries, Sequence[str]]]:
    """Yield every series that is no thumbnail, mask or smaller copy, with its channels' names."""
    names = _channel_names(file)
    for number, series in enumerate(file.series):
        if int(series.keyframe.subfiletype) & _SECONDARY:
            continue
        if series.name.lower() in _BESIDE:
            continue
        yield series, names[number] if number < len(names) else ()


def _channel_names(file: tifffile.TiffFile) -> list[list[str]]:
    """Return the names that OME-XML gives to the channels, by series; none where they differ."""
    try:
        root = ElementTree.fromstring(file.ome_metadata or "<none/>")
    except ElementTree.ParseError:
        return []
    found = [
        [channel.get("Name") or "" for channel in pixels.iterfind("./{*}Channel")]
        for pixels in root.iterfind("./{*}Image/{*}Pixels")
    ]
    return found if len(found) == len(file.series) else []


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION_TAG, 1)
    return int(value) if value in range(1, 9) else 1


def _inverted(values: np.ndarray, bits: int | None) -> np.ndarray:
    if values.dtype == bool:
        return ~values
    if values.dtype.kind != "u":
        return values
    most = 2**bits - 1 if bits else np.iinfo(values.dtype).max
    return values.dtype.type(most) - values
