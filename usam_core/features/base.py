"""The seam between an encoder of region features and the store that keeps what it says."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

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
