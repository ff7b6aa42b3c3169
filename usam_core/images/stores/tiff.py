"""TIFF and OME-TIFF stacks: series, time, z, channels; of a pyramid its full size alone."""

import io
import logging
import math
import threading
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import zarr

from usam_core.errors import InputError
from usam_core.images.errors import check_count, check_part, check_values
from usam_core.images.rgb import upright_planes
from usam_core.images.stores.apart import apart
from usam_core.images.stores.base import ALL, ImageStore, Plane, PlaneInfo, layout
from usam_core.images.stores.tiff_tags import Pixels, check_claims, pixels_of, within

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # verdicts say what counts
_SECONDARY = 0b101  # NewSubfileType: bit 0 a smaller copy of another page, bit 2 a mask
_BESIDE = ("thumbnail", "label", "macro", "overview")
"""Names that slide scanners give to pictures beside the slide."""
_PARTS = 8
"""Tiles or strips of a page from which on it counts as read in parts."""
_COMPRESSION = tifffile.COMPRESSION
_JPEG = (_COMPRESSION.JPEG, _COMPRESSION.OJPEG)
_TRUSTED = (
    *(_COMPRESSION.NONE, _COMPRESSION.LZW, _COMPRESSION.ADOBE_DEFLATE, _COMPRESSION.DEFLATE),
    *(_COMPRESSION.PACKBITS, _COMPRESSION.ZSTD, _COMPRESSION.LZMA, _COMPRESSION.JPEG),
)
"""Compressions that are decoded here: the library is told how many bytes may come out. All others
bring sizes of their own, or decoders that few have tried to break: they are decoded apart."""


class TiffStore(ImageStore):
    """The planes of one TIFF file, upright; ink on white (`MINISWHITE`) becomes light.

    Other files that an OME-TIFF names are not opened: their planes are their own.

    Args:
        file: path of the file, or its bytes.
        decodes_all: decode here what is else decoded in a process apart.

    Raises:
        InputError: a kind of TIFF that is not read here; the message says which.
        UnusableImage: its header claims more than the file can hold.
        Exception: whatever the library raises on damaged bytes.
    """

    def __init__(self, file: str | io.BytesIO, *, decodes_all: bool = False) -> None:
        self._lock = threading.RLock()
        self._source, self._decodes_all = file, decodes_all
        try:
            self._file = tifffile.TiffFile(file, _multifile=False)
        except TypeError as error:  # the library's on unknown sample formats
            raise InputError(
                f"{file if isinstance(file, str) else 'TIFF'}: sample formats that are not read "
                f"here ({error}); expected integers or floats, all samples alike. Convert it"
            ) from error
        try:
            check_claims(self._file)
            # Where ImageJ's text names other pages than there are, the pages count.
            if self._file.is_imagej and any(
                series.dataoffset is None
                and math.prod(series.shape) != len(series) * math.prod(series.keyframe.shape)
                for series in self._file.series
            ):
                self._file.close()
                self._file = tifffile.TiffFile(file, _multifile=False, is_imagej=False)
            self._series = [_Series(self._file, *parts) for parts in _full_size(self._file)]
            if not self._series:
                raise InputError(f"{file}: no picture of full size; expected at least one page")
            self._planes = self._numbered()
        except BaseException:
            self._file.close()
            raise
        # Stores are kept open for the next plane, and dropped without being asked.
        self._let_go = weakref.finalize(self, self._file.close)

    def _numbered(self) -> "dict[Plane, tuple[_Series, dict[str, int]]]":
        """Return the series of each plane, and its place there."""
        planes: dict[Plane, tuple[_Series, dict[str, int]]] = {}
        for number, series in enumerate(self._series):
            before = (("s", number),) if len(self._series) > 1 else ()
            planes |= {before + plane: (series, dict(plane)) for plane in series.planes()}
        return {(): planes.popitem()[1]} if len(planes) == 1 else planes

    def planes(self) -> list[Plane]:
        return list(self._planes)

    def info(self, plane: Plane) -> PlaneInfo:
        return self._planes[plane][0].info

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        series, place = self._planes[plane]
        with self._lock:
            if series.is_trusted or self._decodes_all:
                return series.read(place, rows, columns, channels)
        source = self._source if isinstance(self._source, str) else self._source.getvalue()
        name = self._file.filehandle.path
        return apart(name, series.plane_bytes, _read, source, plane, rows, columns, channels)

    def kinds(self) -> list[tuple[tifffile.TiffPage, Pixels]]:
        """Return the first page of each series, and the meaning of its samples."""
        return [(series.key, series.pixels) for series in self._series]

    def in_parts(self, plane: Plane) -> bool:
        return self._planes[plane][0].in_parts

    def close(self) -> None:
        self._let_go()


class _Series:
    """One series: its array, and the meaning of its axes."""

    def __init__(
        self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, names: Sequence[str]
    ) -> None:
        key = series.keyframe
        self._file, self._series, self.key = file, series, key
        self._layout = lay = layout(series.axes.lower().replace("q", "i"), series.shape)
        self._array: Any = None
        self._whole: np.ndarray | None = None
        if key.dtype is None or series.dtype is None:
            raise InputError(
                f"{file.filehandle.path}: unsupported values of {key.bitspersample} bits, sample "
                f"format {key.sampleformat}; expected integers or floats of up to 64. Convert it"
            )
        self._dtype = series.dtype
        self.plane_bytes = math.prod(
            (*lay.size_hw, lay.channels, lay.samples, self._dtype.itemsize)
        )
        self.pixels = pixels_of(key, self._dtype, lay, names)
        self._check_claims()
        height, width = lay.size_hw
        if self.pixels.orientation >= 5:
            height, width = width, height
        self.info = PlaneInfo(
            size_hw=(height, width),
            channels=self.pixels.channels,
            dtype=self.pixels.dtype.name,
            bits=self.pixels.bits,
            is_color=self.pixels.is_color,
            nodata=self.pixels.nodata,
        )

    def _check_claims(self) -> None:
        """Refuse claims beyond the file; one block of bytes must be there whole."""
        file, key, lay = self._file.filehandle, self.key, self._layout
        check_count(file.path, "planes", math.prod(lay.lengths), file.size)
        check_count(file.path, "channels", lay.channels * lay.samples, file.size)
        if (start := self._block_start) is not None:
            end = start + math.prod(self._series.shape) * self._dtype.itemsize
            if end > file.size:
                raise EOFError(f"values end at byte {end}, the file at {file.size}")
            return
        check_values(file.path, self.plane_bytes, file.size)
        check_part(file.path, math.prod(key.chunks) * self._dtype.itemsize)
        check_count(file.path, "tiles or strips in a plane", math.prod(key.chunked), file.size)
        if key.compression in _JPEG:
            key.decode = within(key.decode, math.prod(key.chunks))

    @property
    def _block_start(self) -> int | None:
        """Where the values begin, if they are one block of bytes."""
        return None if self.pixels.by_libtiff else self._series.dataoffset

    @property
    def is_trusted(self) -> bool:
        if self.pixels.by_libtiff:
            return False
        return self._block_start is not None or self.key.compression in _TRUSTED

    @property
    def in_parts(self) -> bool:
        """Whether it lies upright, in tiles or strips, or is not compressed."""
        if self.pixels.orientation != 1 or self.pixels.by_libtiff:
            return False
        return self._is_mappable or _PARTS * math.prod(self.key.chunks) <= math.prod(self.key.shape)

    @property
    def _is_mappable(self) -> bool:
        """Whether all values are bytes of the file, one after the other, as they are."""
        plain = self.key.fillorder == 1 and self.key.predictor == 1
        return self._file.filehandle.is_file and plain and self._block_start is not None

    def planes(self) -> list[Plane]:
        """Return the planes of the series; of several files, those that lie in this one."""
        every = [
            tuple(zip(self._layout.names, index, strict=True))
            for index in product(*map(range, self._layout.lengths))
        ]
        if self._series.kind != "ome" or len(self._file.pages) >= len(self._series):
            return every
        return [plane for plane in every if None not in self._pages(dict(plane))]

    def read(
        self, place: dict[str, int], rows: slice, columns: slice, channels: Sequence[int] | None
    ) -> np.ndarray:
        self._check_that_it_is_whole(place)
        pixels = self.pixels
        asked = None if pixels.mixes else channels
        upright = pixels.orientation == 1
        window = (rows, columns) if upright else (ALL, ALL)
        values = self._layout.take(self._values(place, window), place, *window, asked)
        values = pixels.shown(values, asked)
        if pixels.mixes and channels is not None:
            values = values[list(channels)]
        if not upright:
            values = upright_planes(values, pixels.orientation)[:, rows, columns]
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _values(self, place: dict[str, int], window: tuple[slice, slice]) -> Any:
        """Return an array of the values of a plane, decoded or to be decoded."""
        if self.pixels.by_libtiff:
            return self._by_libtiff(place)
        if self._is_mappable or math.prod(self._series.shape) != math.prod(self.key.shape):
            return self._open()
        if window == (ALL, ALL) and self._whole is None:
            # A third faster than by way of Zarr.
            return self._decoded()
        if not self.in_parts:
            # Each tile that is asked for would decode all of it again.
            self._whole = self._decoded() if self._whole is None else self._whole
            return self._whole
        return self._open()

    def _decoded(self) -> np.ndarray:
        return self.key.asarray(maxworkers=1).reshape(self._series.shape)

    def _by_libtiff(self, place: dict[str, int]) -> np.ndarray:
        """Return an array of the series' shape in which only this plane's values are right."""
        (page,) = self._pages(place)
        file = self._file.filehandle
        file.seek(0)
        number = 0 if page is None else page.index
        rgb = imagecodecs.tiff_decode(file.read(), index=number, asrgb=True)[..., :3]
        # It flips what lies otherwise, but turns nothing: both are done later on.
        rgb = rgb[:, ::-1] if self.pixels.orientation in (2, 3, 6, 7) else rgb
        rgb = rgb[::-1] if self.pixels.orientation in (3, 4, 7, 8) else rgb
        return np.broadcast_to(rgb, self._series.shape)

    def _open(self) -> Any:
        if self._array is None:
            series, file = self._series, self._file
            start = self._block_start
            if self._is_mappable and start is not None:
                # One block of bytes: any window of it is read without the rest.
                dtype = np.dtype(f"{file.byteorder}{self._dtype.char}")
                self._array = np.memmap(file.filehandle.path, dtype, "r", start, series.shape)
            else:
                self._array = zarr.open_array(series.aszarr(level=0), mode="r")
        return self._array

    def _pages(self, place: dict[str, int]) -> list[tifffile.TiffPage | tifffile.TiffFrame | None]:
        """Return the pages of a plane's channels; None for one that is in another file."""
        shape = self._series.shape[: self._series.ndim - self.key.ndim]
        if math.prod(shape) != len(self._series):
            return []
        ranges = self._layout.ranges(place)[: len(shape)]
        return [
            self._series[int(np.ravel_multi_index(index, shape)) if shape else 0]
            for index in product(*ranges)
        ]

    def _check_that_it_is_whole(self, place: dict[str, int]) -> None:
        # The library fills what a cut file lacks with zeros.
        if self._block_start is not None:
            return
        pages = [page for page in self._pages(place) if page is not None]
        parts = min((len(page.dataoffsets) for page in pages), default=math.inf)
        if parts < (wanted := math.prod(self.key.chunked)):
            raise EOFError(f"a page of {wanted} tiles or strips has {parts}")
        ends = [
            offset + count
            for page in pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        size = self._file.filehandle.size
        if max(ends, default=0) > size:
            raise EOFError(f"values end at byte {max(ends)}, the file at {size}")


def _read(
    source: str | bytes, plane: Plane, rows: slice, columns: slice, channels: Sequence[int] | None
) -> np.ndarray:
    """Read a plane in a process apart."""
    file = source if isinstance(source, str) else io.BytesIO(source)
    with TiffStore(file, decodes_all=True) as store:
        return store.read(plane, rows, columns, channels)


def _full_size(file: tifffile.TiffFile) -> Iterator[tuple[tifffile.TiffPageSeries, Sequence[str]]]:
    """Yield every series that is no thumbnail, mask or smaller copy, with its channels' names."""
    names = _channel_names(file)
    for number, series in enumerate(file.series):
        is_secondary = int(series.keyframe.subfiletype) & _SECONDARY
        if not is_secondary and series.name.lower() not in _BESIDE:
            yield series, names[number] if number < len(names) else ()


def _channel_names(file: tifffile.TiffFile) -> list[list[str]]:
    """Return OME-XML's names of the channels, by series; none where their counts differ."""
    try:
        root = ElementTree.fromstring(file.ome_metadata or "<none/>")
    except ElementTree.ParseError:
        return []
    names = [
        [channel.get("Name") or "" for channel in pixels.iterfind("./{*}Channel")]
        for pixels in root.iterfind("./{*}Image/{*}Pixels")
    ]
    return names if len(names) == len(file.series) else []
