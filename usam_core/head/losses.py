"""The losses: of bags (GranSAM, equations 1 to 3), of doubt (equation 4), of known masks (ours).

Shapes: logits float32 (n, d, c), labels float32 (n, c) multi-hot, targets int64 (n, d): the class
that a mask shows, c for background, or `UNKNOWN`. Losses are float32 scalars.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

UNKNOWN = -1
"""Target of a mask that no truth speaks of, or that shows no one thing."""


def top_k(masks: int, a: float) -> int:
    """k = max(1, ceil(d / a)), how many masks of a bag speak for a class.

    >>> top_k(100, 10), top_k(3, 10)
    (10, 1)
    """
    return max(1, math.ceil(masks / a))


def image_scores(logits: Tensor, a: float) -> Tensor:
    """Class scores of each image, (n, c): the mean of its k largest logits (equations 1 and 2).

    `a` is the papers' design parameter; k = max(1, ceil(d / a)).
    """
    return logits.topk(top_k(logits.shape[1], a), dim=1).values.mean(dim=1)


def mil_loss(logits: Tensor, labels: Tensor, a: float) -> Tensor:
    """Cross entropy between image labels and image distributions, mean over images (equation 3).

    Labels are normalized here to sum to 1; each row has at least one 1.
    """
    targets = labels / labels.sum(dim=1, keepdim=True)
    log_p = torch.log_softmax(image_scores(logits, a), dim=1)
    return -(targets * log_p).sum(dim=1).mean()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax over the last axis, nats, 0 to log c."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def bad_masks(teacher_logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Masks, bool (n, d), that the teacher is unsure of, or sure of and wrong (U-SAM, 3.5).

    B = {H > threshold} united with {H < threshold and argmax not a label of the image}. The
    papers' images have one label; for several, "not a label" is the natural extension.

    The threshold is a share of log c, the largest possible entropy; 0 to 1.
    """
    limit = threshold * math.log(teacher_logits.shape[-1])
    unsure = entropy(teacher_logits) > limit
    right = labels.gather(1, teacher_logits.argmax(dim=-1)) > 0
    return unsure | ~right


def uncertainty_loss(student_logits: Tensor, bad: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy of bad masks against the uniform distribution (equation 4); 0 without any.

    `bad` is bool (n, d). Reduction `sum` is the equation as printed: summed over classes and bad
    masks, divided by n. `mean` divides the sum over classes by c, which makes the target a
    distribution, and the sum over bad masks by their number: the loss then does not grow with d
    and lies between log c and about 10, as the MIL loss does.
    """
    chosen = student_logits[bad]
    if not len(chosen):
        return student_logits.sum() * 0
    log_p = torch.log_softmax(chosen, dim=-1)
    return -(log_p.sum() / len(student_logits) if reduction == "sum" else log_p.mean())


def background_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """How badly the last output tells masks on no object from masks on one.

    Cross entropy of two outcomes, background and any class; both weigh the same, however many
    masks there are of each. 0 where nothing is known. `logits` are (n, d, c + 1), background last.
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
    """Cross entropy of masks on an object against its class, their mean; 0 without any."""
    on_object = (targets != UNKNOWN) & (targets < logits.shape[-1])
    if not on_object.any():
        return logits.sum() * 0
    return functional.cross_entropy(logits[on_object], targets[on_object])


def corrected(bad: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Bad masks, bool (n, d), with truth in place of the teacher's opinion where there is any."""
    return torch.where(targets == UNKNOWN, bad, targets == classes)
