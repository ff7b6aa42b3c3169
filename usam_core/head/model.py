"""Heads: from one mask's features to logits of the class names.

`Head` is the papers' four-layer perceptron, `LateHead` one for each feature block. `TextHead` adds
or stands alone for zero-shot logits: a mask's vector against the class names' in CLIP's space,

    CLIP       z = scale * cosine               trained with a softmax over texts
    SigLIP 2   z = scale * cosine + bias        trained with a sigmoid of each picture and text

Both become a distribution over the classes by a softmax. For CLIP that is the model's own. For
SigLIP it is exact too, under one condition: if each name fits by itself with probability
sigmoid(z), then, given that exactly one fits, it is name i with probability softmax(z)_i; the bias
falls out. (That none fits has the weight 1 beside them, exp(0); it is not used: how far masks cut
out of pictures lie below the pictures it was trained on is not known here.)

A class that is labelled as its parent passes its probability on: the parent's is the sum over its
classes. The head may have outputs that no text speaks of (background); these keep the probability
that the learned head gives them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class BaseHead(nn.Module):
    """What every head is: logits, float32 (..., o), of feature rows, float32 (..., f).

    Attributes:
        width: f, the length of an input row.
    """

    width: int


class Head(BaseHead):
    """f -> 512 -> 256 -> 128 -> c, ReLU after the first three, dropout on the third.

    GranSAM, supplement 2 (there f is 1024, the four mask tokens of a prompt). Standardization of
    the inputs is ours: it lies in the buffers `mean` and `deviation`, 0 and 1 when it is off.

    `classes` is the number of outputs, `hidden` the widths of the three hidden layers, `dropout`
    a probability.
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
        self.width = features
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.layers = nn.Sequential(
            *(nn.Linear(features, first), nn.ReLU()),
            *(nn.Linear(first, second), nn.ReLU()),
            *(nn.Linear(second, third), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(third, classes),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """See `BaseHead`."""
        return self.layers((rows - self.mean) / self.deviation)


class LateHead(BaseHead):
    """One head a feature block; their logits are averaged.

    The mean of logits and the mean of log-probabilities differ by a number that all classes of a
    mask share, and so give the same probabilities.

    Heads stand in the order of the blocks.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self._widths = [head.width for head in heads]
        self.width = sum(self._widths)

    def forward(self, rows: Tensor) -> Tensor:
        """See `BaseHead`."""
        blocks = rows.split(self._widths, dim=-1)
        logits = [head(block) for head, block in zip(self.heads, blocks, strict=True)]
        return torch.stack(logits).mean(dim=0)


def make_head(
    widths: Sequence[int], classes: int, hidden: Sequence[int], dropout: float
) -> Head | LateHead:
    """Return an untrained head for feature blocks of these widths, in their order in a row."""
    heads = [Head(width, classes, hidden, dropout) for width in widths]
    return LateHead(heads) if len(heads) > 1 else heads[0]


def mixed_logits(logits: Tensor, others: Tensor, weight: float) -> Tensor:
    """Logits whose probabilities of the classes are weighed with another opinion's.

    The log-probabilities are averaged: a geometric mean of the probabilities, which is how ViLD
    (arXiv 2104.13921) and F-VLM (arXiv 2209.15639) join a learned and a text classifier. The other
    opinion, (..., c) up to a constant, is of the first c of o outputs alone; further ones
    (background) keep their probability. Its weight is 0 to 1.

    >>> odds = mixed_logits(torch.tensor([1.0, 3.0]).log(), torch.tensor([9.0, 1.0]).log(), 0.5)
    >>> odds.softmax(-1).round(decimals=3)
    tensor([0.6340, 0.3660])
    """
    known, further = logits.tensor_split([others.shape[-1]], dim=-1)
    both = (1 - weight) * known.log_softmax(-1) + weight * others.log_softmax(-1)
    share = known.logsumexp(-1, keepdim=True)
    return torch.cat([both.log_softmax(-1) + share, further], dim=-1)


class TextHead(BaseHead):
    """The text side, alone or with a learned head.

    Args:
        learned: the learned head, which reads the first columns of a row; None: the text alone.
        first: column where the block starts that the names are compared with.
        width: f, the block's columns.
        outputs: for each text vector, which output (class or negative name) it speaks for; every
            output has at least one.
        weight: of the text side against the learned head, 0 to 1.
    """

    vectors: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(
        self,
        learned: BaseHead | None,
        first: int,
        width: int,
        outputs: Sequence[int],
        weight: float,
    ) -> None:
        super().__init__()
        self.learned = learned
        self.width = max(first + width, 0 if learned is None else learned.width)
        self._columns = slice(first, first + width)
        self._rows = [[i for i, own in enumerate(outputs) if own == o] for o in sorted({*outputs})]
        self._weight = weight
        self.register_buffer("vectors", torch.zeros(len(outputs), width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        """See `BaseHead`."""
        zero_shot = self.zero_shot(rows)
        if self.learned is None:
            return zero_shot
        logits = self.learned(rows[..., : self.learned.width])
        return mixed_logits(logits, zero_shot, self._weight)

    def zero_shot(self, rows: Tensor) -> Tensor:
        """The text side's own logits, float32 (..., c)."""
        cosines = functional.normalize(rows[..., self._columns], dim=-1) @ self.vectors.T
        logits = self.scale * cosines + self.bias
        if all(len(rows) == 1 for rows in self._rows):
            return logits[..., [row for (row,) in self._rows]]
        return torch.stack([logits[..., rows].logsumexp(-1) for rows in self._rows], dim=-1)
