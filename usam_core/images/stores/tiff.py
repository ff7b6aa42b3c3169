"""TIFF and OME-TIFF stacks: series, time, z, channels; of a pyramid its full size alone."""

import io
import logging
import math
import threading
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
import zarr

from usam_core.errors import InputError
from usam_core.images.rgb import upright_planes
from usam_core.images.stores.apart import apart
from usam_core.images.stores.base import ALL, ImageStore, Layout, Plane, PlaneInfo, layout
from usam_core.images.stores.limits import check_count, check_part, check_values
from usam_core.images.stores.tiff_tags import Pixels, check_claims, pixels_of, within

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # verdicts say what counts
_SECONDARY = 0b101  # NewSubfileType: bit 0 a smaller copy of another page, bit 2 a mask
_BESIDE = ("thumbnail", "label", "macro", "overview")
"""Names that scanners of slides give to pictures beside the slide."""
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
    """The planes of one TIFF file.

    Other files that an OME-TIFF speaks of are not opened: their planes are their own.

    Args:
        file: path of the file, or what is open for reading.
        decodes_all: decode compressions here that are else decoded in a process apart.

    Raises:
        InputError: a kind of TIFF that is not read here; the message says which.
        UnusableImage: its header speaks of more than the file can hold.
        Exception: whatever the library raises on damaged bytes.
    """

    def __init__(self, file: str | BinaryIO, *, decodes_all: bool = False) -> None:
        self._lock = threading.RLock()
        self._source, self._decodes_all = file, decodes_all
        try:
            self._file = tifffile.TiffFile(file, _multifile=False)
        except TypeError as error:  # what it says of sample formats that it knows nothing of
            raise InputError(
                f"{file if isinstance(file, str) else 'TIFF'}: sample formats that are not read "
                f"here ({error}); expected integers or floats, all samples alike. Convert it"
            ) from error
        try:
            check_claims(self._file)
            if _is_contradicted(self._file):
                self._file.close()
                self._file = tifffile.TiffFile(file, _multifile=False, is_imagej=False)
            self._series = [_Series(self._file, *found) for found in _full_size(self._file)]
            if not self._series:
                raise InputError(f"{file}: no picture of full size; expected at least one page")
            self._planes = dict(self._places())
        except BaseException:
            self._file.close()
            raise
        # Stores are kept open for the next plane, and let go of without being asked.
        self._let_go = weakref.finalize(self, self._file.close)

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

    def kinds(self) -> list[tuple[tifffile.TiffPage, Pixels]]:
        """Return the first page of each series, and what its tags say of the pixels."""
        return [(series.key, series.pixels) for series in self._series]

    def in_parts(self, plane: Plane) -> bool:
        """Return whether it lies upright, in tiles or strips, or is not compressed."""
        return self._planes[plane][0].in_parts

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()

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
        self._file, self._series, self.key = file, series, key
        self._layout: Layout = layout(series.axes.lower().replace("q", "i"), series.shape)
        self._array: np.ndarray | zarr.Array | None = None
        self._whole: np.ndarray | None = None
        if key.dtype is None:
            raise InputError(
                f"{file.filehandle.path}: unsupported values of {key.bitspersample} bits, sample "
                f"format {key.sampleformat}; expected integers or floats of up to 64. Convert it"
            )
        self.pixels = pixels_of(key, series.dtype, self._layout, names)
        self._check_claims()
        height, width = self._layout.size_hw
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
        """Refuse what the file cannot hold; of one block of bytes it must hold all."""
        file, series, key, lay = self._file.filehandle, self._series, self.key, self._layout
        check_count(file.path, "planes", math.prod(lay.lengths), file.size)
        check_count(file.path, "channels", lay.channels * lay.samples, file.size)
        if series.dataoffset is not None and not self.pixels.by_libtiff:
            end = series.dataoffset + math.prod(series.shape) * series.dtype.itemsize
            if end > file.size:
                raise EOFError(f"values end at byte {end}, the file at {file.size}")
            return
        check_values(file.path, self.plane_bytes, file.size)
        check_part(file.path, math.prod(key.chunks) * key.dtype.itemsize)
        check_count(file.path, "tiles or strips in a plane", math.prod(key.chunked), file.size)
        if key.compression in _JPEG:
            key.decode = within(key.decode, math.prod(key.chunks))

    @property
    def plane_bytes(self) -> int:
        lay = self._layout
        return math.prod((*lay.size_hw, lay.channels, lay.samples, self._series.dtype.itemsize))

    @property
    def is_trusted(self) -> bool:
        if self.pixels.by_libtiff:
            return False
        return self._series.dataoffset is not None or self.key.compression in _TRUSTED

    @property
    def in_parts(self) -> bool:
        if self.pixels.orientation != 1 or self.pixels.by_libtiff:
            return False
        return self._is_block or _PARTS * math.prod(self.key.chunks) <= math.prod(self.key.shape)

    @property
    def _is_block(self) -> bool:
        """Return whether all values are bytes of the file, one after the other, as they are."""
        key, is_file = self.key, self._file.filehandle.is_file
        plain = key.fillorder == 1 and key.predictor == 1 and not self.pixels.by_libtiff
        return is_file and plain and self._series.dataoffset is not None

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
        """Return what holds the values of a plane, decoded or to be decoded."""
        if self.pixels.by_libtiff:
            return self._by_libtiff(place)
        if self._is_block or math.prod(self._series.shape) != math.prod(self.key.shape):
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
        found = imagecodecs.tiff_decode(file.read(), index=page.index, asrgb=True)[..., :3]
        # It flips what lies otherwise, but turns nothing: both are done later on.
        found = found[:, ::-1] if self.pixels.orientation in (2, 3, 6, 7) else found
        found = found[::-1] if self.pixels.orientation in (3, 4, 7, 8) else found
        return np.broadcast_to(found, self._series.shape)

    def _open(self) -> np.ndarray | zarr.Array:
        if self._array is None:
            series, file = self._series, self._file
            if self._is_block:
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
        shape = self._series.shape[: self._series.ndim - self.key.ndim]
        if math.prod(shape) != len(self._series):
            return
        ranges = self._layout.ranges(place)[: len(shape)]
        for index in product(*ranges):
            yield self._series[int(np.ravel_multi_index(index, shape)) if shape else 0]

    def _check_that_it_is_whole(self, place: dict[str, int]) -> None:
        # The library fills what a cut file lacks with zeros.
        size = self._file.filehandle.size
        if self._series.dataoffset is not None and not self.pixels.by_libtiff:
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


def _is_contradicted(file: tifffile.TiffFile) -> bool:
    """Return whether ImageJ's text speaks of other pages than there are; then the pages count."""
    return file.is_imagej and any(
        series.dataoffset is None
        and math.prod(series.shape) != len(series) * math.prod(series.keyframe.shape)
        for series in file.series
    )


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
