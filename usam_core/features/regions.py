"""The masks of an image as an encoder sees them: once each, on its grid of patches, or from near.

A crop is a square around the mask's box with a tenth of its longer side on every side. What lies
around the mask stays visible: CLIP was trained on pictures with surroundings, and does worse on
cut-out objects unless it is trained for them (OVSeg, arXiv 2210.04150). The square is moved into
the picture; where the picture is narrower, the rest is the model's mean color. So all crops have
one shape, no object is stretched, and a batch holds crops of any masks.

`masked_pixels` is the papers' SAM+CLIP (GranSAM, supplement 3.1): the mask times the picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from usam_core.features.model import Normalization
from usam_core.masks.bits import pack, unpack, valid_hw
from usam_core.sam.embedder import Limit
from usam_core.types import MaskSet

Item = TypeVar("Item")

CONTEXT = 0.1
"""Of the box's longer side, added on each side."""
SMALLEST = 1 / 16
"""Side of the smallest crop, as a share of the picture's longer side: less is only blur."""
_AT_ONCE = 256  # masks whose pixels are in memory: 64 MiB of float32 with SAM's frame of 256


class RegionEncoder(Protocol):
    """Gives every mask of an image a vector.

    Attributes:
        spec: what identifies its numbers: family, weights, sizes, pooling, revision of the code.
            A JSON object; together with the store's own fingerprint it names the block.
        width: f, the length of a vector.
        batch_size: how many images to give at a time.
    """

    spec: dict[str, Any]
    width: int
    batch_size: int

    def describe(
        self, images: Sequence[np.ndarray], mask_sets: Sequence[MaskSet]
    ) -> list[np.ndarray]:
        """float16 (d, m, f) of each image, uint8 (h, w, 3), RGB, of any size.

        Of the mask sets only the masks and points are read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Regions:
    """The different masks of one image.

    Attributes:
        packed: uint8 (p, u, b), in SAM's low-resolution frame; none is empty.
        which: int64 (d, m), the region of each mask.
        valid_hw: the part of the frame that is image.
        size_hw: rows and columns of the image, pixels.
    """

    packed: np.ndarray
    which: np.ndarray
    valid_hw: tuple[int, int]
    size_hw: tuple[int, int]

    def __len__(self) -> int:
        """p, the number of regions."""
        return len(self.packed)

    @property
    def scale(self) -> float:
        """How many pixels of the image one of the frame is."""
        return max(self.size_hw) / self.packed.shape[-2]

    def mask(self, number: int) -> np.ndarray:
        """One region, bool, of the frame's part that is image."""
        rows, columns = self.valid_hw
        return unpack(self.packed[number])[:rows, :columns]

    def shares(self) -> np.ndarray:
        """Each region's share of the image, float64 (p,)."""
        rows, columns = self.valid_hw
        return np.bitwise_count(self.packed).sum((1, 2), dtype=np.int64) / (rows * columns)


def find_regions(masks: MaskSet) -> Regions:
    """Find the different masks of an image.

    Masks that are equal to the pixel are described once; few are, so this saves little. An empty
    mask becomes the pixel at its point.
    """
    d, m, u, b = masks.packed_masks.shape
    rows, columns = valid_hw(masks.size_hw, u)
    flat = masks.packed_masks.reshape(d * m, u, b)
    numbers: dict[bytes, int] = {}
    packed: list[np.ndarray] = []
    which = np.empty(d * m, np.int64)
    for i, mask in enumerate(flat):
        if not mask.any():
            mask = _pixel(masks.points_xy[i // m], (rows, columns), (u, 8 * b))
        key = mask.tobytes()
        if key not in numbers:
            numbers[key] = len(packed)
            packed.append(mask)
        which[i] = numbers[key]
    stacked = np.stack(packed) if packed else flat
    return Regions(stacked, which.reshape(d, m), (rows, columns), masks.size_hw)


def weights_on_grid(regions: Regions, grid_hw: tuple[int, int]) -> Iterator[Tensor]:
    """Yield how much of each region lies in each cell of a grid over the image.

    A region smaller than a cell still reads its own cell, in part of its neighbors'.

    Yields:
        float32 (some, rows * columns), each row summing to 1, in the order of the regions.
    """
    rows, columns = regions.valid_hw
    for start in range(0, len(regions), _AT_ONCE):
        part = unpack(regions.packed[start : start + _AT_ONCE])[:, :rows, :columns]
        yield normalized(torch.from_numpy(part), grid_hw)


def normalized(masks: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Masks (p, height, width) as float32 (p, rows * columns), each row summing to 1."""
    cells = functional.adaptive_avg_pool2d(masks.float()[:, None], grid_hw).flatten(1)
    return cells / cells.sum(1, keepdim=True)


def _pixel(point_xy: np.ndarray, valid: tuple[int, int], frame_hw: tuple[int, int]) -> np.ndarray:
    rows, columns = valid
    mask = np.zeros(frame_hw, bool)
    column, row = (point_xy * [columns, rows]).astype(int)
    mask[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return pack(mask)


def grid_of(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Rows and columns of patches for a picture: its shape, to half a patch.

    >>> grid_of((375, 500), 37)
    (28, 37)
    """
    scale = longest / max(size_hw)
    rows, columns = (max(1, round(side * scale)) for side in size_hw)
    return rows, columns


def scaled(image: np.ndarray, size_hw: tuple[int, int], resample: int) -> np.ndarray:
    """A picture at another size, uint8 (height, width, 3)."""
    height, width = size_hw
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def normalized_pixels(images: Sequence[np.ndarray], how: Normalization) -> Tensor:
    """uint8 pictures (height, width, 3) of one size as float32 (n, 3, height, width)."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.std))
    return ((pixels - mean) / std).contiguous()


def in_batches(
    call: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], size: int
) -> Iterator[Tensor]:
    """Yield `call` of each item, in equal batches; one for which memory runs out is halved.

    `call` takes some items, at most `size`, and returns a tensor with a row for each.
    """
    for rows in Limit("regions", size).run(lambda a, b: call(items[a:b]), len(items)):
        yield from rows


@dataclass(frozen=True, slots=True)
class Crop:
    """A square around a region, pixels of the picture.

    `box` is left, top, right, bottom of its part inside the picture.
    """

    box: tuple[float, float, float, float]
    side: float


def crop_of(regions: Regions, number: int) -> Crop:
    """The square around a region."""
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
    """A crop, float32 (3, size, size), normalized; outside the picture it is 0."""
    rows, columns = _inside(crop, size)
    part = Image.fromarray(image).resize(
        (columns.stop - columns.start, rows.stop - rows.start), how.resample, box=crop.box
    )
    pixels = torch.zeros(3, size, size)
    pixels[:, rows, columns] = normalized_pixels([np.asarray(part)], how)[0]
    return pixels


def crop_mask(regions: Regions, number: int, crop: Crop, size: int) -> Tensor:
    """How much of each pixel of a crop the region covers, float32 (size, size)."""
    rows, columns = _inside(crop, size)
    mask = Image.fromarray(regions.mask(number).astype(np.float32))
    # The frame's part that is image is rounded: what it lost at the border is not asked for.
    limits = (*mask.size, *mask.size)
    box = [min(v / regions.scale, limit) for v, limit in zip(crop.box, limits, strict=True)]
    size_xy = (columns.stop - columns.start, rows.stop - rows.start)
    part = mask.resize(size_xy, Image.Resampling.BILINEAR, box=(box[0], box[1], box[2], box[3]))
    covered = torch.zeros(size, size)
    covered[rows, columns] = torch.from_numpy(np.asarray(part).copy())
    return covered


def masked_pixels(image: np.ndarray, masks: Tensor, how: Normalization) -> Tensor:
    """A picture for each mask, black outside of it, float32 (p, 3, height, width).

    Image, uint8 (height, width, 3), and masks, bool (p, height, width), have the encoder's size.
    """
    seen, black = normalized_pixels([image, np.zeros_like(image)], how)
    return torch.where(masks[:, None], seen, black)


def masks_at(regions: Regions, numbers: list[int], size_hw: tuple[int, int]) -> Tensor:
    """Some regions at a picture's size, bool (p, height, width)."""
    masks = torch.from_numpy(np.stack([regions.mask(number) for number in numbers]))
    if masks.shape[1:] == size_hw:
        return masks
    smooth = functional.interpolate(masks.float()[:, None], size_hw, mode="bilinear")[:, 0]
    return smooth >= 0.5


def _placed(center: float, side: float, length: int) -> tuple[float, float]:
    """Where a square begins and ends along an axis, moved into the picture or cut by it."""
    if side >= length:
        return 0.0, float(length)
    start = min(max(center - side / 2, 0.0), length - side)
    return start, start + side


def _inside(crop: Crop, size: int) -> tuple[slice, slice]:
    """Which rows and columns of a crop's pixels are picture; the rest lies on both sides."""
    left, top, right, bottom = crop.box
    slices = []
    for extent in (bottom - top, right - left):
        pixels = min(size, max(1, round(extent / crop.side * size)))
        start = (size - pixels) // 2
        slices.append(slice(start, start + pixels))
    return slices[0], slices[1]
