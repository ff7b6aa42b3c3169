"""How masks overlap, counted on packed bits at low resolution."""

import numpy as np

from usam_core.masks.bits import areas, words


class Overlaps:
    """Compares masks one with many, eight bytes at a time.

    Args:
        packed: uint8 (p, u, b).
    """

    def __init__(self, packed: np.ndarray) -> None:
        self._words = words(packed)
        self._area = areas(packed)

    def __call__(self, one: int, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the IoU of one mask with others, and how much of the smaller lies in the other.

        Args:
            one: number of the mask.
            others: int64 (q,), numbers of the others.

        Returns:
            Two float64 (q,), 0 to 1; an empty mask overlaps nothing, not even itself.
        """
        shared = np.bitwise_count(self._words[others] & self._words[one]).sum(axis=1, dtype=int)
        area = self._area[others]
        union = area + self._area[one] - shared
        smaller = np.minimum(area, self._area[one])
        return shared / np.maximum(union, 1), shared / np.maximum(smaller, 1)
