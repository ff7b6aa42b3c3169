"""A bank of stored vectors beside the perceptron: which class are a mask's neighbours of? (ours)

The bank holds, of each class, the masks of its training pictures that the trained head is surest
of. A mask's score for a class is its cosine with the class's mean vector, or the mean of its
largest cosines with the class's vectors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from usam_core.head.model import mixed_logits

SHARPNESS = 20.0
"""Cosines times this are logits."""


class BankedHead(nn.Module):
    """A head and a bank; log-probabilities of both, weighed.

    Args:
        head: the trained head.
        width: f, the length of an input row.
        classes: c; further outputs of the head pass through.
        size: s, how many vectors of each class there are.
        weight: of the bank, 0 to 1.
        neighbors: how many of a class's vectors are asked; 0 asks their mean.
    """

    vectors: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        head: nn.Module,
        width: int,
        classes: int,
        size: int,
        weight: float,
        neighbors: int,
    ) -> None:
        super().__init__()
        self.head = head
        self._weight, self._neighbors = weight, min(neighbors, size)
        self.width = width
        self.register_buffer("vectors", torch.zeros(classes, size, width))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Return log-probabilities up to a constant, float32 (..., c), of rows (..., f)."""
        ours = self.similarities(rows) * SHARPNESS
        return mixed_logits(self.head(rows), ours, self._weight)

    def similarities(self, rows: Tensor) -> Tensor:
        """Return the bank's own scores, float32 (..., c), -1 to 1."""
        unit = self.unit(rows)
        if not self._neighbors:
            means = nn.functional.normalize(self.vectors.mean(dim=1), dim=-1)
            return unit @ means.T
        classes, size, width = self.vectors.shape
        cosines = unit @ self.vectors.reshape(-1, width).T
        cosines = cosines.unflatten(-1, (classes, size))
        return cosines.topk(self._neighbors, dim=-1).values.mean(dim=-1)

    def unit(self, rows: Tensor) -> Tensor:
        """Return rows standardised and of unit length."""
        return nn.functional.normalize((rows - self.centre) / self.scale, dim=-1)


@torch.inference_mode()
def fill_bank(
    banked: BankedHead,
    bags: Iterable[tuple[np.ndarray, np.ndarray]],
    moments: tuple[np.ndarray, np.ndarray],
    per_bag: int,
) -> None:
    """Fill the bank with the surest masks of each class, at most `per_bag` of each picture.

    A class with fewer masks than the bank has room for repeats its own.

    Args:
        banked: the head with an empty bank.
        bags: features (n, d, f) and labels (n, c).
        moments: mean and deviation of each column.
        per_bag: most masks of a picture; one large object would else fill the bank.
    """
    banked.centre.copy_(torch.from_numpy(moments[0]))
    banked.scale.copy_(torch.from_numpy(moments[1]))
    classes, size, _ = banked.vectors.shape
    found: list[list[Tensor]] = [[] for _ in range(classes)]
    sure: list[list[Tensor]] = [[] for _ in range(classes)]
    for features, labels in bags:
        rows = torch.from_numpy(features)
        probability = banked.head(rows).softmax(-1)
        units = banked.unit(rows)
        for bag, name in np.argwhere(labels[:, :classes] > 0):
            best = probability[bag, :, name].topk(min(per_bag, rows.shape[1]))
            found[name].append(units[bag][best.indices])
            sure[name].append(best.values)
    for name in range(classes):
        order = torch.cat(sure[name]).argsort(descending=True, stable=True)[:size]
        chosen = torch.cat(found[name])[order]
        banked.vectors[name] = chosen[torch.arange(size) % len(chosen)]


def add_bank(head: nn.Module, width: int, classes: int, settings: Mapping[str, Any]) -> nn.Module:
    """Return the head with an empty bank, or as it is where the settings want none.

    Args:
        head: the trained head.
        width: f.
        classes: c.
        settings: of `HeadConfig`.
    """
    if settings.get("bank", "off") == "off":
        return head
    asked = 0 if settings["bank"] == "mean" else settings["bank_neighbors"]
    return BankedHead(head, width, classes, settings["bank_size"], settings["bank_weight"], asked)


def balanced_weights(labels: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return how often each picture shall be seen so that classes are seen alike, sum 1.

    A bag of no class comes as often as the others do on average.

    Args:
        labels: (n, c), multi-hot.

    >>> balanced_weights([[1, 0], [1, 0], [0, 1]]).tolist()
    [0.25, 0.25, 0.5]
    """
    labels = np.asarray(labels, np.float64)
    rarity = 1 / np.maximum(labels.sum(axis=0), 1)
    weights = (labels * rarity).sum(axis=1) / np.maximum(labels.sum(axis=1), 1)
    named = labels.any(axis=1)
    weights[~named] = weights[named].mean()
    return weights / weights.sum()
