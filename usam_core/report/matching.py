"""Which instances of an image are in another run too: by class and box, as masks are not kept."""

import numpy as np

from usam_core.report.tables import BOX, RunTables

MIN_IOU = 0.5
"""Two instances of one class whose boxes overlap so much are the same thing."""


class ByImage:
    """Rows of a table that is sorted by image, found without a search.

    Args:
        tables: of a run.
        name: `instances` or `cover`.
        columns: the columns wanted.
    """

    def __init__(self, tables: RunTables, name: str, columns: list[str]) -> None:
        frame = getattr(tables, name)
        self._starts = np.searchsorted(frame["image"], np.arange(len(tables.images) + 1))
        self._values = frame[columns].to_numpy(np.float64)

    def __call__(self, number: int) -> np.ndarray:
        """Return the rows of an image, float64 (rows, columns)."""
        return self._values[self._starts[number] : self._starts[number + 1]]


def instances_by_image(tables: RunTables) -> ByImage:
    """Return label and box (x, y, w, h) of each instance, by image."""
    return ByImage(tables, "instances", ["label", *BOX])


def unmatched(found: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the labels of instances without a counterpart, int64 (k,); a pair is used once.

    Args:
        found: float64 (p, 5), label and box of each.
        others: float64 (q, 5), those of the other run.
    """
    labels = found[:, 0].astype(np.int64)
    overlap = _box_iou(found[:, 1:], others[:, 1:])
    overlap[labels[:, None] != others[None, :, 0]] = 0
    left = np.ones(len(labels), bool)
    for _ in range(min(overlap.shape)):
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        if overlap[row, column] < MIN_IOU:
            break
        left[row] = False
        overlap[row], overlap[:, column] = 0, 0
    return labels[left]


def _box_iou(found: np.ndarray, others: np.ndarray) -> np.ndarray:
    a, b = found[:, None], others[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    return shared / np.maximum(a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared, 1e-9)
