"""Axes of an array by their letters: which are planes, which channels, which rows and columns."""

import math
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
