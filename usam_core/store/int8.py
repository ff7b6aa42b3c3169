"""Rows of numbers as one byte a number and a scale a row: half of float16, and it packs better.

The largest number of a row becomes 127 or -127; the others are off by at most 1/254 of it, and by
what float16 rounds off the scale: 1/2048 of a number, but up to 4e-6 in rows below 0.008
(docs/decisions/0017 says what that costs).
"""

import numpy as np

_LARGEST = 127
_FLOAT16 = float(np.finfo(np.float16).max)
_SCALE_BYTES = 2


def encode(values: np.ndarray) -> np.ndarray:
    """Return int8 (..., f + 2) of float16 (..., f): the numbers, then their scale's two bytes.

    A row that holds a number that is not finite comes back as NaN.
    """
    wide = values.astype(np.float32)
    scale = (np.abs(wide).max(axis=-1, keepdims=True) / _LARGEST).astype(np.float16)
    with np.errstate(invalid="ignore"):
        steps = np.nan_to_num(wide / np.where(scale > 0, scale, 1).astype(np.float32))
    whole = np.clip(np.rint(steps), -_LARGEST, _LARGEST).astype(np.int8)
    return np.concatenate([whole, scale.astype("<f2").view(np.int8)], axis=-1)


def decode(packed: np.ndarray) -> np.ndarray:
    """Return float16 (..., f) of what `encode` returned."""
    scale = np.ascontiguousarray(packed[..., -_SCALE_BYTES:]).view("<f2")
    whole = packed[..., :-_SCALE_BYTES].astype(np.float32)
    with np.errstate(invalid="ignore"):
        numbers = whole * scale.astype(np.float32)
        # A scale that was rounded up may reach beyond what float16 holds.
        return np.clip(numbers, -_FLOAT16, _FLOAT16).astype(np.float16)
