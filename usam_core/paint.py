"""Kept masks to one label a pixel."""

import numpy as np
import torch
from torch.nn import functional

from usam_core.masks import unpack, valid_hw
from usam_core.types import Instances


def paint(instances: Instances, rule: str, classes: int) -> np.ndarray:
    """Return the label map, uint8 (h, w), or uint16 from 256 labels on.

    0 is background, 1 + i is class i. A pixel that several masks claim goes, by `rule`:

    * `score`: to the mask with the best score;
    * `smallest`: to the smallest mask (a wheel stays visible on its car).

    Args:
        instances: the kept masks; scores order them.
        rule: `score` or `smallest`.
        classes: c, the number of classes.
    """
    ranks = instances.scores if rule == "score" else -instances.masks.sum(axis=(1, 2))
    labels = np.zeros(instances.masks.shape[1:], label_dtype(classes))
    # Worst first, so that the best is painted last; of equals the first is painted last.
    for number in np.argsort(-ranks, kind="stable")[::-1]:
        labels[instances.masks[number]] = instances.classes[number] + 1
    return labels


def paint_votes(
    packed: np.ndarray,
    classes_of: np.ndarray,
    scores: np.ndarray,
    size_hw: tuple[int, int],
    least: np.ndarray,
) -> np.ndarray:
    """Return the label map in which masks vote, uint8 (h, w), or uint16 from 256 labels on.

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
    masks = unpack(packed)[:, :rows, :columns].reshape(len(packed), -1).astype(np.float32)
    present = np.unique(classes_of)
    share = (classes_of == present[:, None]) * scores
    votes = (share.astype(np.float32) @ masks).reshape(1, len(present), rows, columns)
    full = functional.interpolate(
        torch.from_numpy(votes), size=size_hw, mode="bilinear", align_corners=False
    )[0]
    most, number = full.max(dim=0)
    winner = present[number.numpy()]
    labels = np.where(most.numpy() > least[winner], winner + 1, 0)
    return labels.astype(label_dtype(len(least)))


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds the labels 0 to c."""
    return np.uint8 if classes < 256 else np.uint16
