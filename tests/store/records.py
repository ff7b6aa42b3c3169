"""Records whose every value is their number, for tests of the store."""

import numpy as np

from usam_core.store.store import ShardRecord
from usam_core.types import ImageFile, MaskSet, Quarantined


def sha(number: int) -> str:
    return f"{number:064x}"


def good(number: int) -> ShardRecord:
    return ShardRecord(
        ImageFile(f"/{number}.png", sha(number)),
        MaskSet(
            tokens=np.full((2, 1024), number, np.float16),
            packed_masks=np.full((2, 4, 8, 1), number, np.uint8),
            predicted_iou=np.full((2, 4), number, np.float32),
            stability=np.full((2, 4), number, np.float32),
            points_xy=np.full((2, 2), number, np.float32),
            size_hw=(8, 8),
            features={"encoder": np.full((2, 4, 3), number, np.float16)},
        ),
    )


def bad(number: int) -> ShardRecord:
    return ShardRecord(ImageFile(f"/{number}.png", sha(number)), Quarantined("empty", "why"))
