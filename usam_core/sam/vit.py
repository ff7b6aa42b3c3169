"""Fused attention for SAM's ViT image encoders: the same weights, the same numbers.

SAM adds decomposed relative positions to its attention scores: one term for the row and one for
the column of each key. `segment_anything` writes out all scores, adds, and takes their softmax;
fused kernels never write them out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class FusedAttention(nn.Module):
    """An `Attention` of SAM's image encoder through `scaled_dot_product_attention`.

    The terms of the positions are products too: of what a query asks of each row and column, with
    ones where the key's row and column are. Appended to queries and keys they need no mask, which
    in a global block would have 17 million entries a head.

    Args:
        attention: the `Attention` to take the place of; its parameters are shared.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention's output, (b, rows, columns, c)."""
        b, h, w, c = x.shape
        qkv = self.qkv(x).view(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        width = query.shape[-1]
        asked = query.unflatten(2, (h, w))
        rows = torch.einsum("bghwc,hkc->bghwk", asked, _relative(self.rel_pos_h, h))
        columns = torch.einsum("bghwc,wkc->bghwk", asked, _relative(self.rel_pos_w, w))
        query = torch.cat([query * self.scale, rows.flatten(2, 3), columns.flatten(2, 3)], dim=-1)
        key = torch.cat([key, _places(h, w, key).expand(b, self.num_heads, -1, -1)], dim=-1)
        value = functional.pad(value, (0, h + w))
        out = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        out = out[..., :width].transpose(1, 2).reshape(b, h, w, c)
        return self.proj(out)


def fuse_attention(encoder: nn.Module) -> None:
    """Replace the attention of a ViT's blocks in place; other encoders are left alone."""
    for block in getattr(encoder, "blocks", []):
        if not isinstance(block.attn, FusedAttention):
            block.attn = FusedAttention(block.attn)


def _relative(table: Tensor, size: int) -> Tensor:
    """Return the positions' vectors (query, key, width) of a table (2 * size - 1, width)."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]


def _places(h: int, w: int, like: Tensor) -> Tensor:
    """Return ones where each pixel's row and column are, (h * w, h + w)."""
    rows = torch.eye(h, dtype=like.dtype, device=like.device).repeat_interleave(w, dim=0)
    columns = torch.eye(w, dtype=like.dtype, device=like.device).repeat(h, 1)
    return torch.cat([rows, columns], dim=1)
