"""Region features by an encoder of `transformers`: images and masks in, a vector a mask out.

The picture side of each family gives patch features, their pooling in masks, the whole picture:

* DINOv2, DINOv3: the patch tokens after the last LayerNorm, without class and register tokens;
  pooled by their mean. The whole picture is the class token.
* CLIP: patch tokens are not trained to lie in the space of the texts. The last layer's values,
  taken through its output projection, the final LayerNorm and the projection into that space, do
  (MaskCLIP, arXiv 2112.01071); the layer's residual and MLP are left out (ClearCLIP, arXiv
  2407.12442, names the residual as the main noise). Both attend across patches or not at all; here
  the masks do that part, as CorrCLIP (arXiv 2411.10086) restricts attention to a mask.
* TIPSv2: as DINO; its patch tokens are trained to lie in the space of the texts, and its registers
  are a second class token.
* RADIO: its dense features, likewise; its summary has another width, so the whole picture is the
  mean of all patches.
* SigLIP 2: a pooling head asks all patches with one learned query. Its attention is restricted to
  a mask by adding the logarithm of each patch's share to the logits: a full mask gives the model's
  own embedding, exactly.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from usam_core.config.model import FeatureConfig
from usam_core.features.model import (
    CLIP,
    NAFLEX,
    RADIO,
    SIGLIP2,
    TIPSV2,
    Kind,
    ModelFiles,
    find_model,
    load_model,
)
from usam_core.features.regions import (
    Crop,
    RegionEncoder,
    Regions,
    crop_mask,
    crop_of,
    crop_pixels,
    find_regions,
    grid_of,
    in_batches,
    masked_pixels,
    masks_at,
    normalized,
    normalized_pixels,
    scaled,
    weights_on_grid,
)
from usam_core.sam.load import choose_device
from usam_core.types import MaskSet

FEATURES_REVISION = 1
"""Part of every block's name; raised when the same model and image give other numbers."""

_BATCH = {"cpu": 4, "cuda": 32, "mps": 8}
_LARGEST = float(np.finfo(np.float16).max)


class Tower(nn.Module):
    """One model's picture side; `width` is f, the length of a vector."""

    width: int

    def patches(self, pixels: Tensor) -> Tensor:
        """(n, rows * columns, features) of normalized pixels (n, 3, height, width)."""
        raise NotImplementedError

    def pool(self, patches: Tensor, weights: Tensor) -> Tensor:
        """(p, f) of one picture's patches and weights (p, rows * columns) that sum to 1."""
        return weights @ patches

    def whole(self, pixels: Tensor) -> Tensor:
        """The model's own vector of each picture, (n, f)."""
        raise NotImplementedError


class DinoTower(Tower):
    """DINOv2 with or without registers, DINOv3's vision transformers, and TIPSv2's picture side."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = model.config.hidden_size
        self._not_patches = 1 + getattr(model.config, "num_register_tokens", 0)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, self._not_patches :]

    def whole(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).pooler_output


class RadioTower(Tower):
    """C-RADIO, without the adaptors to other models' spaces, which `transformers` leaves out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.width = model.config.hidden_size

    def patches(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).features

    def whole(self, pixels: Tensor) -> Tensor:
        return self.patches(pixels).mean(1)


class ClipTower(Tower):
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
        values = last.self_attn.v_proj(last.layer_norm1(states[-2][:, 1:]))
        return self.projection(self.vision.post_layernorm(last.self_attn.out_proj(values)))

    def whole(self, pixels: Tensor) -> Tensor:
        states = self.vision(pixel_values=pixels, interpolate_pos_encoding=True)
        return self.projection(states.pooler_output)


class SiglipTower(Tower):
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
    """The picture side of a loaded model; its text side is not kept."""
    if kind.family is CLIP:
        return ClipTower(model)
    if kind.family is RADIO:
        return RadioTower(model)
    if kind.family is TIPSV2:
        return DinoTower(model.vision_model)
    if kind.model_type == NAFLEX:
        return NaflexTower(model)
    return SiglipTower(model) if kind.family is SIGLIP2 else DinoTower(model)


class TowerEncoder:
    """Describes masks by one tower; batches and threads change its numbers by rounding only."""

    def __init__(self, config: FeatureConfig, files: ModelFiles, tower: Tower, device: str) -> None:
        self.spec = _spec(config, files)
        self.width = tower.width
        self.batch_size = config.batch_size or _BATCH[device]
        self._config = config
        self._how = files.kind.normalization
        self._patch = files.kind.patch
        self._tower = tower.to(device)
        self._device = torch.device(device)
        self._reduced = config.dtype == "bfloat16" or (config.dtype == "auto" and device == "cuda")
        self._longest = files.kind.patches_along(config.image_size)
        self._size = self._longest * self._patch
        self._none = torch.zeros(0, self.width)

    @torch.inference_mode()
    def describe(
        self, images: Sequence[np.ndarray], mask_sets: Sequence[MaskSet]
    ) -> list[np.ndarray]:
        """See `RegionEncoder`."""
        regions = [find_regions(masks) for masks in mask_sets]
        if self._config.pooling == "dense":
            vectors = self._dense(images, regions)
        else:
            one = self._crops if self._config.pooling == "crop" else self._masked
            vectors = [one(image, part) for image, part in zip(images, regions, strict=True)]
        return [
            rows.clamp(-_LARGEST, _LARGEST).cpu().numpy().astype(np.float16)[part.which]
            for rows, part in zip(vectors, regions, strict=True)
        ]

    def _dense(self, images: Sequence[np.ndarray], regions: list[Regions]) -> list[Tensor]:
        by_grid: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            by_grid.setdefault(grid_of(image.shape[:2], self._longest), []).append(i)
        vectors: dict[int, Tensor] = {}
        for grid, numbers in by_grid.items():
            frames = [scaled(images[i], self._pixels(grid), self._how.resample) for i in numbers]

            def patches_of(some: Sequence[np.ndarray]) -> Tensor:
                return self._run(self._tower.patches, normalized_pixels(some, self._how))

            every = in_batches(patches_of, frames, self.batch_size)
            for i, patches in zip(numbers, every, strict=True):
                pooled = [
                    self._tower.pool(patches, weights.to(self._device))
                    for weights in weights_on_grid(regions[i], grid)
                ]
                vectors[i] = torch.cat(pooled) if pooled else self._none
                self._look_closer(images[i], regions[i], vectors[i])
        return [vectors[i] for i in range(len(images))]

    def _look_closer(self, image: np.ndarray, regions: Regions, vectors: Tensor) -> None:
        """Average small regions' vectors with those pooled in their own crops."""
        small = np.flatnonzero(regions.shares() < self._config.crop_below).tolist()

        def closer(numbers: Sequence[int]) -> Tensor:
            crops = [crop_of(regions, number) for number in numbers]
            masks = [
                crop_mask(regions, number, crop, self._size)
                for number, crop in zip(numbers, crops, strict=True)
            ]
            patches = self._run(self._tower.patches, self._crop_pixels(image, crops))
            grid = (self._longest, self._longest)
            weights = normalized(torch.stack(masks), grid).to(self._device)
            return torch.cat(
                [self._tower.pool(patches[i], weights[i : i + 1]) for i in range(len(numbers))]
            )

        for number, vector in zip(small, in_batches(closer, small, self.batch_size), strict=True):
            vectors[number] = (vectors[number] + vector) / 2

    def _crops(self, image: np.ndarray, regions: Regions) -> Tensor:
        crops = [crop_of(regions, number) for number in range(len(regions))]
        different = list(dict.fromkeys(crops))

        def whole(some: Sequence[Crop]) -> Tensor:
            return self._run(self._tower.whole, self._crop_pixels(image, some))

        vectors = dict(zip(different, in_batches(whole, different, self.batch_size), strict=True))
        return torch.stack([vectors[crop] for crop in crops]) if crops else self._none

    def _masked(self, image: np.ndarray, regions: Regions) -> Tensor:
        size_hw = self._pixels(grid_of(image.shape[:2], self._longest))
        frame = scaled(image, size_hw, self._how.resample)

        def whole(numbers: Sequence[int]) -> Tensor:
            masks = masks_at(regions, list(numbers), size_hw)
            return self._run(self._tower.whole, masked_pixels(frame, masks, self._how))

        vectors = [*in_batches(whole, range(len(regions)), self.batch_size)]
        return torch.stack(vectors) if vectors else self._none

    def _crop_pixels(self, image: np.ndarray, crops: Sequence[Crop]) -> Tensor:
        return torch.stack([crop_pixels(image, crop, self._size, self._how) for crop in crops])

    def _run(self, call: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._reduced):
            return call(pixels.to(self._device)).float()

    def _pixels(self, grid: tuple[int, int]) -> tuple[int, int]:
        return grid[0] * self._patch, grid[1] * self._patch


def encoder_spec(config: FeatureConfig, root: Path) -> dict[str, Any]:
    """What identifies an encoder's numbers, without its weights; errors as of `open_encoder`.

    A model of the hub is asked for its commit and small files only.
    """
    return _spec(config, find_model(config, root, with_weights=False))


def open_encoder(config: FeatureConfig, device: str, root: Path) -> RegionEncoder:
    """The encoder of these settings; a process loads each model once.

    A model's folder counts from `root`; `device` is `auto`, `cuda`, `mps` or `cpu`.

    Raises:
        InputError: there is no such model, it cannot be loaded, or no such device.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    device = choose_device(device)
    return _open_encoder(config, find_model(config, root), device)


@functools.lru_cache(maxsize=4)
def _open_encoder(config: FeatureConfig, files: ModelFiles, device: str) -> TowerEncoder:
    return TowerEncoder(config, files, build_tower(files.kind, load_model(files)), device)


def _spec(config: FeatureConfig, files: ModelFiles) -> dict[str, Any]:
    kind = files.kind
    return {
        **kind.as_json(),
        "weights": files.weights,
        "image_size": kind.patches_along(config.image_size) * kind.patch,
        "pooling": config.pooling,
        "crop_below": config.crop_below if config.pooling == "dense" else 0.0,
        "revision": FEATURES_REVISION,
    }
