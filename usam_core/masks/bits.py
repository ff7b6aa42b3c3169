"""Low-resolution masks: packing, the part of the frame that is image, and scaling up."""

import functools
import math
from dataclasses import dataclass

import numpy as np

_WORD = 8


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
    return np.bitwise_count(words(packed)).sum(axis=-1, dtype=np.int64)


def words(packed: np.ndarray) -> np.ndarray:
    """Return packed masks eight bytes at a time, uint64 (..., words); 0 fills up the last word."""
    flat = packed.reshape(*packed.shape[:-2], packed.shape[-2] * packed.shape[-1])
    short = -flat.shape[-1] % _WORD
    if short:
        flat = np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, short)])
    return np.ascontiguousarray(flat).view(np.uint64)


def upscale(packed: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bring low-resolution masks, uint8 (p, u, b), to the image's size: bool (p, h, w).

    The image's part of the frame is cut out, scaled bilinearly, and cut at one half: borders come
    out smooth instead of in steps. Each mask lies column by column, as run-length encoding reads
    it.
    """
    full = np.zeros((len(packed), *size_hw[::-1]), bool).swapaxes(1, 2)
    rows, columns = valid_hw(size_hw, packed.shape[-2])
    for mask, target in zip(unpack(packed)[:, :rows, :columns], full, strict=True):
        place, values = upscale_part(mask.astype(np.float32), size_hw)
        np.greater_equal(values, 0.5, out=target[place])
    return full


def upscale_part(
    values: np.ndarray, size_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Scale values bilinearly to the image's size, but only where they are not 0.

    As `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` but for rounding (a
    pixel at one half exactly may fall either way), in a time that goes with the area of what
    there is to scale.

    Args:
        values: float32 (rows, columns), at most as many as the image has, or more.
        size_hw: rows and columns of the image.

    Returns:
        Where in the image the part lies (nothing else is above 0), and the part, float32.
    """
    filled = values != 0
    down = Reach.of(filled.any(axis=1), size_hw[0])
    across = Reach.of(filled.any(axis=0), size_hw[1])
    wider = down.scale(values[down.source, across.source])
    scaled = across.scale(np.ascontiguousarray(wider.T)).T
    return (down.target, across.target), scaled


@dataclass(frozen=True, slots=True)
class Reach:
    """Along one axis: the stretch that is not 0, and what it reaches once it is scaled.

    Attributes:
        source: the stretch.
        target: what it reaches.
        sides: length of the axis before and after.
    """

    source: slice
    target: slice
    sides: tuple[int, int]

    @classmethod
    def of(cls, filled: np.ndarray, after: int) -> "Reach":
        """Find the stretch from bool (before,), where anything is."""
        where = np.flatnonzero(filled)
        sides = (len(filled), after)
        if not len(where):
            return cls(slice(0, 0), slice(0, 0), sides)
        first, end = int(where[0]), int(where[-1]) + 1
        scale = len(filled) / after
        low = max(0, math.floor((first - 0.5) / scale - 0.5))
        high = min(after, math.ceil((end + 0.5) / scale + 0.5))
        return cls(slice(first, end), slice(low, high), sides)

    def scale(self, part: np.ndarray) -> np.ndarray:
        """Return float32 (target, ...) of the stretch, float32 (source, ...)."""
        low, high, share = (one[self.target] for one in _between(*self.sides))
        # A row of zeros before and behind stands for all that is not in the stretch.
        rows = np.zeros((len(part) + 2, *part.shape[1:]), np.float32)
        rows[1:-1] = part
        least, most = self.source.start - 1, self.source.stop
        scaled = rows.take(np.clip(high, least, most) - least, axis=0)
        lower = rows.take(np.clip(low, least, most) - least, axis=0)
        scaled -= lower
        scaled *= share[:, None]
        scaled += lower
        return scaled


@functools.lru_cache(maxsize=8)
def _between(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each place along an axis the two values it lies between, and how far, 0 to 1.

    int64 (after,) twice, float32 (after,).
    """
    at = np.maximum((np.arange(after) + 0.5) * (before / after) - 0.5, 0)
    low = np.minimum(at.astype(int), before - 1)
    high = np.minimum(low + 1, before - 1)
    return low, high, (at - low).astype(np.float32)
