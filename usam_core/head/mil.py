"""Multiple-instance learning: an image's label teaches its masks (GranSAM, equations 1 to 3)."""

import math

import torch
from torch import Tensor


def top_k(masks: int, a: float) -> int:
    """Return k = max(1, ceil(d / a)), how many masks of a bag speak for a class.

    >>> top_k(100, 10), top_k(3, 10)
    (10, 1)
    """
    return max(1, math.ceil(masks / a))


def image_scores(logits: Tensor, a: float) -> Tensor:
    """Return each image's class scores: the mean of its k largest logits (equations 1 and 2).

    Args:
        logits: float32 (n, d, c), the head's logits of every mask of every bag.
        a: the papers' design parameter; k = max(1, ceil(d / a)).

    Returns:
        float32 (n, c).
    """
    return logits.topk(top_k(logits.shape[1], a), dim=1).values.mean(dim=1)


def mil_loss(logits: Tensor, labels: Tensor, a: float) -> Tensor:
    """Return the cross entropy between image labels and image distributions (equation 3).

    Args:
        logits: float32 (n, d, c).
        labels: float32 (n, c), multi-hot; normalised here to sum to 1. At least one 1 a row.
        a: as in `image_scores`.

    Returns:
        float32 scalar, the mean over the images.
    """
    targets = labels / labels.sum(dim=1, keepdim=True)
    log_p = torch.log_softmax(image_scores(logits, a), dim=1)
    return -(targets * log_p).sum(dim=1).mean()
