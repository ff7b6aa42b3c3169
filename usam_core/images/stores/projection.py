"""One picture of all z: the least, greatest or mean value at each pixel."""

from collections.abc import Sequence

import numpy as np

from usam_core.images.stores.base import ALL, ImageStore, Plane, PlaneInfo, is_nodata

DEPTH, UNNAMED, SERIES = "z", "i", "s"


def depth_axis(file: str, planes: Sequence[Plane]) -> str:
    """Return the axis of a file's planes that a projection takes together.

    That is z. A stack whose only axis has no name, as plain TIFFs are written, has its z there; of
    a plain Zarr array that axis numbers images.

    >>> depth_axis("a.tif", [(("i", 0),), (("i", 1),)])
    'i'
    >>> depth_axis("a.tif", [(("t", 0), ("i", 0))]), depth_axis("a.zarr", [(("i", 0),)])
    ('z', 'z')
    """
    axes = {axis for plane in planes for axis, _ in plane} - {SERIES}
    numbers_images = file.lower().rstrip("/").endswith(".zarr")
    return UNNAMED if axes == {UNNAMED} and not numbers_images else DEPTH


def flat(plane: Plane, axis: str) -> Plane:
    """Return a plane's address without that axis."""
    return tuple(pair for pair in plane if pair[0] != axis)


class Projected(ImageStore):
    """The planes of another store with z taken together; one z is in memory at a time.

    Args:
        inner: the store.
        projection: "max", "min" or "mean". A mean is rounded where the values are integers; in
            maxima and minima of floats, NaN counts only where there is nothing else; so does in all
            of them the value that says that there is none.
        axis: which one is z; see `depth_axis`.
    """

    def __init__(self, inner: ImageStore, projection: str, axis: str = DEPTH) -> None:
        self._inner, self._projection = inner, projection
        self._depths: dict[Plane, list[Plane]] = {}
        self.axis = axis
        for plane in inner.planes():
            self._depths.setdefault(flat(plane, axis), []).append(plane)

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
        dtype, nodata = found.dtype, self.info(plane).nodata
        count = np.ones(found.shape, np.int32) if nodata is None else 1 - is_nodata(found, nodata)
        if self._projection == "mean":
            found = found.astype(np.float64)
        join = {"max": np.fmax, "min": np.fmin, "mean": np.add}[self._projection]
        for other in others:
            values = self._inner.read(other, rows, columns, channels)
            if nodata is None:
                found, count = join(found, values), count + 1
                continue
            empty = is_nodata(values, nodata)
            joined = np.where(empty, found, join(found, values))
            found, count = np.where(count == 0, values, joined), count + ~empty
        if self._projection == "mean":
            found = found / np.maximum(count, 1)
            found = np.rint(found) if dtype.kind in "biu" else found
        return found.astype(dtype, copy=False)

    def close(self) -> None:
        """Let go of the file."""
        self._inner.close()
