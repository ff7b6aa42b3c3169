"""Which masks stay, and the label map that they make."""

import numpy as np

from usam_core.config.training import label_dtype
from usam_core.masks.bits import areas, unpack, upscale_part, valid_hw, words
from usam_core.types import Instances


class Overlaps:
    """Compares packed masks, uint8 (p, u, b), one with many, eight bytes at a time."""

    def __init__(self, packed: np.ndarray) -> None:
        self._words = words(packed)
        self._area = areas(packed)

    def __call__(self, one: int, others: np.ndarray) -> np.ndarray:
        """Return the IoU of mask `one` with `others`, int64 (q,): float64 (q,), 0 to 1.

        An empty mask overlaps nothing, not even itself.
        """
        shared = np.bitwise_count(self._words[others] & self._words[one]).sum(axis=1, dtype=int)
        union = self._area[others] + self._area[one] - shared
        return shared / np.maximum(union, 1)


def suppress(packed: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Return which masks stay, best first, int64 (p',): greedy non-maximum suppression.

    A mask is dropped when a better one overlaps it by more than `iou`, whatever its class: one
    thing has one name.

    Args:
        packed: uint8 (p, u, b).
        scores: float32 (p,); ties go to the first.
        iou: 0 to 1; 1 drops nothing.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = Overlaps(packed[order])
    kept, left = [], np.arange(len(order))
    while len(left):
        # Only with masks that stay, and only of masks that still may: a tenth of all pairs.
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlaps(best, left) <= iou]
    return order[kept]


def paint(instances: Instances, classes: int) -> np.ndarray:
    """Return the label map, uint8 (h, w), or uint16 from 255 classes on.

    0 is background, 1 + i is class i. A pixel that several masks claim goes to the best score.

    Args:
        instances: the kept masks.
        classes: c, the number of classes.
    """
    labels = np.zeros(instances.masks.shape[1:], label_dtype(classes))
    # Worst first, so that the best is painted last; of equals the first is painted last.
    for number in np.argsort(-instances.scores, kind="stable")[::-1]:
        labels[instances.masks[number]] = instances.classes[number] + 1
    return labels


def paint_votes(
    packed: np.ndarray,
    classes_of: np.ndarray,
    scores: np.ndarray,
    size_hw: tuple[int, int],
    least: np.ndarray,
) -> np.ndarray:
    """Return the label map in which masks vote, uint8 (h, w), or uint16 from 255 classes on.

    Every mask that passed the thresholds, before suppression, gives its score to its class at
    its low-resolution pixels. The sums are scaled up bilinearly; a pixel goes to the class with
    the largest sum (ties to the lowest class), or to background where that sum does not exceed
    the class's `least`: a lone mask of a weak score may then get no pixel, though it stays in the
    list of instances (better on photographs than painting all: docs/decisions/0004).

    Args:
        packed: uint8 (p, u, b).
        classes_of: int64 (p,).
        scores: float32 (p,).
        size_hw: rows and columns of the image.
        least: float32 (c,), what the votes for each class must exceed.
    """
    labels = np.zeros(size_hw, label_dtype(len(least)))
    if not len(packed):
        return labels
    rows, columns = valid_hw(size_hw, packed.shape[-2])
    most, places = np.zeros(size_hw, np.float32), {}
    # Arithmetic on all pixels: choosing by a mask (`where`) takes ten times as long.
    for number in np.unique(classes_of).tolist():
        mine = classes_of == number
        votes = _votes(packed[mine], scores[mine])[:rows, :columns]
        place, full = upscale_part(votes, size_hw)
        # All bits of a label that gives way, else none.
        bits = -(full > most[place]).astype(labels.dtype)
        labels[place] ^= (labels[place] ^ labels.dtype.type(number + 1)) & bits
        np.maximum(most[place], full, out=most[place])
        places[number] = place
    for number, place in places.items():
        labels[place] *= (labels[place] != number + 1) | (most[place] > least[number])
    return labels


def _votes(packed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the sum of the scores of the masks that hold each pixel, float32 (u, v)."""
    anywhere = np.bitwise_or.reduce(packed, axis=0)
    votes = np.zeros((packed.shape[1], packed.shape[2] * 8), np.float32)
    down, across = _filled(anywhere.any(axis=1)), _filled(anywhere.any(axis=0))
    # Only what some mask reaches: as numbers, masks take 32 times the room.
    masks = unpack(packed[:, down, across])
    some = scores @ masks.reshape(len(masks), -1).astype(np.float32)
    votes[down, 8 * across.start : 8 * across.stop] = some.reshape(masks.shape[1:])
    return votes


def _filled(where: np.ndarray) -> slice:
    places = np.flatnonzero(where)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
