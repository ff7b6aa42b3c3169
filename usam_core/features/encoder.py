"""Region features by an encoder of `transformers`: images and masks in, a vector a mask out."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from usam_core.config.model import FeatureConfig
from usam_core.features.base import (
    RegionEncoder,
    Regions,
    find_regions,
    normalized,
    weights_on_grid,
)
from usam_core.features.crops import (
    crop_mask,
    crop_of,
    crop_pixels,
    grid_of,
    in_batches,
    masked_pixels,
    masks_at,
    normalized_pixels,
    scaled,
)
from usam_core.features.model import ModelFiles, find_model, load_model
from usam_core.features.towers import Tower, build_tower
from usam_core.sam.load import choose_device
from usam_core.types import MaskSet

FEATURES_REVISION = 1
"""Part of every block's name; raised when the same model and image give other numbers."""

_BATCH = {"cpu": 4, "cuda": 32, "mps": 8}
_LARGEST = float(np.finfo(np.float16).max)


class TowerEncoder:
    """Describes masks by one tower; batches and threads change its numbers by rounding only.

    Args:
        config: size, pooling, arithmetic.
        files: the model on disk.
        tower: its picture side.
        device: where it runs.
    """

    def __init__(self, config: FeatureConfig, files: ModelFiles, tower: Tower, device: str) -> None:
        self.spec = _spec(config, files)
        self.width = tower.width
        self.batch_size = config.batch_size or _BATCH[device]
        self._config = config
        self._kind = files.kind
        self._tower = tower.to(device)
        self._device = torch.device(device)
        self._reduced = config.dtype == "bfloat16" or (config.dtype == "auto" and device == "cuda")
        self._longest = files.kind.patches_along(config.image_size)

    @torch.inference_mode()
    def describe(
        self, images: Sequence[np.ndarray], mask_sets: Sequence[MaskSet]
    ) -> list[np.ndarray]:
        """Return float16 (d, m, f) of each image; see `RegionEncoder`."""
        regions = [find_regions(masks) for masks in mask_sets]
        found = self._vectors(images, regions)
        return [
            vectors.clamp(-_LARGEST, _LARGEST).cpu().numpy().astype(np.float16)[part.which]
            for vectors, part in zip(found, regions, strict=True)
        ]

    def _vectors(self, images: Sequence[np.ndarray], regions: list[Regions]) -> list[Tensor]:
        if self._config.pooling == "dense":
            return self._dense(images, regions)
        one = self._crops if self._config.pooling == "crop" else self._masked
        return [one(image, part) for image, part in zip(images, regions, strict=True)]

    def _dense(self, images: Sequence[np.ndarray], regions: list[Regions]) -> list[Tensor]:
        by_grid: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            by_grid.setdefault(grid_of(image.shape[:2], self._longest), []).append(i)
        found: dict[int, Tensor] = {}
        for grid, numbers in by_grid.items():
            frames = [scaled(images[i], self._pixels(grid), self._resample) for i in numbers]
            for i, patches in zip(numbers, self._patches_of(frames), strict=True):
                pooled = [
                    self._tower.pool(patches, weights.to(self._device))
                    for weights in weights_on_grid(regions[i], grid)
                ]
                found[i] = torch.cat(pooled) if pooled else patches.new_zeros(0, self.width)
                self._look_closer(images[i], regions[i], found[i])
        return [found[i] for i in range(len(images))]

    def _look_closer(self, image: np.ndarray, regions: Regions, vectors: Tensor) -> None:
        """Average small regions' vectors with those pooled in their own crops."""
        size = self._pixels((self._longest, self._longest))[0]
        grid = (self._longest, self._longest)
        small = np.flatnonzero(regions.shares() < self._config.crop_below).tolist()

        def closer(numbers: Sequence[int]) -> Tensor:
            crops = [crop_of(regions, number) for number in numbers]
            how = self._kind.normalization
            pixels = torch.stack([crop_pixels(image, crop, size, how) for crop in crops])
            covered = torch.stack(
                [crop_mask(regions, n, c, size) for n, c in zip(numbers, crops, strict=True)]
            )
            patches = self._run(self._tower.patches, pixels)
            weights = normalized(covered, grid).to(self._device)
            return torch.cat(
                [self._tower.pool(patches[i], weights[i : i + 1]) for i in range(len(numbers))]
            )

        for number, vector in zip(small, in_batches(closer, small, self.batch_size), strict=True):
            vectors[number] = (vectors[number] + vector) / 2

    def _crops(self, image: np.ndarray, regions: Regions) -> Tensor:
        size = self._pixels((self._longest, self._longest))[0]
        crops = [crop_of(regions, number) for number in range(len(regions))]
        different = list(dict.fromkeys(crops))

        def whole(some: Sequence[Any]) -> Tensor:
            how = self._kind.normalization
            pixels = torch.stack([crop_pixels(image, crop, size, how) for crop in some])
            return self._run(self._tower.whole, pixels)

        found = dict(zip(different, in_batches(whole, different, self.batch_size), strict=True))
        return self._stacked([found[crop] for crop in crops])

    def _masked(self, image: np.ndarray, regions: Regions) -> Tensor:
        size_hw = self._pixels(grid_of(image.shape[:2], self._longest))
        frame = scaled(image, size_hw, self._resample)

        def whole(numbers: Sequence[int]) -> Tensor:
            masks = masks_at(regions, list(numbers), size_hw)
            return self._run(
                self._tower.whole, masked_pixels(frame, masks, self._kind.normalization)
            )

        return self._stacked(list(in_batches(whole, range(len(regions)), self.batch_size)))

    def _patches_of(self, frames: list[np.ndarray]) -> Any:
        def patches(some: Sequence[np.ndarray]) -> Tensor:
            return self._run(self._tower.patches, normalized_pixels(some, self._kind.normalization))

        return in_batches(patches, frames, self.batch_size)

    def _run(self, call: Any, pixels: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._reduced):
            return call(pixels.to(self._device)).float()

    def _stacked(self, vectors: list[Tensor]) -> Tensor:
        return torch.stack(vectors) if vectors else torch.zeros(0, self.width)

    def _pixels(self, grid: tuple[int, int]) -> tuple[int, int]:
        return grid[0] * self._kind.patch, grid[1] * self._kind.patch

    @property
    def _resample(self) -> int:
        return self._kind.normalization.resample


def encoder_spec(config: FeatureConfig, root: Path) -> dict[str, Any]:
    """Return what identifies an encoder's numbers, without its weights in memory.

    A model of the hub is asked for its commit and small files only.

    Raises:
        InputError: there is no such model, or it is of no known family.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    return _spec(config, find_model(config, root, with_weights=False))


def open_encoder(config: FeatureConfig, device: str, root: Path) -> RegionEncoder:
    """Return the encoder of these settings; a process loads each model once.

    Args:
        config: which model, and how masks get vectors from it.
        device: `auto`, `cuda`, `mps` or `cpu`.
        root: folder of the project file; a model's folder counts from it.

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
