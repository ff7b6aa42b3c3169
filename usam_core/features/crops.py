"""A mask seen from near: its own box of the picture, or the picture with all else black.

A crop is a square around the mask's box with a tenth of its longer side on every side. What lies
around the mask stays visible: CLIP was trained on pictures with surroundings, and does worse on
cut-out objects unless it is trained for them (OVSeg, arXiv 2210.04150). The square is moved into
the picture; where the picture is narrower, the rest is the model's mean colour. So all crops have
one shape, no object is stretched, and a batch holds crops of any masks.

`masked_image` is the papers' SAM+CLIP (GranSAM, supplement 3.1): the mask times the picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from usam_core.features.base import Regions
from usam_core.features.families import Normalization
from usam_core.sam.batches import Limit

Item = TypeVar("Item")


def grid_of(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return rows and columns of patches for a picture: its shape, to half a patch.

    >>> grid_of((375, 500), 37)
    (28, 37)
    """
    scale = longest / max(size_hw)
    rows, columns = (max(1, round(side * scale)) for side in size_hw)
    return rows, columns


def scaled(image: np.ndarray, size_hw: tuple[int, int], resample: int) -> np.ndarray:
    """Return uint8 (height, width, 3) of a picture at another size."""
    height, width = size_hw
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def normalized_pixels(images: Sequence[np.ndarray], how: Normalization) -> Tensor:
    """Return float32 (n, 3, height, width) of uint8 pictures (height, width, 3) of one size."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.std))
    return ((pixels - mean) / std).contiguous()


def in_batches(
    call: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], size: int
) -> Iterator[Tensor]:
    """Yield `call` of each item, in equal batches; one for which memory runs out is halved.

    Args:
        call: takes some items and returns a tensor with a row for each.
        items: any number.
        size: how many to give at a time, at most.
    """
    batches = Limit("regions", size)
    for found in batches.run(lambda start, stop: call(items[start:stop]), len(items)):
        yield from found


CONTEXT = 0.1
"""Of the box's longer side, added on each side."""

SMALLEST = 1 / 16
"""Side of the smallest crop, as a share of the picture's longer side: less is only blur."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square around a region.

    Attributes:
        box: left, top, right, bottom of its part inside the picture, pixels of the picture.
        side: of the square, pixels of the picture.
    """

    box: tuple[float, float, float, float]
    side: float


def crop_of(regions: Regions, number: int) -> Crop:
    """Return the square around a region."""
    mask = regions.mask(number)
    height, width = regions.size_hw
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * regions.scale
    longer = max(edges[2] - edges[0], edges[3] - edges[1])
    side = max(longer * (1 + 2 * CONTEXT), SMALLEST * max(height, width))
    left, right = _placed((edges[0] + edges[2]) / 2, side, width)
    top, bottom = _placed((edges[1] + edges[3]) / 2, side, height)
    return Crop((left, top, right, bottom), side)


def crop_pixels(image: np.ndarray, crop: Crop, size: int, how: Normalization) -> Tensor:
    """Return float32 (3, size, size) of a crop, normalised; outside the picture it is 0."""
    rows, columns = _inside(crop, size)
    part = Image.fromarray(image).resize(
        (columns.stop - columns.start, rows.stop - rows.start), how.resample, box=crop.box
    )
    pixels = torch.zeros(3, size, size)
    pixels[:, rows, columns] = normalized_pixels([np.asarray(part)], how)[0]
    return pixels


def crop_mask(regions: Regions, number: int, crop: Crop, size: int) -> Tensor:
    """Return float32 (size, size), how much of each pixel of a crop the region covers."""
    rows, columns = _inside(crop, size)
    mask = Image.fromarray(regions.mask(number).astype(np.float32))
    # The frame's part that is image is rounded: what it lost at the border is not asked for.
    limits = (*mask.size, *mask.size)
    left, top, right, bottom = (
        min(v / regions.scale, limit) for v, limit in zip(crop.box, limits, strict=True)
    )
    part = mask.resize(
        (columns.stop - columns.start, rows.stop - rows.start),
        Image.Resampling.BILINEAR,
        box=(left, top, right, bottom),
    )
    covered = torch.zeros(size, size)
    covered[rows, columns] = torch.from_numpy(np.asarray(part).copy())
    return covered


def masked_pixels(image: np.ndarray, masks: Tensor, how: Normalization) -> Tensor:
    """Return float32 (p, 3, height, width): a picture for each mask, black outside of it.

    Args:
        image: uint8 (height, width, 3), at the encoder's size.
        masks: bool (p, height, width).
    """
    seen, black = normalized_pixels([image, np.zeros_like(image)], how)
    return torch.where(masks[:, None], seen, black)


def masks_at(regions: Regions, numbers: list[int], size_hw: tuple[int, int]) -> Tensor:
    """Return bool (p, height, width) of some regions at a picture's size."""
    masks = torch.from_numpy(np.stack([regions.mask(number) for number in numbers]))
    if masks.shape[1:] == size_hw:
        return masks
    smooth = functional.interpolate(masks.float()[:, None], size_hw, mode="bilinear")[:, 0]
    return smooth >= 0.5


def _placed(center: float, side: float, length: int) -> tuple[float, float]:
    """Return where a square begins and ends along an axis, moved into the picture or cut by it."""
    if side >= length:
        return 0.0, float(length)
    start = min(max(center - side / 2, 0.0), length - side)
    return start, start + side


def _inside(crop: Crop, size: int) -> tuple[slice, slice]:
    """Return which rows and columns of a crop's pixels are picture; the rest lies on both sides."""
    left, top, right, bottom = crop.box
    slices = []
    for extent in (bottom - top, right - left):
        pixels = min(size, max(1, round(extent / crop.side * size)))
        start = (size - pixels) // 2
        slices.append(slice(start, start + pixels))
    return slices[0], slices[1]
