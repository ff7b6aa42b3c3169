"""SAM's mask decoder for many points of an image: the same numbers for a fourth of the work.

The official decoder copies the image's 256 channels for every prompt and pushes each copy through
all projections of its two-way transformer. But all that a prompt adds to the image side are the
values of its 7 tokens, once a layer, spread over the pixels by 8 attention heads. Behind a layer's
norm the image side (channels x pixels) is therefore exactly

    scale * (shared + lift @ spread) + constant

with `shared` the same for all prompts, `spread` the attention maps (56 rows a layer), `lift` the
tokens' values behind the output projection, and `scale` the norm's, one number a pixel. So every
projection of `shared` is made once an image; for a prompt only the columns of `lift` go through,
and the norm's variance comes from their products with each other. Nothing is approximated, sums
are taken in another order (docs/decisions/0015-embedding-speed.md; tests/sam/test_sam_decoder.py).

Letters, beside those of `usam_core.types`: i images, n pixels of the embedding, t s tokens,
g heads (those of both layers where a spread has both), e width of a head, r rows of a spread.

This file alone knows the order of SAM's tokens. The transformer sees, for every prompt, the tokens
[IoU, mask 0, mask 1, mask 2, mask 3, further..., prompt...]. Mask token 0 makes the single-mask
output, 1 to 3 the multi-mask outputs. The public API returns the masks but not the tokens, and with
`multimask_output=True` drops mask 0: here all four are kept, masks, IoUs and tokens in this order.

SAM 2 and 3 have one further token, which scores whether there is an object (theirs stands first;
attention does not know an order), and add two maps of the image at 2 and 4 times the embedding's
grid while they upscale: the same for all prompts, behind the norm's scale (`details`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from usam_core.sam.composed import compose, upscaling
from usam_core.types import MASKS_PER_PROMPT

if TYPE_CHECKING:
    from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock

    from usam_core.sam.backend import Backend

Shared = dict[str, Tensor]
"""What all prompts of some images share: projections (i, k, n) of the image side, by name."""

_OUTPUT_TOKENS = 5
"""The IoU token and the four mask tokens; after the last layer nobody reads the prompt's own."""
MASK_TOKENS = slice(1, 1 + MASKS_PER_PROMPT)
FOREGROUND = 1


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the mask decoder says of some prompts.

    Attributes:
        tokens: float32 (..., 4, 256), mask tokens after the two-way transformer.
        logits: float32 (..., 4, u, v), low-resolution mask logits.
        predicted_iou: float32 (..., 4).
    """

    tokens: Tensor
    logits: Tensor
    predicted_iou: Tensor


@dataclass(frozen=True, slots=True)
class _Keys:
    """The image side of some prompts behind a norm.

    Attributes:
        stage: which layer reads it: 2, or 3 for the final attention and the upscaling.
        scale: (i, p, n).
        spread: (i, p, r, n).
        values: (i, p, g, t, e), the tokens' values of the layers so far. Rows of `spread` beyond
            g * t have a column of `lift` that is the same for all prompts.
    """

    stage: int
    scale: Tensor
    spread: Tensor
    values: Tensor


class GridDecoder(nn.Module):
    """Decodes single-point foreground prompts as the official decoder does, the image side shared.

    To be used in inference mode; the weights of the model must not change afterwards.
    """

    def __init__(self, sam: "Backend") -> None:
        super().__init__()
        device = sam.mask_decoder.iou_token.weight.device
        self.prompts, self.decoder = sam.prompt_encoder, sam.mask_decoder
        self.heads = self.decoder.transformer.num_heads
        self._further = sam.further_tokens.to(device)
        composed = compose(sam)
        self.rows = {name: len(weight) for name, weight in composed.image.items()}
        self._image = torch.cat([*composed.image.values()]).to(device, torch.float32)
        self._constant = torch.cat([*composed.image_constant.values()]).to(device, torch.float32)
        self._lift = {k: x.to(device, torch.float32) for k, x in composed.lift.items()}
        self._position = {k: x.to(device, torch.float32) for k, x in composed.position.items()}
        second, bias = upscaling(self.decoder.output_upscaling[3])
        self._second = second.to(device, torch.float32), bias[:, 0].to(device, torch.float32)

    def share(self, embeddings: Tensor, details: Sequence[Tensor] = ()) -> Shared:
        """Return what all prompts of some images share.

        Args:
            embeddings: float32 (i, 256, rows, columns).
            details: of SAM 2 and 3, float32 (i, 64, 2 rows, 2 columns) and (i, 32, 4 rows, 4
                columns).
        """
        made = torch.matmul(self._image, embeddings.flatten(2)).add_(self._constant)
        shared = dict(zip(self.rows, made.split([*self.rows.values()], dim=1), strict=True))
        for name in ("x2", "x3"):
            shared[name] = shared[name].square().sum(1, keepdim=True)
        for name in ("k1", "v1", "v2", "v3"):
            heads = shared[name].unflatten(1, (self.heads, -1))
            shared[name] = heads.transpose(2, 3).contiguous()
        shared["up3"] = shared["up3"].transpose(1, 2).contiguous()
        if details:
            twice, four_times = (_by_pixel(one, embeddings.shape[2:]) for one in details)
            shared["twice"] = twice.flatten(2)  # (i, n, 4 * 64), as the first upscaling gives them
            shared["four times"] = four_times.unflatten(2, (4, 4)).flatten(3)  # (i, n, 4, 4 * 32)
        return shared

    def forward(self, shared: Shared, points_xy: Tensor) -> Decoded:
        """Decode prompts, float32 (i, p, 2), pixels of the model's input frame, of some images.

        `shared` is what `share` gave for them. Arrays of the result begin with (i, p).
        """
        one, two = self.decoder.transformer.layers
        prompt = self._tokens(points_xy)
        tokens = one.norm1(self._self_attention(one, prompt, prompt))
        tokens = self._read_first(one, tokens, prompt, shared)
        keys = self._first_norm(one, tokens, prompt, shared)
        attended = self._self_attention(two, tokens + prompt, tokens)
        tokens = two.norm1(tokens + attended)
        tokens = two.norm2(
            tokens + self._read(two.cross_attn_token_to_image, tokens + prompt, keys, shared)
        )
        tokens = two.norm3(tokens + two.mlp(tokens))
        keys = self._second_norm(two, tokens, prompt, keys, shared)

        transformer = self.decoder.transformer
        tokens, prompt = tokens[:, :, :_OUTPUT_TOKENS], prompt[:, :, :_OUTPUT_TOKENS]
        read = self._read(transformer.final_attn_token_to_image, tokens + prompt, keys, shared)
        tokens = transformer.norm_final_attn(tokens + read)
        mask_tokens = tokens[:, :, MASK_TOKENS]
        return Decoded(
            mask_tokens,
            self._masks(mask_tokens, keys, shared),
            self.decoder.iou_prediction_head(tokens[:, :, 0]),
        )

    def _tokens(self, points_xy: Tensor) -> Tensor:
        i, p, _ = points_xy.shape
        labels = points_xy.new_full((i * p, 1), FOREGROUND)
        points = points_xy.reshape(i * p, 1, 2)
        sparse, _ = self.prompts(points=(points, labels), boxes=None, masks=None)
        output = torch.cat(
            [self.decoder.iou_token.weight, self.decoder.mask_tokens.weight, self._further]
        )
        return torch.cat([output.expand(i * p, -1, -1), sparse], dim=1).unflatten(0, (i, p))

    def _self_attention(
        self, layer: "TwoWayAttentionBlock", asking: Tensor, values: Tensor
    ) -> Tensor:
        flat = asking.flatten(0, 1)
        return layer.self_attn(q=flat, k=flat, v=values.flatten(0, 1)).view_as(asking)

    def _split(self, projected: Tensor) -> Tensor:
        """Return (i, p, g, t, e) of (i, p, t, g * e)."""
        return projected.unflatten(3, (self.heads, -1)).transpose(2, 3)

    def _read_first(
        self, layer: "TwoWayAttentionBlock", tokens: Tensor, prompt: Tensor, shared: Shared
    ) -> Tensor:
        """Let the tokens attend to the embedding itself: one attention for all prompts."""
        attention = layer.cross_attn_token_to_image
        i, p, t, _ = tokens.shape
        query = attention.q_proj(tokens + prompt).flatten(1, 2).unflatten(2, (self.heads, -1))
        read = functional.scaled_dot_product_attention(
            query.transpose(1, 2), shared["k1"], shared["v1"]
        )
        read = attention.out_proj(read.transpose(1, 2).flatten(2)).view(i, p, t, -1)
        tokens = layer.norm2(tokens + read)
        return layer.norm3(tokens + layer.mlp(tokens))

    def _first_norm(
        self, layer: "TwoWayAttentionBlock", tokens: Tensor, prompt: Tensor, shared: Shared
    ) -> _Keys:
        query, values = self._answers(layer, tokens, prompt)
        spread = self._by_head(query, shared["q1"]).softmax(3).flatten(2, 3)
        keys = _Keys(2, spread[:, :, 0], spread, values)
        variance = self._squares(keys, shared) / self.decoder.transformer_dim
        return _Keys(2, torch.rsqrt_(variance.add_(layer.norm4.eps)), spread, values)

    def _second_norm(
        self,
        layer: "TwoWayAttentionBlock",
        tokens: Tensor,
        prompt: Tensor,
        keys: _Keys,
        shared: Shared,
    ) -> _Keys:
        query, values = self._answers(layer, tokens, prompt)
        spread = self._scores(query, "q2", keys, shared).softmax(3).flatten(2, 3)
        # In units of the first norm's scale, so that `shared` needs none of its own.
        unit = keys.scale[:, :, None].reciprocal()
        both = torch.cat([keys.spread, spread.mul_(unit), unit], dim=2)
        values = torch.cat([keys.values, values], dim=2)
        keys = _Keys(3, keys.scale, both, values)
        variance = self._squares(keys, shared) / self.decoder.transformer_dim
        variance.addcmul_(unit[:, :, 0], unit[:, :, 0], value=layer.norm4.eps)
        return _Keys(3, torch.rsqrt_(variance), both, values)

    def _answers(
        self, layer: "TwoWayAttentionBlock", tokens: Tensor, prompt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the image side attends to: the tokens' keys, scaled, and values."""
        attention = layer.cross_attn_image_to_token
        query = self._split(attention.k_proj(tokens + prompt))
        return query / math.sqrt(query.shape[-1]), self._split(attention.v_proj(tokens))

    def _by_head(self, query: Tensor, projected: Tensor) -> Tensor:
        """Return the products (i, p, g, t, n) of each head's queries with (i, g * e, n)."""
        heads = projected.unflatten(1, (query.shape[2], -1))
        return torch.einsum("ipgte,igen->ipgtn", query, heads)

    def _lifted(self, keys: _Keys, name: str) -> Tensor:
        """Return the columns of `lift` behind a projection, (i, p, r, k)."""
        weight = self._lift[name]
        g, e = keys.values.shape[2], keys.values.shape[4]
        heads, rest = weight[: g * e].view(g, e, -1), weight[g * e :]
        lifted = torch.einsum("ipgte,gek->ipgtk", keys.values, heads).flatten(2, 3)
        if not len(rest):
            return lifted
        return torch.cat([lifted, rest.expand(*lifted.shape[:2], -1, -1)], dim=2)

    def _squares(self, keys: _Keys, shared: Shared) -> Tensor:
        """Return the squared length (i, p, n) of the image side, before its scale."""
        g, t, e = keys.values.shape[2:]
        lifted = self._lifted(keys, f"gram{keys.stage}")
        own = lifted[..., : g * e].unflatten(3, (g, e))
        gram = torch.einsum("iprge,ipgte->iprgt", own, keys.values).flatten(3)
        gram = torch.cat([gram, lifted[..., g * e :]], dim=3)
        products = gram @ keys.spread
        linear = shared[f"o{keys.stage}"]
        by_head = self._by_head(keys.values, linear[:, : g * e])
        products[:, :, : g * t].add_(by_head.flatten(2, 3), alpha=2)
        products[:, :, g * t :].add_(linear[:, None, g * e :], alpha=2)
        return products.mul_(keys.spread).sum(2).add_(shared[f"x{keys.stage}"])

    def _scores(self, query: Tensor, name: str, keys: _Keys, shared: Shared) -> Tensor:
        """Return the products (i, p, g, s, n) of scaled queries with a projection of the keys."""
        lifted = self._lifted(keys, name).unflatten(3, (self.heads, -1))
        through = torch.einsum("ipgse,iprge->ipgsr", query, lifted).flatten(2, 3)
        scores = (through @ keys.spread).unflatten(2, query.shape[2:4])
        scores.add_(self._by_head(query, shared[name])).mul_(keys.scale[:, :, None, None])
        return scores.add_(self._by_head(query, self._position[name][None]))

    def _read(self, attention: "Attention", asking: Tensor, keys: _Keys, shared: Shared) -> Tensor:
        """Return what tokens read from the image side, (i, p, s, 256)."""
        query = self._split(attention.q_proj(asking))
        query = query / math.sqrt(query.shape[-1])
        weights = self._scores(query, f"k{keys.stage}", keys, shared).softmax(4)
        weights.mul_(keys.scale[:, :, None, None])
        name = f"v{keys.stage}"
        read = torch.einsum("ipgsn,igne->ipgse", weights, shared[name])
        through = weights.flatten(2, 3) @ keys.spread.transpose(2, 3)
        lifted = self._lifted(keys, name).unflatten(3, (self.heads, -1))
        read += torch.einsum("ipgsr,iprge->ipgse", through.view(*query.shape[:4], -1), lifted)
        read = read.transpose(2, 3).flatten(3) + self._position[name][:, 0]
        return attention.out_proj(read)

    def _masks(self, mask_tokens: Tensor, keys: _Keys, shared: Shared) -> Tensor:
        i, p, n = keys.scale.shape
        _, norm, activation, *_ = self.decoder.output_upscaling
        spread = torch.cat(
            [keys.spread * keys.scale[:, :, None], torch.ones_like(keys.scale[:, :, None])], dim=2
        )
        constant = self._position["up3"][:, 0].expand(i, p, 1, -1)
        lifted = torch.cat([self._lifted(keys, "up3"), constant], dim=2)
        upscaled = spread.transpose(2, 3) @ lifted
        upscaled.addcmul_(shared["up3"][:, None], keys.scale[..., None])
        if "twice" in shared:
            upscaled += shared["twice"][:, None]
        upscaled = upscaled.unflatten(3, (4, -1))
        upscaled = functional.layer_norm(
            upscaled, upscaled.shape[-1:], norm.weight, norm.bias, norm.eps
        )
        upscaled = functional.linear(activation(upscaled), *self._second)
        if "four times" in shared:
            upscaled += shared["four times"][:, None]
        upscaled = activation(upscaled).view(i, p, n * 16, -1)
        networks = self.decoder.output_hypernetworks_mlps
        weights = torch.stack([net(mask_tokens[:, :, m]) for m, net in enumerate(networks)], dim=2)
        logits = weights @ upscaled.transpose(2, 3)
        u, v = self.prompts.image_embedding_size
        logits = logits.view(i, p, -1, u, v, 2, 2, 2, 2)
        return logits.permute(0, 1, 2, 3, 5, 7, 4, 6, 8).reshape(i, p, -1, 4 * u, 4 * v)


def _by_pixel(finer: Tensor, grid_hw: Sequence[int]) -> Tensor:
    """Return (i, n, parts, k) of a finer map (i, k, rows, columns), n pixels of the grid.

    Parts are ordered as two upscalings make them: row and column of the half, then of the quarter.
    """
    rows, columns = grid_hw
    i, k, finer_rows, _ = finer.shape
    if finer_rows == 2 * rows:
        parts = finer.view(i, k, rows, 2, columns, 2).permute(0, 2, 4, 3, 5, 1)
    else:
        parts = finer.view(i, k, rows, 2, 2, columns, 2, 2).permute(0, 2, 5, 3, 6, 4, 7, 1)
    return parts.reshape(i, rows * columns, -1, k).contiguous()
