"""The weights of SAM's mask decoder, composed for `decoder.GridDecoder`.

Behind each norm of the two-way transformer the image side is

    scale * (shared + lift @ spread) + constant

(see `decoder`). Here the decoder's projections are multiplied, in double precision and once a
model, into what makes `shared` of an image embedding, and into what takes the values of a prompt's
tokens for `lift`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from segment_anything.modeling.image_encoder import Attention

    from usam_core.sam.backend import Backend


@dataclass(frozen=True, slots=True)
class Composed:
    """Constants of one model; the last digit of a name is the layer that reads (3: after both).

    Names: k, q, v are the projections of the cross attentions' image side, `up` is the first
    upscaling, `x` the centered image side itself, `o` its products with the columns of `lift`.

    Attributes:
        image: (k, 256) each, what multiplies the image embedding.
        image_constant: (k, n) each, what is added.
        lift: (j, k) each, from the tokens' values (j: 128 of layer 1, then 128 of layer 2, then
            one for what all prompts add); `gram2` and `gram3` give products of lifts.
        position: (k, n) each, what is added behind the norm's scale.
    """

    image: dict[str, Tensor]
    image_constant: dict[str, Tensor]
    lift: dict[str, Tensor]
    position: dict[str, Tensor]


@torch.inference_mode()
def compose(sam: "Backend") -> Composed:
    """Constants of a model, float64 on the CPU."""
    decoder, transformer = sam.mask_decoder, sam.mask_decoder.transformer
    one, two = transformer.layers
    last = transformer.final_attn_token_to_image
    width = decoder.transformer_dim
    position = _double(sam.image_position())[0].flatten(1)
    added = _double(sam.prompt_encoder.no_mask_embed.weight).T

    center = torch.eye(width, dtype=torch.float64) - 1 / width
    out_one, bias_one = _linear(one.cross_attn_image_to_token.out_proj)
    out_two, bias_two = _linear(two.cross_attn_image_to_token.out_proj)
    (gain_one, shift_one), (gain_two, shift_two) = _linear(one.norm4), _linear(two.norm4)
    gain_one, gain_two = gain_one[:, None], gain_two[:, None]

    # The image side before each norm's scale: of the image, and of the tokens' values.
    shared_one, lift_one = center, center @ out_one
    shared_two = center @ (gain_one * shared_one)
    lift_two = torch.cat(
        [center @ (gain_one * lift_one), center @ out_two, center @ (shift_one + bias_two)], dim=1
    )

    composed = Composed({}, {}, {}, {})

    def share(name: str, weight: Tensor, constant: Tensor) -> None:
        composed.image[name] = weight
        composed.image_constant[name] = constant.expand(-1, position.shape[1])

    def read(
        name: str, layer: tuple[Tensor, Tensor], stage: int, where: Tensor | float = 0.0
    ) -> None:
        weight, bias = layer
        if stage == 1:
            share(name, weight, weight @ (added + where) + bias)
            return
        gain, shift = (gain_one, shift_one) if stage == 2 else (gain_two, shift_two)
        shared, lift = (shared_one, lift_one) if stage == 2 else (shared_two, lift_two)
        through = weight @ (gain * shared)
        share(name, through, through @ (added + bias_one))
        composed.lift[name] = (weight @ (gain * lift)).T
        composed.position[name] = weight @ (shift + where) + bias

    for stage, layer in ((1, one), (2, two)):
        tokens_read, image_reads = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        read(f"k{stage}", _linear(tokens_read.k_proj), stage, position)
        read(f"v{stage}", _linear(tokens_read.v_proj), stage)
        read(f"q{stage}", _linear(image_reads.q_proj), stage, position)
    read("k3", _linear(last.k_proj), 3, position)
    read("v3", _linear(last.v_proj), 3)
    read("up3", upscaling(decoder.output_upscaling[0]), 3)
    for stage, shared, lift in ((2, shared_one, lift_one), (3, shared_two, lift_two)):
        share(f"x{stage}", shared, shared @ (added + bias_one))
        share(f"o{stage}", lift.T @ shared, lift.T @ shared @ (added + bias_one))
        composed.lift[f"gram{stage}"] = lift.T @ lift
    return composed


def upscaling(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return a 2 x 2 upscaling as a matrix (4 k, channels) and a column (4 k, 1).

    Rows go by the new pixel's row, its column, then by the channel.
    """
    assert layer.bias is not None
    weight = _double(layer.weight).permute(2, 3, 1, 0).flatten(0, 2)
    return weight, _double(layer.bias).repeat(4)[:, None]


def _linear(layer: nn.Linear | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return _double(layer.weight), _double(layer.bias)[:, None]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()


class FusedAttention(nn.Module):
    """An `Attention` of SAM's image encoder through `scaled_dot_product_attention`.

    The terms of the positions are products too: of what a query asks of each row and column, with
    ones where the key's row and column are. Appended to queries and keys they need no mask, which
    in a global block would have 17 million entries a head.

    Args:
        attention: the `Attention` to take the place of; its parameters are shared.
    """

    def __init__(self, attention: "Attention") -> None:
        super().__init__()
        self.qkv: nn.Linear = attention.qkv
        self.proj: nn.Linear = attention.proj
        self.num_heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.rel_pos_h: nn.Parameter = attention.rel_pos_h
        self.rel_pos_w: nn.Parameter = attention.rel_pos_w

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
