"""Kept masks to one label a pixel."""

import numpy as np

from usam_core.types import Instances


def paint(instances: Instances, rule: str, classes: int) -> np.ndarray:
    """Return the label map, uint8 (h, w), or uint16 from 256 labels on.

    0 is background, 1 + i is class i. A pixel that several masks claim goes, by `rule`:

    * `score`: to the mask with the best score;
    * `smallest`: to the smallest mask (a wheel stays visible on its car);
    * `vote`: to the class with the largest sum of scores; ties to the lowest class.

    Args:
        instances: the kept masks; scores order them.
        rule: `score`, `smallest` or `vote`.
        classes: c, the number of classes.
    """
    size_hw = instances.masks.shape[1:]
    dtype = np.uint8 if classes < 256 else np.uint16
    if rule == "vote":
        votes = np.zeros((classes + 1, *size_hw), np.float32)
        for mask, label, score in zip(
            instances.masks, instances.classes, instances.scores, strict=True
        ):
            votes[label + 1][mask] += score
        return votes.argmax(axis=0).astype(dtype)
    ranks = instances.scores if rule == "score" else -instances.masks.sum(axis=(1, 2))
    labels = np.zeros(size_hw, dtype)
    # The stable sort of the reversed rank lets the first of equals be painted last.
    for number in np.argsort(-ranks, kind="stable")[::-1]:
        labels[instances.masks[number]] = instances.classes[number] + 1
    return labels
