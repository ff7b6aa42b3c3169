"""Low-resolution masks: packing, the part of the frame that is image, and scaling up."""

import numpy as np
import torch
from torch.nn import functional


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return bool (..., u, v) of packed masks, uint8 (..., u, b)."""
    return np.unpackbits(packed, axis=-1).astype(bool)


def pack(masks: np.ndarray) -> np.ndarray:
    """Return uint8 (..., u, b) of masks, bool (..., u, v); v must be a multiple of 8."""
    return np.packbits(masks, axis=-1)


def valid_hw(size_hw: tuple[int, int], frame: int) -> tuple[int, int]:
    """Return how many rows and columns of a square frame hold the image.

    The longer side fills the frame, the shorter is rounded as SAM rounds it; at least 1.

    >>> valid_hw((375, 500), 256)
    (192, 256)
    """
    scale = frame / max(size_hw)
    rows, columns = (max(1, int(side * scale + 0.5)) for side in size_hw)
    return rows, columns


def areas(packed: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each packed mask, int64 (...)."""
    return np.bitwise_count(packed).sum(axis=(-2, -1), dtype=np.int64)


def upscale(packed: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bring low-resolution masks to the image's size.

    The image's part of the frame is cut out, scaled bilinearly, and cut at one half: borders come
    out smooth instead of in steps.

    Args:
        packed: uint8 (p, u, b).
        size_hw: rows and columns of the image.

    Returns:
        bool (p, h, w).
    """
    if not len(packed):
        return np.zeros((0, *size_hw), bool)
    rows, columns = valid_hw(size_hw, packed.shape[-2])
    part = unpack(packed)[:, :rows, :columns]
    scaled = functional.interpolate(
        torch.from_numpy(part.astype(np.float32))[:, None],
        size=size_hw,
        mode="bilinear",
        align_corners=False,
    )
    return (scaled[:, 0] >= 0.5).numpy()
