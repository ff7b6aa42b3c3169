"""Put cut-out objects onto a background; what is visible of each is the scene's truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from usam_core.compose.cutout import Cutout
from usam_core.config.training import ComposeConfig, label_dtype
from usam_core.head.losses import UNKNOWN
from usam_core.labels.label_map import LabelMap
from usam_core.masks.bits import unpack, valid_hw

_TRIES = 12
_OUTSIDE = 0.3  # of an object's box: so far it may stand out of the frame


@dataclass(frozen=True, slots=True)
class ComposedScene:
    """A scene of several objects.

    Attributes:
        rgb: uint8 (h, w, 3).
        instances: uint8 (h, w), 0 background, i + 1 where object i is on top.
        names: the class of each object; every one is visible.
        sources: digest of each object's picture.
    """

    rgb: np.ndarray
    instances: np.ndarray
    names: tuple[str, ...]
    sources: tuple[str, ...]

    def label_map(self, classes: Sequence[str]) -> np.ndarray:
        """Return (h, w): 0 background, and ids of the objects' names in `classes`.

        uint8, or uint16 from 255 classes on.
        """
        kind, ids = label_dtype(len(classes)), LabelMap.of_names(classes).ids()
        return np.array([0, *(ids[name] for name in self.names)], kind)[self.instances]


def frame_size(rng: np.random.Generator, longest: int) -> tuple[int, int]:
    """Return rows and columns of a scene: lying or upright, 1:1 to 3:2."""
    short = round(longest * rng.uniform(2 / 3, 1))
    return (short, longest) if rng.random() < 0.5 else (longest, short)


def compose(
    rng: np.random.Generator,
    background: np.ndarray,
    cutouts: Sequence[Cutout],
    config: ComposeConfig,
) -> ComposedScene:
    """Paste the objects in their order, each over those before it.

    An object that finds no place, because too little of it or of an earlier one would be visible,
    is left out.

    Args:
        rng: decides sizes, places and flips.
        background: uint8 (h, w, 3).
        cutouts: the objects, of different classes.
        config: sizes and the least visible share.
    """
    rgb = background.astype(np.float32)
    size_hw = background.shape[:2]
    instances = np.zeros(size_hw, np.uint8)
    kept: list[Cutout] = []
    whole: list[int] = []
    for cutout in cutouts:
        for _ in range(_TRIES):
            color, cover, full = _placed(rng, cutout, size_hw, config)
            trial = np.where(cover >= 0.5, len(kept) + 1, instances).astype(np.uint8)
            visible = np.bincount(trial.ravel(), minlength=len(kept) + 2)[1:]
            if full and (visible >= config.min_visible * np.array([*whole, full])).all():
                rgb += cover[..., None] * (color - rgb)
                instances = trial
                kept.append(cutout)
                whole.append(full)
                break
    return ComposedScene(
        np.clip(rgb + 0.5, 0, 255).astype(np.uint8),
        instances,
        tuple(cutout.class_name for cutout in kept),
        tuple(cutout.sha256 for cutout in kept),
    )


def _placed(
    rng: np.random.Generator, cutout: Cutout, size_hw: tuple[int, int], config: ComposeConfig
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return an object at a random size and place, how much of each pixel it covers, its area.

    The area counts what stands out of the frame too.
    """
    rows, columns = np.nonzero(cutout.mask)
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    color, mask = cutout.rgb[top:bottom, left:right], cutout.mask[top:bottom, left:right]
    if rng.random() < 0.5:
        color, mask = color[:, ::-1], mask[:, ::-1]
    side = min(size_hw) * rng.uniform(*config.object_sides)
    scale = side / max(mask.shape)
    h, w = (max(1, round(length * scale)) for length in mask.shape)
    small = Image.fromarray(np.ascontiguousarray(color)).resize((w, h), Image.Resampling.BICUBIC)
    grey = Image.fromarray((mask * 255).astype(np.uint8)).resize((w, h), Image.Resampling.BILINEAR)
    cover = np.asarray(grey, np.float32) / 255
    place = [
        round(rng.uniform(-_OUTSIDE * length, room - (1 - _OUTSIDE) * length))
        for length, room in zip((h, w), size_hw, strict=True)
    ]
    full_color = np.zeros((*size_hw, 3), np.float32)
    full_cover = np.zeros(size_hw, np.float32)
    (y, x), (frame_h, frame_w) = place, size_hw
    inside = slice(max(0, y), min(frame_h, y + h)), slice(max(0, x), min(frame_w, x + w))
    own = (
        slice(inside[0].start - y, inside[0].stop - y),
        slice(inside[1].start - x, inside[1].stop - x),
    )
    full_color[inside] = np.asarray(small, np.float32)[own]
    full_cover[inside] = cover[own]
    return full_color, full_cover, int((cover >= 0.5).sum())


PURE = 0.75
"""A mask shows a class when at least so much of it lies on it."""
CLEAR = 0.9
"""And background when at least so much of it lies on no object."""


def mask_targets(packed: np.ndarray, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what each mask shows, int64 (d,).

    Args:
        packed: uint8 (d, u, b), one mask a prompt.
        truth: (h, w), 0 background, i for class i.
        values: int64, the head's class of each label of `truth`; of label 0, the number that
            stands for background.
    """
    rows, columns = valid_hw(truth.shape[:2], packed.shape[-2])
    small = Image.fromarray(truth).resize((columns, rows), Image.Resampling.NEAREST)
    label = values[np.asarray(small)].ravel()
    masks = unpack(packed)[:, :rows, :columns].reshape(len(packed), -1)
    kinds, inverse = np.unique(label, return_inverse=True)
    counts = masks.astype(np.float32) @ np.eye(len(kinds), dtype=np.float32)[inverse]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    best = share.argmax(axis=1)
    targets = kinds[best].astype(np.int64)
    least = np.where(targets == values[0], CLEAR, PURE)
    targets[share[np.arange(len(share)), best] < least] = UNKNOWN
    return targets
