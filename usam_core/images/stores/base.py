"""The seam of files that hold planes: what there is, how large, and the values of a part of one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from usam_core.errors import InputError

CHANNELS, SAMPLES = "c", "s"
"""Axes of the values of one pixel: measurements, and the colours of a picture."""
_PIXEL = (CHANNELS, SAMPLES)


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array holds planes.

    Attributes:
        names: the axes that number the planes, in the array's order; axes of length 1 number
            nothing and are left out.
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
        """Return rows and columns."""
        return self._length("y"), self._length("x")

    @property
    def channels(self) -> int:
        """Return how many measurements a pixel has."""
        return self._length(CHANNELS)

    @property
    def samples(self) -> int:
        """Return how many colours each of its measurements has."""
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
        """Return (c, h, w) of a plane; the array is asked for nothing else.

        Args:
            array: of this layout; anything that takes a tuple of integers and slices.
            place: index by the name of each axis in `names`.
            rows: which rows.
            columns: which columns.
            channels: which of `channels` times `samples`; all by default.
        """
        wanted = range(self.channels * self.samples) if channels is None else channels
        window = {"y": rows, "x": columns}
        if channels is None or SAMPLES in self.axes:
            values = self._cut(array, {**place, **window})
            return values if channels is None else values[list(wanted)]
        return np.concatenate([self._cut(array, {**place, **window, CHANNELS: n}) for n in wanted])

    def _cut(self, array: Any, where: Mapping[str, int | slice]) -> np.ndarray:
        one = {axis: 0 for axis in self.axes if axis not in (*_PIXEL, "y", "x")}
        index = tuple({**one, **where}.get(axis, slice(None)) for axis in self.axes)
        left = [a for a, i in zip(self.axes, index, strict=True) if isinstance(i, slice)]
        values = np.asarray(array[index])
        order = [left.index(axis) for axis in (CHANNELS, SAMPLES, "y", "x") if axis in left]
        values = values.transpose(order)
        return values.reshape(math.prod(values.shape[:-2]), *values.shape[-2:])


def layout(axes: Sequence[str], shape: Sequence[int]) -> Layout:
    """Say how an array with these axes holds planes.

    Axes without a name, and those of one name, get one: `i`, `i2`, `i3`.

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
    numbered = [
        (axis, length)
        for axis, length in zip(unique, shape, strict=True)
        if axis not in (*_PIXEL, "y", "x") and length > 1
    ]
    names, lengths = zip(*numbered, strict=True) if numbered else ((), ())
    return Layout(tuple(names), tuple(lengths), tuple(unique), tuple(shape))


def named(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Return names of the channels: those given if they are as many and all differ, or numbers."""
    fits = len(names) == count and all(names) and len(set(names)) == count
    return tuple(names) if fits else tuple(map(str, range(count)))


Plane = tuple[tuple[str, int], ...]
"""Axis names and indices from 0, as `ImageRef.plane`."""

ALL = slice(None)
_NEAR = 2e-6


@dataclass(frozen=True, slots=True)
class PlaneInfo:
    """What the headers say of one plane.

    Attributes:
        size_hw: rows and columns, pixels.
        channels: their names; "0", "1" and so on where the file has none.
        dtype: NumPy's name of the values' type, such as "uint16".
        bits: how many bits of an integer are used, where the file says so: 12 of 16.
        is_color: whether the channels are red, green, blue and perhaps alpha of one picture,
            rather than measurements of their own.
        nodata: the value that says that there is none, where the file names one.
    """

    size_hw: tuple[int, int]
    channels: tuple[str, ...]
    dtype: str
    bits: int | None = None
    is_color: bool = False
    nodata: float | None = None


def is_nodata(values: np.ndarray, nodata: float) -> np.ndarray:
    """Return where values say that there is none.

    >>> is_nodata(np.array([-3.4028235e38, 7], np.float32), -3.40282e38).tolist()
    [True, False]
    """
    if values.dtype.kind != "f":
        return values == values.dtype.type(nodata)
    # Some programs cut the text of a float after six digits.
    return np.isclose(values, nodata, rtol=_NEAR, atol=0, equal_nan=True)


class ImageStore(ABC):
    """One file, or one Zarr group or array, as planes of channels; several threads may read.

    Headers are read when it is opened, values when they are asked for.
    """

    @abstractmethod
    def planes(self) -> list[Plane]:
        """Return every plane in the order of the file; `[()]` where there is but one."""

    @abstractmethod
    def info(self, plane: Plane) -> PlaneInfo:
        """Return what the headers say of a plane.

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
        """Return (c, h, w) in the file's own type; other planes are not decoded.

        Of a tiled or chunked file only the tiles that the window touches are decoded, of one in
        strips only the strips.

        Args:
            plane: one of `planes`.
            rows: which rows, a slice of step 1 that may reach over the border.
            columns: which columns, likewise.
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

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> "ImageStore":
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
