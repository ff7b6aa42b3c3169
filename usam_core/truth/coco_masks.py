"""COCO's segmentations, checked before pycocotools sees them: it trusts every byte."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from usam_core.masks.rle import run_lengths

_MIN = 6
"""Numbers of a polygon: three points."""


def read_mask(segmentation: object, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return a segmentation as COCO's compressed RLE.

    A polygon of fewer than three points beside a whole one covers nothing and is passed over.

    Args:
        segmentation: polygons, or an RLE, compressed or not.
        size_hw: rows and columns of the image.

    Raises:
        ValueError: it cannot be meant; the message says what is wrong with it.
    """
    if segmentation is None or segmentation in ([], {}, ""):
        raise ValueError("the segmentation is empty")
    if isinstance(segmentation, dict):
        rle = _from_runs(segmentation, size_hw)
    elif isinstance(segmentation, list):
        rle = _from_polygons(segmentation, size_hw)
    else:
        raise ValueError("the segmentation is neither polygons nor an RLE")
    if not coco_mask.area(rle):
        raise ValueError("the segmentation covers no pixel")
    return rle


def _from_polygons(polygons: list[Any], size_hw: tuple[int, int]) -> dict[str, Any]:
    # Along an edge, pycocotools lays out every pixel, however far outside.
    reach = 2 * max(size_hw)
    good = []
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError("the segmentation is no list of polygons, each a list of x, y, ...")
        numbers = np.asarray(polygon) if all(map(_is_number, polygon)) else np.array(None)
        if numbers.dtype.kind not in "iuf":
            raise ValueError("a polygon holds other things than numbers")
        if len(numbers) % 2:
            raise ValueError("a polygon has an odd count of coordinates")
        if not np.isfinite(numbers).all():
            raise ValueError("a polygon holds coordinates that are not finite")
        if len(numbers) and np.abs(numbers).max() > reach:
            raise ValueError("a polygon lies far outside its image")
        if len(numbers) >= _MIN:
            good.append(numbers.astype(float).tolist())
    if not good:
        raise ValueError("a polygon has fewer than 3 points")
    return coco_mask.merge(coco_mask.frPyObjects(good, *size_hw))


def _from_runs(rle: dict[str, Any], size_hw: tuple[int, int]) -> dict[str, Any]:
    size, counts = rle.get("size"), rle.get("counts")
    if size != list(size_hw):
        if size == list(size_hw)[::-1]:
            raise ValueError("the RLE's size is [width, height] in place of [height, width]")
        raise ValueError("the RLE's size is not its image's [height, width]")
    if isinstance(counts, str):
        runs = run_lengths(counts).tolist()
    elif isinstance(counts, list) and all(_is_number(run) and run == run // 1 for run in counts):
        runs = [int(run) for run in counts]
    else:
        raise ValueError("the RLE's counts are neither text nor a list of whole numbers")
    if min(runs, default=0) < 0 or sum(runs) != size_hw[0] * size_hw[1]:
        raise ValueError("the RLE's runs do not fill its image")
    return coco_mask.frPyObjects({"size": list(size_hw), "counts": runs}, *size_hw)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
