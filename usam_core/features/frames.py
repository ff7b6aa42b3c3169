"""Pictures as an encoder sees them: scaled to whole patches, normalised, in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from usam_core.features.families import Normalization

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
    """Yield `call` of each item; a batch for which memory runs out is halved.

    Args:
        call: takes some items and returns a tensor with a row for each.
        items: any number.
        size: how many to give at a time.
    """
    start = 0
    while start < len(items):
        some = items[start : start + size]
        try:
            found = call(some)
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
            torch.cuda.empty_cache()
            size = len(some) // 2
            continue
        yield from found
        start += len(some)
