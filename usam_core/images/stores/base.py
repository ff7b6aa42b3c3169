"""The seam of files that hold planes: what there is, how large, and the values of a part of one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
