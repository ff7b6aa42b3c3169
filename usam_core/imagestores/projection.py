"""One picture of all z: the least, greatest or mean value at each pixel."""

from collections.abc import Sequence

import numpy as np

from usam_core.imagestores.base import ALL, ImageStore, Plane, PlaneInfo

DEPTH = "z"


class Projected(ImageStore):
    """The planes of another store with z taken together; one z is in memory at a time.

    Args:
        inner: the store.
        projection: "max", "min" or "mean". A mean is rounded where the values are integers; in
            maxima and minima of floats, NaN counts only where there is nothing else.
    """

    def __init__(self, inner: ImageStore, projection: str) -> None:
        self._inner, self._projection = inner, projection
        self._depths: dict[Plane, list[Plane]] = {}
        for plane in inner.planes():
            flat = tuple(pair for pair in plane if pair[0] != DEPTH)
            self._depths.setdefault(flat, []).append(plane)

    def planes(self) -> list[Plane]:
        """Return the planes without their z."""
        return list(self._depths)

    def info(self, plane: Plane) -> PlaneInfo:
        """Return what the headers say of the planes behind one."""
        return self._inner.info(self._depths[plane][0])

    def in_parts(self, plane: Plane) -> bool:
        """Return what the store says of the planes behind one."""
        return self._inner.in_parts(self._depths[plane][0])

    def is_flat(self, plane: Plane) -> bool:
        """Return whether there is but one z, so that nothing is projected."""
        return len(self._depths[plane]) == 1

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return (c, h, w) in the file's own type."""
        first, *others = self._depths[plane]
        found = self._inner.read(first, rows, columns, channels)
        if not others:
            return found
        dtype = found.dtype
        if self._projection == "mean":
            found = found.astype(np.float64)
        join = {"max": np.fmax, "min": np.fmin, "mean": np.add}[self._projection]
        for other in others:
            found = join(found, self._inner.read(other, rows, columns, channels))
        if self._projection == "mean":
            found = found / (len(others) + 1)
            found = np.rint(found) if dtype.kind in "biu" else found
        return found.astype(dtype, copy=False)

    def close(self) -> None:
        """Let go of the file."""
        self._inner.close()
