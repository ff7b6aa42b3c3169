"""Closes small holes of masks and label maps, and drops small islands."""

import numpy as np
from scipy import ndimage


def tidy_mask(mask: np.ndarray, share: float) -> np.ndarray:
    """Drop islands and close holes of a mask, bool (h, w), in place; return it.

    Islands are parts that touch the others nowhere, holes are parts of its outside that do not
    reach its box (SAM's `min_mask_region_area`, but by the mask's own size).

    Args:
        mask: one mask.
        share: parts and holes smaller than this share of the mask's area go. The largest part
            stays.
    """
    box = _box(mask)
    if not share or box is None:
        return mask
    inside = mask[box]
    parts, count = ndimage.label(inside)
    if count > 1:
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        small = areas < share * areas.sum()
        small[[0, int(areas.argmax())]] = False
        inside[small[parts]] = False
    least = share * np.count_nonzero(inside)
    parts, count = ndimage.label(~np.pad(inside, 1))
    if count > 1:
        small = np.bincount(parts.ravel()) < least
        small[[0, int(parts[0, 0])]] = False
        inside |= small[parts[1:-1, 1:-1]]
    return mask


def tidy_labels(labels: np.ndarray, least: float) -> np.ndarray:
    """Give regions of a label map, integers (h, w), smaller than `least` pixels to what is around.

    A region is one of pixels of a label that touch by a side; background has regions too. Each goes
    to the label that borders on it most, but not to another small region. Changed in place.
    """
    small = np.zeros(labels.shape, bool)
    if least <= 1:
        return labels
    for label in np.flatnonzero(np.bincount(labels.ravel())).tolist():
        mine = labels == label
        box = _box(mine)
        assert box is not None
        parts, _ = ndimage.label(mine[box])
        few = np.bincount(parts.ravel()) < least
        few[0] = False
        if few.any():
            small[box] |= few[parts]
    if small.all() or not small.any():
        return labels
    groups, _ = ndimage.label(small)
    h, w = labels.shape
    for number, (down, across) in enumerate(ndimage.find_objects(groups), start=1):
        place = (
            slice(max(0, down.start - 1), min(h, down.stop + 1)),
            slice(max(0, across.start - 1), min(w, across.stop + 1)),
        )
        group = groups[place] == number
        around = ndimage.binary_dilation(group) & ~group
        values, counts = np.unique(labels[place][around], return_counts=True)
        labels[place][group] = values[counts.argmax()]
    return labels


def _box(mask: np.ndarray) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
