"""Pictures that show how alike those of a name are, and which of their masks lie on the object."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from usam_core.compose.cutout import object_mask
from usam_core.compose.targets import mask_targets
from usam_core.config.compose import ComposeConfig
from usam_core.config.project import Project
from usam_core.head.bags import choose_masks
from usam_core.masks.bits import valid_hw
from usam_core.rng import derive_seed
from usam_core.store.store import EmbeddingStore
from usam_core.types import MaskSet

MAX = 30
"""Pictures of a name: each costs 20 ms, and a mean of more is no other."""
MIN_EXAMPLES = 5
"""Fewer pictures of a name are taken for chance; measured was nothing below 12."""
_LIMITS = {"min_area", "max_area", "min_center", "max_border"}


def example_inputs(project: Project) -> dict[str, Any]:
    """Return what the examples depend on beside the pictures themselves."""
    return {"object": project.config.compose.model_dump(mode="json", include=_LIMITS)}


def choose_examples(manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return class and sha256 of at most `MAX` pictures of each class, those of one class first.

    Args:
        manifest: `class` and `sha256` of the pictures that the head learns from.
        seed: decides which.
    """
    pictures = manifest[["class", "sha256"]].drop_duplicates()
    shared = pictures["sha256"].duplicated(keep=False)
    order = [derive_seed(seed, "examples", sha256) for sha256 in pictures["sha256"]]
    ranked = pictures.assign(shared=shared, order=order).sort_values(["class", "shared", "order"])
    return ranked.groupby("class").head(MAX)[["class", "sha256"]].reset_index(drop=True)


def masks_on_objects(
    project: Project, store: EmbeddingStore, shas: list[str], choice: str
) -> np.ndarray:
    """Return which mask of each prompt lies on the picture's one object, bool (n, d)."""
    index = store.index().set_index("sha256")
    found: dict[str, np.ndarray] = {}
    for shard, group in index.loc[sorted(set(shas))].groupby("shard"):
        for sha256, mask_set in store.read_shard(str(shard), group.index, [], tokens=False):
            found[sha256] = on_object(project.config.compose, mask_set, choice)
    return np.stack([found[sha256] for sha256 in shas])


def on_object(limits: ComposeConfig, mask_set: MaskSet, choice: str) -> np.ndarray:
    """Return which mask of each prompt lies on a picture's one object, bool (d,)."""
    # At the size of the masks: a picture's own may be a hundred times as large.
    small = replace(mask_set, size_hw=valid_hw(mask_set.size_hw, mask_set.packed_masks.shape[-2]))
    whole = object_mask(small, limits)
    if whole is None:
        return np.zeros(len(mask_set), bool)
    columns = {"predicted_iou": mask_set.predicted_iou, "packed_masks": mask_set.packed_masks}
    packed = mask_set.packed_masks[np.arange(len(mask_set)), choose_masks(columns, choice)]
    return mask_targets(packed, whole.astype(np.uint8), np.array([0, 1])) == 1
