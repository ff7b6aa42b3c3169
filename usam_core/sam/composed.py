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

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


@dataclass(frozen=True, slots=True)
class Composed:
    """Constants of one model; the last digit of a name is the layer that reads (3: after both).

    Names: k, q, v are the projections of the cross attentions' image side, `up` is the first
    upscaling, `x` the centred image side itself, `o` its products with the columns of `lift`.

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
def compose(sam: "Sam") -> Composed:
    """Return the constants, float64 on the CPU."""
    decoder, transformer = sam.mask_decoder, sam.mask_decoder.transformer
    one, two = transformer.layers
    last = transformer.final_attn_token_to_image
    width = decoder.transformer_dim
    position = _double(sam.prompt_encoder.get_dense_pe())[0].flatten(1)
    added = _double(sam.prompt_encoder.no_mask_embed.weight).T

    center = torch.eye(width, dtype=torch.float64) - 1 / width
    out_one, bias_one = _linear(one.cross_attn_image_to_token.out_proj)
    out_two, bias_two = _linear(two.cross_attn_image_to_token.out_proj)
    gain_one, shift_one = _norm(one.norm4)
    gain_two, shift_two = _norm(two.norm4)

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

    def read(name: str, layer: nn.Linear, stage: int, where: Tensor | float) -> None:
        weight, bias = _linear(layer)
        _read(name, weight, bias, stage, where)

    def _read(name: str, weight: Tensor, bias: Tensor, stage: int, where: Tensor | float) -> None:
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
        read(f"k{stage}", tokens_read.k_proj, stage, position)
        read(f"v{stage}", tokens_read.v_proj, stage, 0.0)
        read(f"q{stage}", image_reads.q_proj, stage, position)
    read("k3", last.k_proj, 3, position)
    read("v3", last.v_proj, 3, 0.0)
    _read("up3", *upscaling(decoder.output_upscaling[0]), 3, 0.0)
    for stage, shared, lift in ((2, shared_one, lift_one), (3, shared_two, lift_two)):
        share(f"x{stage}", shared, shared @ (added + bias_one))
        share(f"o{stage}", lift.T @ shared, lift.T @ shared @ (added + bias_one))
        composed.lift[f"gram{stage}"] = lift.T @ lift
    return composed


def upscaling(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return a 2 x 2 upscaling as a matrix (4 k, channels) and a column (4 k, 1).

    Rows go by the new pixel's row, its column, then by the channel.
    """
    weight = _double(layer.weight).permute(2, 3, 1, 0).flatten(0, 2)
    return weight, _double(layer.bias).repeat(4)[:, None]


def _linear(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return _double(layer.weight), _double(layer.bias)[:, None]


def _norm(layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return _double(layer.weight)[:, None], _double(layer.bias)[:, None]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()
