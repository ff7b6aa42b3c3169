"""What composed scenes teach beyond their labels: their truth says what each mask shows (ours)."""

import torch
from torch import Tensor
from torch.nn import functional

UNKNOWN = -1
"""Target of a mask that no truth speaks of, or that shows no one thing."""


def background_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return how badly the last output tells masks on no object from masks on one.

    Cross entropy of two outcomes, background and any class; both weigh the same, however many
    masks there are of each.

    Args:
        logits: float32 (n, d, c + 1), background last.
        targets: int64 (n, d), a class, c for background, or `UNKNOWN`.

    Returns:
        float32 scalar; 0 where nothing is known.
    """
    ground = logits.shape[-1] - 1
    known = targets != UNKNOWN
    chosen, here = logits[known], targets[known] == ground
    # Logit of background against all classes together.
    odds = chosen[:, ground] - torch.logsumexp(chosen[:, :ground], dim=-1)
    parts = [
        functional.softplus(sign * odds[which]).mean()
        for sign, which in ((-1, here), (1, ~here))
        if which.any()
    ]
    return torch.stack(parts).mean() if parts else logits.sum() * 0


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of masks on an object against its class.

    Args:
        logits: float32 (n, d, c), the classes alone.
        targets: int64 (n, d), as in `background_loss`.

    Returns:
        float32 scalar, the mean over those masks; 0 where there is none.
    """
    on_object = (targets != UNKNOWN) & (targets < logits.shape[-1])
    if not on_object.any():
        return logits.sum() * 0
    return functional.cross_entropy(logits[on_object], targets[on_object])


def corrected(bad: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return bad masks, bool (n, d), with truth in place of the teacher's opinion where there is.

    Args:
        bad: bool (n, d), as the teacher sees it.
        targets: int64 (n, d), as in `background_loss`.
        classes: c.
    """
    return torch.where(targets == UNKNOWN, bad, targets == classes)
