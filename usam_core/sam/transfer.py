"""From the device to numpy, without making the device wait."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Columns = dict[str, Tensor]
"""What becomes of some images' mask sets, by name: tensors whose first axis are the images."""

_BITS = (128, 64, 32, 16, 8, 4, 2, 1)


def pack(masks: Tensor) -> Tensor:
    """Return masks with 8 columns a byte as `numpy.packbits` does, uint8 (..., b) of (..., v).

    On a CPU they stay bool: `land` packs them there, behind the loop.
    """
    if masks.device.type == "cpu":
        return masks
    weights = torch.tensor(_BITS, dtype=torch.uint8, device=masks.device)
    return (masks.unflatten(-1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)


def land(columns: Columns) -> Callable[[], list[dict[str, np.ndarray]]]:
    """Begin to copy columns to main memory.

    Returns:
        What waits for the copies and returns each image's values; any thread may call it.
    """
    first = next(iter(columns.values()))
    if first.device.type != "cuda":
        copies, arrived = {name: column.cpu() for name, column in columns.items()}, None
    else:
        copies = {
            name: torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(
                column, non_blocking=True
            )
            for name, column in columns.items()
        }
        arrived = torch.cuda.Event()
        arrived.record()

    def wait() -> list[dict[str, np.ndarray]]:
        if arrived is not None:
            arrived.synchronize()
        arrays = {name: _array(copy) for name, copy in copies.items()}
        return [{name: array[i] for name, array in arrays.items()} for i in range(len(first))]

    return wait


def _array(copy: Tensor) -> np.ndarray:
    array = copy.numpy()
    return np.packbits(array, axis=-1) if array.dtype == bool else array
