"""Region features: the mean of dense features inside each mask."""

import torch
from torch import Tensor
from torch.nn import functional


@torch.inference_mode()
def pool_in_masks(dense: Tensor, masks: Tensor, points_xy: Tensor) -> Tensor:
    """Average dense features inside every mask.

    Masks are averaged down to the features' grid and serve there as weights, so that a mask
    smaller than a cell still reads its own cell. An empty mask takes the feature at its point.

    Args:
        dense: float32 (f, rows, columns), features of one image over the model's input frame.
        masks: bool (d, m, u, v), over the same frame; padding must be False.
        points_xy: float32 (d, 2), the prompts as fractions of the frame.

    Returns:
        float32 (d, m, f).
    """
    f, rows, columns = dense.shape
    d, m = masks.shape[:2]
    weights = functional.adaptive_avg_pool2d(masks.float(), (rows, columns)).flatten(2)
    total = weights.sum(dim=2, keepdim=True)
    empty = total == 0
    cell = (points_xy * points_xy.new_tensor([columns, rows])).long()
    at = cell[:, 1].clamp(0, rows - 1) * columns + cell[:, 0].clamp(0, columns - 1)
    fallback = functional.one_hot(at, rows * columns).to(weights)[:, None].expand(d, m, -1)
    weights = torch.where(empty, fallback, weights / total.clamp(min=1e-12))
    return weights @ dense.reshape(f, -1).T
