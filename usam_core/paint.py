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
    classes: int,
) -> np.ndarray:
    """Return the label map in which masks vote, uint8 (h, w), or uint16 from 256 labels on.

    Every mask that passed the thresholds, before suppression, gives its score to its class at
    its low-resolution pixels. The sums are scaled up bilinearly; a pixel goes to the class with
    the largest sum (ties to the lowest class), or to background where no mask is: where the
    union of all masks, scaled up likewise, is below one half.

    Args:
        packed: uint8 (p, u, b).
        classes_of: int64 (p,).
        scores: float32 (p,).
        size_hw: rows and columns of the image.
        classes: c, the number of classes.
    """
    labels = np.zeros(size_hw, label_dtype(classes))
    if not len(packed):
        return labels
    rows, columns = valid_hw(size_hw, packed.shape[-2])
    masks = unpack(packed)[:, :rows, :columns].reshape(len(packed), -1).astype(np.float32)
    present = np.unique(classes_of)
    share = (classes_of == present[:, None]) * scores
    votes = share.astype(np.float32) @ masks
    maps = np.concatenate([votes, masks.max(axis=0)[None]]).reshape(1, -1, rows, columns)
    full = functional.interpolate(
        torch.from_numpy(maps), size=size_hw, mode="bilinear", align_corners=False
    )[0]
    won = full[-1].numpy() > 0.5
    labels[won] = present[full[:-1].argmax(dim=0).numpy()[won]] + 1
    return labels


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds the labels 0 to c."""
    return np.uint8 if classes < 256 else np.uint16
