"""Closes small holes of masks and label maps, and drops small islands.

Both are regions of one value; they are found from the runs of the columns, of which there are far
fewer than pixels.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class _Regions(NamedTuple):
    """Parts of a map whose pixels have one value and touch by a side.

    Attributes:
        values: integers (n,), of each run.
        lengths: int64 (n,), pixels of each run.
        region: int64 (n,), of each run, from 0.
        areas: int64 (r,), pixels of each region.
        pairs: int64 (2, k), runs that touch and have different values.
        sides: int64 (k,), by how many sides.
    """

    values: np.ndarray
    lengths: np.ndarray
    region: np.ndarray
    areas: np.ndarray
    pairs: np.ndarray
    sides: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray) -> "_Regions":
        """Find them in integers or bool (w, h), column by column."""
        w, h = columns.shape
        begins = np.ones((w, h), bool)
        np.not_equal(columns[:, 1:], columns[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        ends = np.append(starts[1:], w * h)
        values = columns.ravel()[starts]
        # Each run and those that it touches in the next column.
        left = np.flatnonzero(starts < (w - 1) * h)
        first = np.searchsorted(starts, starts[left] + h, "right") - 1
        count = np.searchsorted(starts, ends[left] + h) - first
        one = np.repeat(left, count)
        other = np.arange(len(one)) + np.repeat(first - np.cumsum(count) + count, count)
        shared = np.minimum(ends[one] + h, ends[other]) - np.maximum(starts[one] + h, starts[other])
        same = values[one] == values[other]
        size = len(starts)
        graph = coo_array((np.ones(int(same.sum())), (one[same], other[same])), (size, size))
        _, region = connected_components(graph, directed=False)
        above = np.flatnonzero(starts[1:] % h)  # touches the next run in its own column
        pairs = np.stack([np.append(one[~same], above), np.append(other[~same], above + 1)])
        sides = np.append(shared[~same], np.ones(len(above), np.int64))
        lengths = ends - starts
        areas = np.bincount(region, weights=lengths).astype(np.int64)
        return cls(values, lengths, region, areas, pairs, sides)


def tidy_mask(mask: np.ndarray, share: float) -> np.ndarray:
    """Drop islands and close holes of a mask, bool (h, w), in place; return it.

    Islands are parts that touch the others by no side, holes are parts of what lies around it that
    do not reach its box (SAM's `min_mask_region_area`, but by the mask's own size).

    Args:
        mask: one mask.
        share: parts and holes smaller than this share of the mask's area go. The largest part
            stays.
    """
    box = _box(mask)
    if not share or box is None:
        return mask
    inside = np.pad(mask[box].T, 1)
    found = _Regions.of(inside)
    if len(found.areas) == 2:
        return mask
    filled = np.zeros(len(found.areas), bool)
    filled[found.region] = found.values
    small = found.areas < share * np.count_nonzero(inside)
    small[[found.region[0], int(np.where(filled, found.areas, 0).argmax())]] = False
    if small.any():
        turned = found.values ^ small[found.region]
        mask[box] = np.repeat(turned, found.lengths).reshape(inside.shape)[1:-1, 1:-1].T
    return mask


def tidy_labels(labels: np.ndarray, least: float) -> np.ndarray:
    """Give regions of a label map, integers (h, w), smaller than `least` pixels to what is around.

    A region is one of pixels of a label that touch by a side; background has regions too. Each goes
    to the label that borders on it by most sides, small regions not counted. Changed in place.
    """
    if least <= 1:
        return labels
    found = _Regions.of(np.ascontiguousarray(labels.T))
    small = found.areas < least
    if small.all() or not small.any():
        return labels
    kinds, kind_of = np.unique(found.values, return_inverse=True)
    kind = np.zeros(len(found.areas), np.int64)
    kind[found.region] = kind_of
    one, other = found.region[np.concatenate([found.pairs, found.pairs[::-1]], axis=1)]
    sides = np.append(found.sides, found.sides)
    while small.any():
        ready = small[one] & ~small[other]
        votes = np.bincount(
            one[ready] * len(kinds) + kind[other[ready]],
            weights=sides[ready],
            minlength=len(small) * len(kinds),
        ).reshape(-1, len(kinds))
        settled = votes.any(axis=1)
        kind[settled] = votes[settled].argmax(axis=1)
        small[settled] = False
    values = kinds[kind[found.region]]
    labels[...] = np.repeat(values, found.lengths).reshape(labels.shape[::-1]).T
    return labels


def _box(mask: np.ndarray) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
