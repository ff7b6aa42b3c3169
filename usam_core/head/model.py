"""The head: a four-layer perceptron from one mask's features to the class names."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """f -> 512 -> 256 -> 128 -> c, ReLU after the first three, dropout on the third.

    GranSAM, supplement 2 (there f is 1024, the four mask tokens of a prompt). Standardisation of
    the inputs is ours: it lies in the buffers `mean` and `deviation`, 0 and 1 when it is off.

    Args:
        features: f, the length of an input row.
        classes: c, the number of classes; background is not one of them.
        hidden: widths of the three hidden layers.
        dropout: probability on the third hidden layer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        hidden: Sequence[int] = (512, 256, 128),
        dropout: float = 0.9,
    ) -> None:
        super().__init__()
        first, second, third = hidden
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.layers = nn.Sequential(
            nn.Linear(features, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, third),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(third, classes),
        )

    @property
    def width(self) -> int:
        """Return f, the length of an input row."""
        return len(self.mean)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, float32 (..., c), of feature rows, float32 (..., f)."""
        return self.layers((rows - self.mean) / self.deviation)


class LateHead(nn.Module):
    """One head a feature block; their logits are averaged.

    The mean of logits and the mean of log-probabilities differ by a number that all classes of a
    mask share, and so give the same probabilities.

    Args:
        heads: a head for each block, in the order of the blocks.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    @property
    def width(self) -> int:
        """Return f, the length of an input row: of all blocks together."""
        return sum(head.width for head in self.heads)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, float32 (..., c), of feature rows, float32 (..., f)."""
        blocks = rows.split([head.width for head in self.heads], dim=-1)
        logits = [head(block) for head, block in zip(self.heads, blocks, strict=True)]
        return torch.stack(logits).mean(dim=0)


def make_head(
    widths: Sequence[int], classes: int, hidden: Sequence[int], dropout: float
) -> Head | LateHead:
    """Return an untrained head for feature blocks of these widths: one for each, averaged.

    Args:
        widths: length of each block's vectors, in the order in which they stand in a row.
        classes: c.
        hidden: widths of the hidden layers.
        dropout: probability on the third hidden layer.
    """
    heads = [Head(width, classes, hidden, dropout) for width in widths]
    return LateHead(heads) if len(heads) > 1 else heads[0]


def mixed_logits(logits: Tensor, others: Tensor, weight: float) -> Tensor:
    """Return logits whose probabilities of the classes are weighed with another opinion's.

    The log-probabilities are averaged: a geometric mean of the probabilities, which is how ViLD
    (arXiv 2104.13921) and F-VLM (arXiv 2209.15639) join a learned and a text classifier. The other
    opinion is of the first outputs alone; further ones (background) keep their probability.

    Args:
        logits: float32 (..., o).
        others: float32 (..., c) of the first c of them, up to a constant.
        weight: of the others, 0 to 1.

    >>> odds = mixed_logits(torch.tensor([1.0, 3.0]).log(), torch.tensor([9.0, 1.0]).log(), 0.5)
    >>> odds.softmax(-1).round(decimals=3)
    tensor([0.6340, 0.3660])
    """
    known, further = logits.tensor_split([others.shape[-1]], dim=-1)
    both = (1 - weight) * known.log_softmax(-1) + weight * others.log_softmax(-1)
    share = known.logsumexp(-1, keepdim=True)
    return torch.cat([both.log_softmax(-1) + share, further], dim=-1)
