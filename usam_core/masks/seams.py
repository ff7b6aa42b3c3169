"""Joins what was found in the tiles of a large image: an object on a seam is one object.

Masks are COCO's run lengths throughout, so that no mask is ever held at the size of the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from usam_core.images.ref import Box, neighbors, shared
from usam_core.masks.rle import as_text, measures, run_lengths

Record = dict[str, Any]
"""A COCO annotation as `labels.Instance.to_coco` makes them."""

SAME_OBJECT = 0.5
"""Minimum IoU, within the intersection of two tiles, of two masks that are parts of one object."""
SLICE = 0.9
"""Of an object that a border cut, more than this share lies in an object of its class."""


def shifted(rle: Record, box: Box, size_hw: tuple[int, int]) -> Record:
    """Return a tile's mask, compressed run lengths, as a mask of the image.

    Args:
        rle: of the tile's size.
        box: where in the image the tile lies.
        size_hw: rows and columns of the image.
    """
    runs = run_lengths(rle["counts"])
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    height = box.size_hw[0]
    # A run that goes on at the top of the next column does not do so in the image.
    first = starts // height
    columns = (ends - 1) // height - first + 1
    number = np.repeat(np.arange(len(starts)), columns)
    nth = np.arange(len(number)) - np.repeat(np.cumsum(columns) - columns, columns)
    column = first[number] + nth
    above = np.maximum(starts[number] - column * height, 0)
    below = np.minimum(ends[number] - column * height, height)
    top = (column + box.columns[0]) * size_hw[0] + box.rows[0]
    return _encoded(top + above, top + below, size_hw)


def rectangle(box: Box, size_hw: tuple[int, int]) -> Record:
    """Return the mask of all pixels of a box, as run lengths of the image's size."""
    tops = np.arange(*box.columns) * size_hw[0]
    return _encoded(tops + box.rows[0], tops + box.rows[1], size_hw)


def joined(
    found: Sequence[Sequence[Record]], boxes: Sequence[Box], size_hw: tuple[int, int]
) -> list[Record]:
    """Return the objects of an image, best first.

    Masks of one class from two tiles are one object if they agree on what both tiles see of it
    (`SAME_OBJECT`); chains of such pairs are one object too. It has all their pixels, and the best
    one's score.

    Args:
        found: the records of each tile, in the image's coordinates.
        boxes: of the tiles, in the order of `tiles_of`.
        size_hw: rows and columns of the image.

    Returns:
        The records, each with `tiles`, the numbers of those that saw it.
    """
    starts = np.cumsum([0, *map(len, found)])
    parent = list(range(int(starts[-1])))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second, both in neighbors(list(boxes)):
        here, there = (
            [(n, one) for n, one in enumerate(found[tile]) if shared(_box(one), both) is not None]
            for tile in (first, second)
        )
        for one, other in _same(here, there, rectangle(both, size_hw)):
            a, b = root(int(starts[first]) + one), root(int(starts[second]) + other)
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[tuple[int, Record]]] = {}
    every = [(tile, record) for tile, records in enumerate(found) for record in records]
    for number, part in enumerate(every):
        members.setdefault(root(number), []).append(part)
    objects = [_merged(parts) for parts in members.values()]
    return sorted(objects, key=lambda record: -record["score"])


def _same(
    here: list[tuple[int, Record]], there: list[tuple[int, Record]], strip: Record
) -> list[tuple[int, int]]:
    """Return the numbers of every two masks of one class that agree within the strip."""
    if not here or not there:
        return []
    parts = [
        [coco_mask.merge([record["segmentation"], strip], True) for _, record in some]
        for some in (here, there)
    ]
    overlap = coco_mask.iou(*parts, [0] * len(there))
    return [
        (here[row][0], there[column][0])
        for row, column in np.argwhere(overlap >= SAME_OBJECT)
        if here[row][1]["category_id"] == there[column][1]["category_id"]
    ]


def _merged(parts: list[tuple[int, Record]]) -> Record:
    """Return the record of an object of which each tile saw a part."""
    best = max((record for _, record in parts), key=lambda record: record["score"])
    rle = best["segmentation"]
    if len(parts) > 1:
        rle = as_text(coco_mask.merge([record["segmentation"] for _, record in parts]))
    return {**best, **measures(rle), "tiles": sorted({tile for tile, _ in parts})}


def suppressed(
    objects: Sequence[Record], boxes: Sequence[Box], iou: float
) -> tuple[list[Record], list[tuple[Record, Record]]]:
    """Return which objects stay, and each that goes with the one that it gives way to.

    As `paint.suppress` does within a tile; objects of one tile have been compared there. Slices of
    an object go too (`SLICE`).

    Args:
        objects: best first, with `tiles`.
        boxes: of the tiles.
        iou: an object that a better one overlaps by more goes, whatever its class.
    """
    kept: list[Record] = []
    gone: list[tuple[Record, Record]] = []
    by_tile: dict[int, list[int]] = {}
    for one in objects:
        touched = [n for n, box in enumerate(boxes) if shared(_box(one), box) is not None]
        near = sorted({number for tile in touched for number in by_tile.get(tile, ())})
        others = [kept[number] for number in near if _are_to_compare(one, kept[number])]
        winner = _winner(one, others, iou)
        if winner is not None:
            gone.append((one, winner))
            continue
        for tile in touched:
            by_tile.setdefault(tile, []).append(len(kept))
        kept.append(one)
    return kept, gone


def _are_to_compare(one: Record, other: Record) -> bool:
    in_one_tile = len(one["tiles"]) == 1 and one["tiles"] == other["tiles"]
    return not in_one_tile and shared(_box(one), _box(other)) is not None


def _winner(one: Record, others: list[Record], iou: float) -> Record | None:
    if not others:
        return None
    masks = [other["segmentation"] for other in others]
    # With "crowds" the library divides by the area of the first, and not of both.
    overlap, inside = (
        coco_mask.iou([one["segmentation"]], masks, [crowd] * len(masks))[0] for crowd in (0, 1)
    )
    for other, over, within in zip(others, overlap, inside, strict=True):
        of_smaller = within * one["area"] / max(1, min(one["area"], other["area"]))
        same = one["category_id"] == other["category_id"]
        if over > iou or (same and of_smaller > SLICE):
            return other
    return None


def _box(record: Record) -> Box:
    x, y, w, h = (int(value) for value in record["bbox"])
    return Box((y, y + h), (x, x + w))


def _encoded(starts: np.ndarray, ends: np.ndarray, size_hw: tuple[int, int]) -> Record:
    """Return runs, from and to, in order, as compressed run lengths; those that touch are one."""
    go_on = starts[1:] == ends[:-1]
    starts = starts[np.concatenate([[True], ~go_on])[: len(starts)]]
    ends = ends[np.concatenate([~go_on, [True]])[: len(ends)]]
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [size_hw[0] * size_hw[1]]])).tolist()
    counts = counts if counts[-1] else counts[:-1]
    return as_text(coco_mask.frPyObjects({"counts": counts, "size": list(size_hw)}, *size_hw))
