"""The picture side of each family: patch features, their pooling in masks, the whole picture.

* DINOv2, DINOv3: the patch tokens after the last LayerNorm, without class and register tokens;
  pooled by their mean. The whole picture is the class token.
* CLIP: patch tokens are not trained to lie in the space of the texts. The last layer's values,
  taken through its output projection, the final LayerNorm and the projection into that space, do
  (MaskCLIP, arXiv 2112.01071); the layer's residual and MLP are left out (ClearCLIP, arXiv
  2407.12442, names the residual as the main noise). Both attend across patches or not at all; here
  the masks do that part, as CorrCLIP (arXiv 2411.10086) restricts attention to a mask.
* SigLIP 2: a pooling head asks all patches with one learned query. Its attention is restricted to
  a mask by adding the logarithm of each patch's share to the logits: a full mask gives the model's
  own embedding, exactly.
"""

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from usam_core.features.families import CLIP, NAFLEX, SIGLIP2, Kind


class Tower(Protocol):
    """One model's picture side.

    Attributes:
        width: f, the length of a vector.
    """

    width: int

    def patches(self, pixels: Tensor) -> Tensor:
        """Return (n, rows * columns, features) of normalised pixels (n, 3, height, width)."""
        ...

    def to(self, device: str) -> Self:
        """Move the weights to a device, as `torch.nn.Module.to` does."""
        ...

    def pool(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Return (p, f) of one picture's patches and weights (p, rows * columns) that sum to 1."""
        ...

    def whole(self, pixels: Tensor) -> Tensor:
        """Return the model's own vector of each picture, (n, f)."""
        ...


class DinoTower(nn.Module):
    """DINOv2 with or without registers, and DINOv3's vision transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = model.config.hidden_size
        self._not_patches = 1 + getattr(model.config, "num_register_tokens", 0)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, self._not_patches :]

    def pool(self, patches: Tensor, weights: Tensor) -> Tensor:
        return weights @ patches

    def whole(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).pooler_output


class ClipTower(nn.Module):
    """CLIP's vision transformer with its projection into the space of the texts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision = model.vision_model
        self.projection = model.visual_projection
        self.width = model.config.projection_dim

    def patches(self, pixels: Tensor) -> Tensor:
        states = self.vision(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states
        last = self.vision.encoder.layers[-1]
        attention = last.self_attn
        values = attention.out_proj(attention.v_proj(last.layer_norm1(states[-2][:, 1:])))
        return self.projection(self.vision.post_layernorm(values))

    def pool(self, patches: Tensor, weights: Tensor) -> Tensor:
        return weights @ patches

    def whole(self, pixels: Tensor) -> Tensor:
        found = self.vision(pixel_values=pixels, interpolate_pos_encoding=True)
        return self.projection(found.pooler_output)


class SiglipTower(nn.Module):
    """SigLIP 2 of a fixed size: patches as they come out, and the pooling head over a mask's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision = model.vision_model
        self.width = self.vision.config.hidden_size

    def patches(self, pixels: Tensor) -> Tensor:
        return self._see(pixels).last_hidden_state

    def pool(self, patches: Tensor, weights: Tensor) -> Tensor:
        head = self.vision.head
        attention = head.attention
        heads, size = attention.num_heads, attention.head_dim
        of_query, of_key, of_value = attention.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = attention.in_proj_bias.chunk(3)
        query = functional.linear(head.probe[0, 0], of_query, query_bias).view(heads, size)
        key = functional.linear(patches, of_key, key_bias).view(-1, heads, size)
        value = functional.linear(patches, of_value, value_bias).view(-1, heads, size)
        logits = torch.einsum("hs,lhs->hl", query, key) / size**0.5
        shares = torch.softmax(logits + weights.log()[:, None], dim=-1)  # masks, heads, patches
        seen = torch.einsum("phl,lhs->phs", shares, value).flatten(1)
        seen = attention.out_proj(seen)
        return seen + head.mlp(head.layernorm(seen))

    def whole(self, pixels: Tensor) -> Tensor:
        return self._see(pixels).pooler_output

    def _see(self, pixels: Tensor) -> Any:
        return self.vision(pixel_values=pixels, interpolate_pos_encoding=True)


class NaflexTower(SiglipTower):
    """SigLIP 2 of any size: it is given patches, row by row, channels last, and their grid.

    All pictures of a batch have one grid here, so that none is padded.
    """

    def _see(self, pixels: Tensor) -> Any:
        side = self.vision.config.patch_size
        n, channels, height, width = pixels.shape
        rows, columns = height // side, width // side
        patches = pixels.view(n, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        return self.vision(
            pixel_values=patches.reshape(n, rows * columns, -1),
            pixel_attention_mask=pixels.new_ones(n, rows * columns, dtype=torch.long),
            spatial_shapes=torch.tensor([[rows, columns]] * n, device=pixels.device),
        )


def build_tower(kind: Kind, model: Any) -> Tower:
    """Return the picture side of a loaded model; its text side is not kept."""
    if kind.family is CLIP:
        return ClipTower(model)
    if kind.model_type == NAFLEX:
        return NaflexTower(model)
    return SiglipTower(model) if kind.family is SIGLIP2 else DinoTower(model)
