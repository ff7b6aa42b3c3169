"""Masks as COCO's run lengths, and from them without painting a whole image for each."""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

_LOW = 5
"""Bits of a number that one character holds."""
_MAX = 7
"""Characters of the longest number that pycocotools counts to."""
_MORE, _SIGN = 0x20, 0x10


class Crop(NamedTuple):
    """The part of a mask that is not empty.

    Attributes:
        top: first row in the image.
        left: first column in the image.
        mask: bool (rows, columns); (0, 0) for an empty mask.
    """

    top: int
    left: int
    mask: np.ndarray


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool (h, w), as COCO's compressed RLE with a text `counts`."""
    rle = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Return bool (h, w) of what `encode` returned."""
    return coco_mask.decode(rle).astype(bool)


def run_lengths(counts: str) -> np.ndarray:
    """Return the lengths of the runs, int64, of COCO's compressed text; background comes first.

    Each number is written in characters of 5 bits, lowest first, and from the fourth on as its
    difference from the number two before it. Checked: pycocotools reads beyond a damaged end.

    Raises:
        ValueError: it is no such text, or a run is negative.

    >>> run_lengths("044").tolist()
    [0, 4, 4]
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("the RLE's counts are no text of COCO's")
    last = (codes & _MORE) == 0
    if not last[-1]:
        raise ValueError("the RLE's counts end within a run, or hold a negative one")
    first = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    sizes = np.diff(np.append(first, len(codes)))
    if sizes.max() > _MAX:
        raise ValueError("the RLE's counts are no text of COCO's")
    place = np.arange(len(codes)) - np.repeat(first, sizes)
    numbers = np.add.reduceat((codes & 0x1F) << (_LOW * place), first)
    negative = (codes[last] & _SIGN) != 0
    numbers[negative] -= np.int64(1) << (_LOW * sizes[negative])
    # From the fourth number on, what is written is the change since the one two before.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0:
        raise ValueError("the RLE's counts end within a run, or hold a negative one")
    return numbers


def pixels(rle: dict[str, Any]) -> np.ndarray:
    """Return the places of a mask's pixels, int64, counted down the columns of the image."""
    runs = run_lengths(rle["counts"])
    ends = np.cumsum(runs)
    starts, lengths = (ends - runs)[1::2], runs[1::2]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def crop(rle: dict[str, Any]) -> Crop:
    """Return the part of a mask that is not empty."""
    places = pixels(rle)
    if not len(places):
        return Crop(0, 0, np.zeros((0, 0), bool))
    columns, rows = np.divmod(places, rle["size"][0])
    top, left = int(rows.min()), int(columns[0])
    mask = np.zeros((int(rows.max()) - top + 1, int(columns[-1]) - left + 1), bool)
    mask[rows - top, columns - left] = True
    return Crop(top, left, mask)


def mask_record(mask: np.ndarray, category_id: int) -> dict[str, Any]:
    """Return the COCO annotation of a mask, bool (h, w), without its ids and without a score."""
    rle = encode(mask)
    return {
        "category_id": category_id,
        "segmentation": rle,
        "area": int(coco_mask.area(rle)),
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "iscrowd": 0,
    }
