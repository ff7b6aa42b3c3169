"""Cuts a large image into tiles that overlap: their boxes, and what each answers for alone.

Rows and columns are cut alike: tiles of one size, the last moved back to end with the image. In
the middle of an overlap what one tile answers for ends and what the next does begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

from usam_core.files.digest import value_digest
from usam_core.images.ref import Box


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image that is embedded by itself.

    Attributes:
        box: its rows and columns in the image.
        core: those that no other tile answers for; the cores of all tiles fill the image.
    """

    box: Box
    core: Box


def is_large(size_hw: tuple[int, int], tile: int | None) -> bool:
    """Return whether an image is cut into tiles; `tile` of None or 0 cuts none."""
    return bool(tile) and max(size_hw) > tile


def tiles_of(size_hw: tuple[int, int], tile: int, overlap: int) -> list[Tile]:
    """Return the tiles of an image, row by row.

    Args:
        size_hw: rows and columns of the image.
        tile: rows and columns of a tile; fewer where the image has fewer.
        overlap: pixels that neighbours share at least, at most half a tile.

    >>> [one.box.columns for one in tiles_of((10, 22), 10, 2)]
    [(0, 10), (8, 18), (12, 22)]
    >>> [one.core.columns for one in tiles_of((10, 22), 10, 2)]
    [(0, 9), (9, 15), (15, 22)]
    """
    rows, columns = (list(_stretches(side, tile, overlap)) for side in size_hw)
    return [
        Tile(Box(row[0], column[0]), Box(row[1], column[1]))
        for row, column in product(rows, columns)
    ]


def tile_digest(image: str, box: Box) -> str:
    """Return the content key of a tile; `image` is the content key of the image."""
    return value_digest([image, "tile", list(box.rows), list(box.columns)])


def shared(one: Box, other: Box) -> Box | None:
    """Return what two boxes have in common, or None."""
    rows, columns = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return Box(rows, columns) if rows[0] < rows[1] and columns[0] < columns[1] else None


def neighbors(boxes: list[Box]) -> Iterator[tuple[int, int, Box]]:
    """Yield the numbers of every two boxes that overlap, and what they share.

    Args:
        boxes: in the order of `tiles_of`.
    """
    for first, box in enumerate(boxes):
        for second in range(first + 1, len(boxes)):
            if boxes[second].rows[0] >= box.rows[1]:
                break
            both = shared(box, boxes[second])
            if both is not None:
                yield first, second, both


def _stretches(side: int, tile: int, overlap: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield from and to of each tile along one axis, of all of it and of its core."""
    if side <= tile:
        yield (0, side), (0, side)
        return
    step = tile - overlap
    starts = [*range(0, side - tile, step), side - tile]
    middles = [(start + tile + after) // 2 for start, after in pairwise(starts)]
    cores = zip([0, *middles], [*middles, side], strict=True)
    for start, core in zip(starts, cores, strict=True):
        yield (start, start + tile), core
