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

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, float32 (..., c), of feature rows, float32 (..., f)."""
        return self.layers((rows - self.mean) / self.deviation)
