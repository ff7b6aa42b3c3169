"""Train the head: the MIL teacher, then the uncertainty-distilled student (U-SAM, section 3.5)."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from usam_core.config.model import HeadConfig
from usam_core.head.bags import BagSource
from usam_core.head.losses import (
    background_loss,
    bad_masks,
    class_loss,
    corrected,
    image_scores,
    mil_loss,
    uncertainty_loss,
)
from usam_core.head.model import BaseHead, Head, LateHead
from usam_core.progress import SILENT, Bar, Progress
from usam_core.rng import derive_seed, generator

_LOSSES = ("mil", "uncertainty", "masks", "background")
"""Parts of the loss; `lambda_NAME` of the settings is the weight of each."""


@dataclass(frozen=True, slots=True)
class TrainedHeads:
    """The MIL teacher and the distilled student, if any, in evaluation mode.

    `history` has one mapping an epoch: `role`, `epoch`, `loss`, its parts, `accuracy` (share of
    training pictures whose best-scored class is one of their labels), `bad_share`.
    """

    teacher: BaseHead
    student: BaseHead | None
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    bags: BagSource, config: HeadConfig, seed: int, progress: Progress = SILENT
) -> TrainedHeads:
    """Train teacher and student; the same seed and bags give the same weights.

    Of several blocks, each one's pair is trained by itself. The global generator is left as it
    was.
    """
    parts = bags.blocks() if len(bags.widths) > 1 else [bags]
    epochs = passes(len(bags), config) * (2 if config.distil else 1) * len(parts)
    with progress.bar("Training the head", epochs) as bar:
        pairs = [_train_pair(part, config, seed, bar) for part in parts]
    if len(pairs) == 1:
        return TrainedHeads(*pairs[0])
    students = [student for _, student, _ in pairs if student is not None]
    return TrainedHeads(
        LateHead([teacher for teacher, _, _ in pairs]).eval(),
        LateHead(students).eval() if students else None,
        [
            {"block": name, **epoch}
            for name, (_, _, history) in zip(bags.features, pairs, strict=True)
            for epoch in history
        ],
    )


def passes(pictures: int, config: HeadConfig) -> int:
    """How many passes over the pictures make up the configured steps.

    >>> passes(130, HeadConfig(steps=10, batch_size=64))
    4
    """
    return math.ceil(config.steps / math.ceil(pictures / config.batch_size))


def _train_pair(
    bags: BagSource, config: HeadConfig, seed: int, bar: Bar
) -> tuple[Head, Head | None, list[dict[str, Any]]]:
    history: list[dict[str, Any]] = []
    moments = bags.moments() if config.standardize else None
    # Dropout and initial weights draw from the global generator: fork it, seed the fork.
    with torch.random.fork_rng(devices=[]):
        teacher = _train_one("teacher", None, bags, config, seed, moments, history, bar)
        student = None
        if config.distil:
            student = _train_one("student", teacher, bags, config, seed, moments, history, bar)
    return teacher, student, history


def _train_one(
    role: str,
    teacher: Head | None,
    bags: BagSource,
    config: HeadConfig,
    seed: int,
    moments: tuple[np.ndarray, np.ndarray] | None,
    history: list[dict[str, Any]],
    bar: Bar,
) -> Head:
    torch.manual_seed(derive_seed(seed, "head", role))
    (width,) = bags.widths
    outputs = bags.labels.shape[1] + config.background
    head = Head(width, outputs, config.hidden, config.dropout)
    if moments is not None:
        head.mean.copy_(torch.from_numpy(moments[0]))
        head.deviation.copy_(torch.from_numpy(moments[1]))
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate)
    order = generator(seed, "batches", role)
    for epoch in range(passes(len(bags), config)):
        head.train()
        sums = dict.fromkeys(("loss", *_LOSSES, "accuracy", "bad_share"), 0.0)
        for batch in bags.batches(order, config.batch_size):
            features, labels, targets = map(torch.from_numpy, batch)
            parts = _step(head, teacher, features, labels, targets, config)
            weighted = [getattr(config, f"lambda_{name}") * parts[name] for name in _LOSSES]
            parts["loss"] = sum(weighted, torch.zeros(()))
            optimizer.zero_grad()
            parts["loss"].backward()
            optimizer.step()
            for name in sums:
                sums[name] += float(parts[name].detach()) * len(labels) / len(bags)
        history.append({"role": role, "epoch": epoch + 1, **sums})
        bar.advance()
    return head.eval()


def _step(
    head: Head,
    teacher: Head | None,
    features: Tensor,
    labels: Tensor,
    targets: Tensor,
    config: HeadConfig,
) -> dict[str, Tensor]:
    outputs, classes = head(features), labels.shape[1]
    # The papers' losses are about classes; an output for background has its own.
    logits = outputs[..., :classes]
    zero = torch.zeros(())
    parts = dict.fromkeys(_LOSSES, zero)
    # Bags of masks that a person rejected have no name to learn.
    named = labels.any(dim=1)
    if named.any():
        parts["mil"] = mil_loss(logits[named], labels[named], config.top_k_share)
    if config.composed == "masks":
        parts["masks"] = class_loss(logits, targets)
    if config.background:
        parts["background"] = background_loss(outputs, targets)
    if teacher is not None:
        with torch.no_grad():
            bad = bad_masks(teacher(features)[..., :classes], labels, config.entropy_threshold)
            if config.composed == "masks":
                bad = corrected(bad, targets, classes)
        parts["uncertainty"] = uncertainty_loss(logits, bad, config.uncertainty_reduction)
        parts["bad_share"] = bad.float().mean()
    with torch.no_grad():
        best = image_scores(logits, config.top_k_share).argmax(dim=1, keepdim=True)
        right = (labels.gather(1, best) > 0)[:, 0]
        parts["accuracy"] = right[named].float().mean() if named.any() else zero
    return {"bad_share": zero, **parts}
