"""Zero-shot logits: a mask's vector against the vectors of the class names, in CLIP's space.

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

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from usam_core.head.model import mixed_logits


class TextHead(nn.Module):
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
        learned: nn.Module | None,
        first: int,
        width: int,
        outputs: Sequence[int],
        weight: float,
    ) -> None:
        super().__init__()
        self.learned = learned
        self._columns = slice(first, first + width)
        self._outputs, self._weight = list(outputs), weight
        self.register_buffer("vectors", torch.zeros(len(outputs), width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    @property
    def width(self) -> int:
        """Return the length of an input row."""
        own = 0 if self.learned is None else self.learned.width
        return max(own, self._columns.stop)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, float32 (..., o), of feature rows."""
        zero_shot = self.zero_shot(rows)
        if self.learned is None:
            return zero_shot
        logits = self.learned(rows[..., : self.learned.width])
        return mixed_logits(logits, zero_shot, self._weight)

    def zero_shot(self, rows: Tensor) -> Tensor:
        """Return the text side's own logits, float32 (..., c)."""
        cosines = functional.normalize(rows[..., self._columns], dim=-1) @ self.vectors.T
        logits = self.scale * cosines + self.bias
        outputs = max(self._outputs) + 1
        parts = [[i for i, own in enumerate(self._outputs) if own == c] for c in range(outputs)]
        if all(len(part) == 1 for part in parts):
            return logits[..., [part[0] for part in parts]]
        return torch.stack([logits[..., part].logsumexp(-1) for part in parts], dim=-1)


def add_text(learned: nn.Module | None, text: Mapping[str, Any] | None) -> nn.Module:
    """Return the head with its text side, vectors still empty; as it is where there is none.

    Args:
        learned: the learned head, or None.
        text: of the head's card: `first`, `width`, `outputs`, `weight`.
    """
    if text is None:
        return learned
    return TextHead(learned, text["first"], text["width"], text["outputs"], text["weight"])
