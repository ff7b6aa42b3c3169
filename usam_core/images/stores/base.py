"""The seam of files that hold planes: their layout, headers, values of a part, projections of z."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from usam_core.errors import InputError

CHANNELS, SAMPLES = "c", "s"
"""Axes of the values of one pixel: measurements, and the colors of a picture."""
DEPTH, UNNAMED, SERIES = "z", "i", "s"
"""Axes that number planes: depth, one without a name, and the pictures of a file."""
COLORS = ("red", "green", "blue")
"""Names of the channels of a picture in color."""
_PIXEL = (CHANNELS, SAMPLES)
_NEAR = 2e-6

Plane = tuple[tuple[str, int], ...]
"""Axis names and indices from 0, as `ImageRef.plane`."""
ALL = slice(None)


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array holds planes.

    Attributes:
        names: the axes that number the planes, in the array's order; without those of length 1.
        lengths: their lengths.
        axes: a name for each axis of the array, "y", "x", "c" and "s" among them.
        shape: the array's.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._length("y"), self._length("x")

    @property
    def channels(self) -> int:
        """Number of measurements of a pixel."""
        return self._length(CHANNELS)

    @property
    def samples(self) -> int:
        """Number of colors of each measurement."""
        return self._length(SAMPLES)

    def _length(self, axis: str) -> int:
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def ranges(self, place: Mapping[str, int]) -> list[range]:
        """Return, for each axis of the array, the indices that belong to a plane."""
        return [
            range(place[axis], place[axis] + 1) if axis in place else range(length)
            for axis, length in zip(self.axes, self.shape, strict=True)
        ]

    def take(
        self,
        array: Any,
        place: Mapping[str, int],
        rows: slice,
        columns: slice,
        channels: Sequence[int] | None,
    ) -> np.ndarray:
        """Return (c, h, w) of a window of a plane; nothing else is read from the array.

        Args:
            array: of this layout; anything that takes a tuple of integers and slices.
            place: index by the name of each axis in `names`.
            rows, columns: the window.
            channels: which of `channels` times `samples`; all by default.
        """
        where: dict[str, int | slice] = {**place, "y": rows, "x": columns}
        if channels is None:
            return self._cut(array, where)
        if SAMPLES in self.axes:
            return self._cut(array, where)[list(channels)]
        return np.concatenate([self._cut(array, {**where, CHANNELS: n}) for n in channels])

    def _cut(self, array: Any, where: Mapping[str, int | slice]) -> np.ndarray:
        first = {axis: 0 for axis in self.axes if axis not in (*_PIXEL, "y", "x")}
        index = tuple({**first, **where}.get(axis, ALL) for axis in self.axes)
        left = [a for a, i in zip(self.axes, index, strict=True) if isinstance(i, slice)]
        order = [left.index(axis) for axis in (CHANNELS, SAMPLES, "y", "x") if axis in left]
        values = np.asarray(array[index]).transpose(order)
        return values.reshape(math.prod(values.shape[:-2]), *values.shape[-2:])


def layout(axes: Sequence[str], shape: Sequence[int]) -> Layout:
    """Return how an array with these axes holds planes; equal names become `i`, `i2`, `i3`.

    Raises:
        InputError: there are no rows and columns, or nothing in them.

    >>> layout("tzcyx", (3, 5, 2, 64, 48)).names
    ('t', 'z')
    >>> layout("iiyx", (3, 1, 64, 48)).names
    ('i',)
    """
    if "y" not in axes or "x" not in axes or not math.prod(shape):
        raise InputError(
            f"axes {''.join(axes)} of lengths {tuple(shape)}; expected rows (y) and columns (x), "
            "and no length of 0"
        )
    unique: list[str] = []
    for axis in axes:
        taken = sum(name.rstrip("0123456789") == axis for name in unique)
        unique.append(f"{axis}{taken + 1}" if taken else axis)
    numbered = {
        axis: length
        for axis, length in zip(unique, shape, strict=True)
        if axis not in (*_PIXEL, "y", "x") and length > 1
    }
    return Layout(tuple(numbered), tuple(numbered.values()), tuple(unique), tuple(shape))


def named(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the channels' names if they are as many and all differ, else their numbers."""
    fits = len(names) == count and all(names) and len(set(names)) == count
    return tuple(names) if fits else tuple(map(str, range(count)))


@dataclass(frozen=True, slots=True)
class PlaneInfo:
    """The header of one plane.

    Attributes:
        size_hw: rows and columns, pixels.
        channels: their names; "0", "1" and so on where the file has none.
        dtype: NumPy's name of the values' type, such as "uint16".
        bits: used bits of an integer, where the file says so: 12 of 16.
        is_color: whether the channels are red, green, blue and perhaps alpha of one picture,
            rather than measurements of their own.
        nodata: the value that means no data, where the file names one.
    """

    size_hw: tuple[int, int]
    channels: tuple[str, ...]
    dtype: str
    bits: int | None = None
    is_color: bool = False
    nodata: float | None = None


def is_nodata(values: np.ndarray, nodata: float) -> np.ndarray:
    """Return where values mean no data, bool of their shape.

    >>> is_nodata(np.array([-3.4028235e38, 7], np.float32), -3.40282e38).tolist()
    [True, False]
    """
    if values.dtype.kind != "f":
        return np.asarray(values == values.dtype.type(nodata))
    # Some programs cut the text of a float after six digits.
    return np.isclose(values, nodata, rtol=_NEAR, atol=0, equal_nan=True)


class ImageStore(ABC):
    """One file, or one Zarr group or array, as planes of channels; several threads may read.

    Headers are read when it is opened, values when they are asked for.
    """

    @abstractmethod
    def planes(self) -> list[Plane]:
        """Return every plane in the order of the file; `[()]` where there is only one."""

    @abstractmethod
    def info(self, plane: Plane) -> PlaneInfo:
        """Return the header of a plane.

        Raises:
            KeyError: there is no such plane.
        """

    @abstractmethod
    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return (c, h, w) in the file's own type; only tiles or strips in the window are decoded.

        Args:
            plane: one of `planes`.
            rows, columns: slices of step 1 that may reach over the border.
            channels: which channels, in this order; all by default.

        Raises:
            KeyError: there is no such plane.
        """

    def size(self, plane: Plane) -> tuple[int, int]:
        """Return rows and columns of a plane."""
        return self.info(plane).size_hw

    def in_parts(self, plane: Plane) -> bool:
        """Return whether a window of a plane is read without decoding all of it."""
        return True

    def close(self) -> None:  # noqa: B027  (most stores keep no file open)
        """Let go of the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def depth_axis(file: str, planes: Sequence[Plane]) -> str:
    """Return the axis of a file's planes that a projection takes together: z.

    A stack whose only axis has no name, as plain TIFFs are written, has its z there; in a plain
    Zarr array that axis numbers images.

    >>> depth_axis("a.tif", [(("i", 0),), (("i", 1),)])
    'i'
    >>> depth_axis("a.tif", [(("t", 0), ("i", 0))]), depth_axis("a.zarr/b", [(("i", 0),)])
    ('z', 'z')
    """
    axes = {axis for plane in planes for axis, _ in plane} - {SERIES}
    numbers_images = any(part.endswith(".zarr") for part in file.lower().split("/"))
    return UNNAMED if axes == {UNNAMED} and not numbers_images else DEPTH


def flat(plane: Plane, axis: str) -> Plane:
    """Return a plane's address without that axis."""
    return tuple(pair for pair in plane if pair[0] != axis)


class Projected(ImageStore):
    """The planes of another store with z taken together; one z is in memory at a time.

    Args:
        inner: the store.
        projection: "max", "min" or "mean". A mean is rounded where the values are integers. NaN in
            maxima and minima of floats, and no data in all three, count only where there is nothing
            else.
        axis: which one is z; see `depth_axis`.
    """

    def __init__(self, inner: ImageStore, projection: str, axis: str = DEPTH) -> None:
        self._inner, self._projection = inner, projection
        self._depths: dict[Plane, list[Plane]] = {}
        self.axis = axis
        for plane in inner.planes():
            self._depths.setdefault(flat(plane, axis), []).append(plane)

    def planes(self) -> list[Plane]:
        return list(self._depths)

    def info(self, plane: Plane) -> PlaneInfo:
        return self._inner.info(self._depths[plane][0])

    def in_parts(self, plane: Plane) -> bool:
        return self._inner.in_parts(self._depths[plane][0])

    def is_flat(self, plane: Plane) -> bool:
        """Return whether there is only one z, so that nothing is projected."""
        return len(self._depths[plane]) == 1

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        first, *others = self._depths[plane]
        joined = self._inner.read(first, rows, columns, channels)
        if not others:
            return joined
        dtype, nodata = joined.dtype, self.info(plane).nodata
        count = np.ones(joined.shape, np.int32) if nodata is None else 1 - is_nodata(joined, nodata)
        if self._projection == "mean":
            joined = joined.astype(np.float64)
        join = {"max": np.fmax, "min": np.fmin, "mean": np.add}[self._projection]
        for other in others:
            values = self._inner.read(other, rows, columns, channels)
            if nodata is None:
                joined, count = join(joined, values), count + 1
                continue
            empty = is_nodata(values, nodata)
            both = np.where(empty, joined, join(joined, values))
            joined, count = np.where(count == 0, values, both), count + ~empty
        if self._projection == "mean":
            joined = joined / np.maximum(count, 1)
            joined = np.rint(joined) if dtype.kind in "biu" else joined
        return joined.astype(dtype, copy=False)

    def close(self) -> None:
        self._inner.close()
