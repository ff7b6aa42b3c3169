"""Masks of an image, made now, as the store would give them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from usam_core.config.model import SamConfig
from usam_core.errors import InputError
from usam_core.images.ref import Box, Tile
from usam_core.labels.image import LabelledImage
from usam_core.sam.load import encoder_spec, open_embedder
from usam_core.steps.render import reduced
from usam_core.store.arrays import decode_rows8, encode_rows8
from usam_core.store.layout import PRECISION
from usam_core.types import MaskSet

Embed = Callable[[np.ndarray], MaskSet]
"""Gives SAM's masks of pixels, uint8 (h, w, 3)."""


def embedder_of(spec: Mapping[str, Any], sam: SamConfig | None = None) -> Embed:
    """What embeds images with the SAM that a head learned from.

    Args:
        spec: what identifies the embeddings, of the head's card.
        sam: where it runs, or a checkpoint of one's own; None takes the SAM that `spec` names.

    Raises:
        InputError: when it is called: it is another SAM.
    """

    def embed(rgb: np.ndarray) -> MaskSet:
        named = {key: spec[key] for key in ("model", "points_per_side", "dtype") if key in spec}
        _, of_the_hub, commit = str(spec.get("checkpoint_sha256")).partition("@")
        chosen = sam or SamConfig(**named, revision=commit if of_the_hub else None)
        found = encoder_spec(chosen, chosen.checkpoint)
        differs = {key: (spec.get(key), found[key]) for key in found if found[key] != spec.get(key)}
        if differs:
            told = ", ".join(f"{key}: {old}, here {new}" for key, (old, new) in differs.items())
            raise InputError(
                f"the head learned from another SAM ({told}); expected the same one: "
                "Head.load(file, sam=SamConfig(...))"
            )
        return embed_now(rgb, chosen, chosen.checkpoint, spec.get(PRECISION))

    return embed


def embed_now(
    rgb: np.ndarray, sam: SamConfig, checkpoint: Path | None, precision: str | None
) -> MaskSet:
    """Run SAM over an image.

    Args:
        rgb: uint8 (h, w, 3).
        sam: which one.
        checkpoint: its local file, or None.
        precision: `int8` rounds tokens and features as a store of that precision does.
    """
    (masks,) = open_embedder(sam, checkpoint).embed([rgb])
    if precision != "int8":
        return masks
    features = {name: _rounded(block) for name, block in masks.features.items()}
    tokens = None if masks.tokens is None else _rounded(masks.tokens)
    return replace(masks, tokens=tokens, features=features)


def _rounded(values: np.ndarray) -> np.ndarray:
    return decode_rows8(encode_rows8(values))


def with_picture(
    labelled: LabelledImage,
    read: Callable[[Box | None], np.ndarray],
    tiles: list[Tile] | None = None,
    **known: Any,
) -> LabelledImage:
    """A labelled image that knows where its pixels are.

    Args:
        labelled: the image.
        read: as `GivenImage.read`.
        tiles: of a large image.
        known: attributes to change.
    """

    def picture(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return reduced(labels, tiles or [], read)

    return replace(labelled, picture=picture, **known)
