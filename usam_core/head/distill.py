"""Uncertainty distillation: the student is taught doubt where its teacher errs (equation 4)."""

import math

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax over the last axis, nats, 0 to log c."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def bad_masks(teacher_logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return which masks the teacher is unsure of, or sure of and wrong (U-SAM, section 3.5).

    B = {H > threshold} united with {H < threshold and argmax not a label of the image}. The
    papers' images have one label; for several, "not a label" is the natural extension.

    Args:
        teacher_logits: float32 (n, d, c).
        labels: float32 (n, c), multi-hot.
        threshold: share of log c, the largest possible entropy; 0 to 1.

    Returns:
        bool (n, d).
    """
    limit = threshold * math.log(teacher_logits.shape[-1])
    unsure = entropy(teacher_logits) > limit
    predicted = teacher_logits.argmax(dim=-1)
    right = labels.gather(1, predicted) > 0
    return unsure | ~right


def uncertainty_loss(student_logits: Tensor, bad: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross entropy of bad masks against the uniform distribution (equation 4).

    Args:
        student_logits: float32 (n, d, c).
        bad: bool (n, d).
        reduction: `sum` is the equation as printed: summed over classes and bad masks, divided
            by n. `mean` divides the sum over classes by c, which makes the target a
            distribution, and the sum over bad masks by their number: the loss then does not grow
            with d and lies between log c and about 10, as the MIL loss does.

    Returns:
        float32 scalar; 0 when no mask is bad.
    """
    chosen = student_logits[bad]
    if not len(chosen):
        return student_logits.sum() * 0
    log_p = torch.log_softmax(chosen, dim=-1)
    return -(log_p.sum() / len(student_logits) if reduction == "sum" else log_p.mean())
