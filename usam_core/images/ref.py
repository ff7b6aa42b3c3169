"""Addresses one plane of an image file, or a tile of it: `well_A1.ome.tif#t=3,z=0`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import PurePosixPath
from typing import NamedTuple

from usam_core.errors import InputError
from usam_core.files.digest import value_digest

_PART = re.compile(r"([a-z][a-z0-9]*)=(0|[1-9][0-9]*)")
_BOX = re.compile(r"(.*?),?rows=([0-9]+):([0-9]+),columns=([0-9]+):([0-9]+)")


class Box(NamedTuple):
    """A part of a plane: for each axis the first pixel, and the one after the last."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns, pixels."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index into an array (h, w)."""
        return slice(*self.rows), slice(*self.columns)

    def __str__(self) -> str:
        return f"rows={self.rows[0]}:{self.rows[1]},columns={self.columns[0]}:{self.columns[1]}"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One plane of one file; of a file with a single picture, that picture.

    Attributes:
        file: path or URL of the file (or of the Zarr group), as it was listed.
        plane: axis names and indices from 0, in the order of writing: `(("t", 3), ("z", 0))`;
            empty for a file with a single picture. `s` numbers series or a group's arrays.
        box: a tile of a large image; None for all of the plane.
    """

    file: str
    plane: tuple[tuple[str, int], ...] = ()
    box: Box | None = None

    def __str__(self) -> str:
        """Return the address as it is listed, stored and shown."""
        parts = [f"{axis}={index}" for axis, index in self.plane]
        if self.box is not None:
            parts.append(str(self.box))
        return f"{self.file}#{','.join(parts)}" if parts else self.file

    def output_name(self, ending: str, *, keep: bool = False) -> str:
        """Return the path of an output of this image, a safe file name everywhere.

        With `keep` the file's own ending stays too, where without it two names would be the same.

        >>> ImageRef.parse("plates/well_A1.ome.tif#t=3,z=0").output_name(".png")
        'plates/well_A1.ome_t3_z0.png'
        >>> ImageRef.parse("street/a.jpg").output_name(".png", keep=True)
        'street/a.jpg.png'
        """
        file = self.file if keep else str(PurePosixPath(self.file).with_suffix(""))
        if not self.plane:
            return f"{file}{ending}"
        return f"{file}_{'_'.join(f'{axis}{index}' for axis, index in self.plane)}{ending}"

    @classmethod
    def parse(cls, text: str) -> "ImageRef":
        """Read what `str` wrote; a `#` that no plane follows belongs to the file's name.

        Raises:
            InputError: the plane names an axis twice.

        >>> ImageRef.parse("a/well#1.tif#t=3,z=0")
        ImageRef(file='a/well#1.tif', plane=(('t', 3), ('z', 0)), box=None)
        >>> ImageRef.parse("slide.tif#rows=0:1024,columns=896:1920").box.size_hw
        (1024, 1024)
        """
        file, mark, plane = text.rpartition("#")
        box = None
        if mark and (match := _BOX.fullmatch(plane)):
            plane, *sides = match.groups()
            top, bottom, left, right = map(int, sides)
            box = Box((top, bottom), (left, right))
        words = plane.split(",") if mark and plane else []
        parts = [part for word in words if (part := _PART.fullmatch(word))]
        if not file or len(parts) < len(words) or not (parts or box):
            return cls(text)
        pairs = tuple((part[1], int(part[2])) for part in parts)
        if len(dict(pairs)) < len(pairs):
            raise InputError(f"{text}: got an axis twice; expected each once, such as #t=3,z=0")
        return cls(file, pairs, box)


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image that is embedded by itself, and its core, which no other tile has."""

    box: Box
    core: Box


def is_large(size_hw: tuple[int, int], tile: int | None) -> bool:
    """Return whether an image is cut into tiles; `tile` of None or 0 cuts none."""
    return bool(tile) and max(size_hw) > (tile or 0)


def tiles_of(size_hw: tuple[int, int], tile: int, overlap: int) -> list[Tile]:
    """Return the tiles of an image, row by row.

    Args:
        size_hw: rows and columns of the image.
        tile: rows and columns of a tile; fewer where the image has fewer.
        overlap: minimum of pixels that neighbors share, at most half a tile.

    >>> [one.box.columns for one in tiles_of((10, 22), 10, 2)]
    [(0, 10), (8, 18), (12, 22)]
    >>> [one.core.columns for one in tiles_of((10, 22), 10, 2)]
    [(0, 9), (9, 15), (15, 22)]
    """
    rows, columns = (list(_intervals(side, tile, overlap)) for side in size_hw)
    return [
        Tile(Box(row[0], column[0]), Box(row[1], column[1]))
        for row, column in product(rows, columns)
    ]


def _intervals(side: int, tile: int, overlap: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield start and end of each tile along one axis, and of its core."""
    if side <= tile:
        yield (0, side), (0, side)
        return
    starts = [*range(0, side - tile, tile - overlap), side - tile]
    middles = [(start + tile + after) // 2 for start, after in pairwise(starts)]
    for start, core in zip(starts, pairwise([0, *middles, side]), strict=True):
        yield (start, start + tile), core


def tile_digest(image: str, box: Box) -> str:
    """Return the content key of a tile; `image` is the content key of the image."""
    return value_digest([image, "tile", list(box.rows), list(box.columns)])


def shared(one: Box, other: Box) -> Box | None:
    """Return the intersection of two boxes, or None."""
    rows, columns = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return Box(rows, columns) if rows[0] < rows[1] and columns[0] < columns[1] else None


def neighbors(boxes: list[Box]) -> Iterator[tuple[int, int, Box]]:
    """Yield the numbers of every two `tiles_of` boxes that overlap, and their intersection."""
    for first, box in enumerate(boxes):
        for second in range(first + 1, len(boxes)):
            if boxes[second].rows[0] >= box.rows[1]:
                break
            both = shared(box, boxes[second])
            if both is not None:
                yield first, second, both
