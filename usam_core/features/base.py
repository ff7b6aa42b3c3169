"""The seam between an encoder of region features and the store that keeps what it says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from usam_core.masks.bits import pack, unpack, valid_hw
from usam_core.types import MaskSet


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
        """Return float16 (d, m, f) of each image.

        Args:
            images: uint8 (h, w, 3) each, RGB, of any sizes.
            mask_sets: what SAM said of each; only the masks and points are read.
        """
        ...


_AT_ONCE = 256  # masks whose pixels are in memory: 64 MiB of float32 with SAM's frame of 256


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
        """Return p, the number of regions."""
        return len(self.packed)

    @property
    def scale(self) -> float:
        """Return how many pixels of the image one of the frame is."""
        return max(self.size_hw) / self.packed.shape[-2]

    def mask(self, number: int) -> np.ndarray:
        """Return one region, bool, of the frame's part that is image."""
        rows, columns = self.valid_hw
        return unpack(self.packed[number])[:rows, :columns]

    def shares(self) -> np.ndarray:
        """Return each region's share of the image, float64 (p,)."""
        rows, columns = self.valid_hw
        return np.bitwise_count(self.packed).sum((1, 2), dtype=np.int64) / (rows * columns)


def find_regions(masks: MaskSet) -> Regions:
    """Return the different masks of an image.

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

    A region smaller than a cell still reads its own cell, in part of its neighbours'.

    Yields:
        float32 (some, rows * columns), each row summing to 1, in the order of the regions.
    """
    rows, columns = regions.valid_hw
    for start in range(0, len(regions), _AT_ONCE):
        part = unpack(regions.packed[start : start + _AT_ONCE])[:, :rows, :columns]
        yield normalized(torch.from_numpy(part), grid_hw)


def normalized(masks: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return float32 (p, rows * columns) of masks (p, height, width), each row summing to 1."""
    cells = functional.adaptive_avg_pool2d(masks.float()[:, None], grid_hw).flatten(1)
    return cells / cells.sum(1, keepdim=True)


def _pixel(point_xy: np.ndarray, valid: tuple[int, int], frame_hw: tuple[int, int]) -> np.ndarray:
    rows, columns = valid
    mask = np.zeros(frame_hw, bool)
    column, row = (point_xy * [columns, rows]).astype(int)
    mask[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return pack(mask)
