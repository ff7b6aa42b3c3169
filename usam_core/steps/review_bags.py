"""Bags of the masks that a person has judged: what `head.reviewed` adds to the lessons."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from usam_core.config.project import Project
from usam_core.masks.bits import pack, valid_hw
from usam_core.masks.rle import decode
from usam_core.review.decisions import SAME_MASK, Decision
from usam_core.steps.blocks import with_blocks
from usam_core.steps.review_log import decided
from usam_core.store.store import EmbeddingStore


@dataclass(slots=True)
class ReviewedBags:
    """Bags of one name each, of masks that a person called so; columns of one length.

    Attributes:
        shas: digest of each bag's image.
        names: what all masks of the bag show; None for masks that were rejected.
        picked: for each bag int64 (d, 2), prompt and mask of its rows, repeated to fill it.
    """

    shas: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    picked: list[np.ndarray] = field(default_factory=list)


def reviewed_bags(project: Project, store: EmbeddingStore, names: Sequence[str]) -> ReviewedBags:
    """Return the bags that decisions give; those of masks that SAM does not make now are left out.

    Args:
        project: the project.
        store: the embeddings; their index is fresh.
        names: the head's outputs. Rejected masks are used only with `head.background`.
    """
    config, found = project.config, ReviewedBags()
    said = decided(project.out)
    index = store.index()
    embedded = set(index.loc[index["status"] == "ok", "sha256"])
    usable = with_blocks(project, store, embedded.intersection(said))
    for sha256, columns in store.read_rows(sorted(usable), ["packed_masks"]):
        packed = columns["packed_masks"]
        rows: dict[str | None, list[np.ndarray]] = {}
        for decision in said[sha256]:
            label = decision.label and config.label_of.get(decision.label, decision.label)
            if label in names or (label is None and config.head.background):
                rows.setdefault(label, []).append(same_masks(packed, decision))
        for label, parts in rows.items():
            picked = np.unique(np.concatenate(parts), axis=0)
            if len(picked):
                found.shas.append(sha256)
                found.names.append(label)
                found.picked.append(np.resize(picked, (len(packed), 2)))
    return found


def same_masks(packed: np.ndarray, decision: Decision) -> np.ndarray:
    """Return prompt and number of every mask that is the decision's, int64 (k, 2).

    Args:
        packed: uint8 (d, m, u, b), the image's masks.
        decision: of a mask of that image.
    """
    mask = decode(decision.mask)
    frame = packed.shape[-2]
    rows, columns = valid_hw(mask.shape, frame)
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.zeros((frame, packed.shape[-1] * 8), bool)
    small[:rows, :columns] = np.asarray(grey.resize((columns, rows), Image.Resampling.BOX)) >= 128
    wanted = pack(small)
    shared = np.bitwise_count(packed & wanted).sum(axis=(2, 3), dtype=np.int64)
    either = np.bitwise_count(packed | wanted).sum(axis=(2, 3), dtype=np.int64)
    return np.argwhere(shared >= SAME_MASK * np.maximum(either, 1))
