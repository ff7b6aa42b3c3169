"""A cheap encoder in place of those of `transformers`, for tests of what lies around them.

It stands in the seam of `usam_core.features.regions`: a vector is the picture's mean colour, the
share of the frame under the mask, and a number of the model's own.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usam_core.config.model import FeatureConfig
from usam_core.masks.bits import areas
from usam_core.steps.blocks import block_specs
from usam_core.store.reader import block_id
from usam_core.types import MaskSet

FEATURES = {"colour": {"model": "a/b"}}
IMAGES = 15
"""Of the tiny project: 4 to be labelled, 9 training pictures, 2 composed scenes."""

calls: list[int] = []
"""How many images each call of any encoder was given."""


class MeanColor:
    width = 5

    def __init__(self, config: FeatureConfig) -> None:
        self.spec = encoder_spec(config, Path())
        self.batch_size = config.batch_size or 2
        self._own = hashlib.sha256(config.model.encode()).digest()[0] / 256

    def describe(
        self, images: Sequence[np.ndarray], mask_sets: Sequence[MaskSet]
    ) -> list[np.ndarray]:
        calls.append(len(images))
        return [self._one(*pair) for pair in zip(images, mask_sets, strict=True)]

    def _one(self, image: np.ndarray, masks: MaskSet) -> np.ndarray:
        share = areas(masks.packed_masks) / masks.packed_masks[0, 0].size / 8
        vectors = np.empty((*share.shape, self.width), np.float16)
        vectors[..., :3] = image.mean((0, 1)) / 255
        vectors[..., 3] = share
        vectors[..., 4] = self._own
        return vectors


def encoder_spec(config: FeatureConfig, root: Path) -> dict:
    return {"family": "mean", "weights": config.model, "size": config.image_size}


def open_encoder(config: FeatureConfig, device: str, root: Path) -> MeanColor:
    return MeanColor(config)


def stand_in(blocks) -> None:
    """Put the cheap encoder where `usam_core.steps.blocks` looks for encoders."""
    blocks.encoder_spec = encoder_spec
    blocks.open_encoder = open_encoder


def images_of(store):
    """Return where each image of a store lies, by its digest."""
    index = store.index(refresh=True)
    return index.loc[index["status"] == "ok"].set_index("sha256")["source"].to_dict()


def block_of(project, name="colour"):
    """Return the id of a project's block."""
    return block_id(block_specs(project)[name])
