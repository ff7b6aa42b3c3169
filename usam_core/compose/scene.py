"""Cut the objects out of training pictures and put them onto a background.

What is visible of each object is the scene's truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from usam_core.config.training import ComposeConfig
from usam_core.head.losses import UNKNOWN
from usam_core.masks.bits import unpack, upscale, valid_hw
from usam_core.sources.scenes import Scene, surface
from usam_core.types import MaskSet

_SPECK = 0.1
_GRID = 32
_MIN_SIDE = 5  # of the grid: a smaller part, made large, shows pixels and nothing else
_BLUR = 1 / 14  # of the shorter side: nothing can be recognized any more
_TRIES = 12
_OUTSIDE = 0.3  # of an object's box: so far it may stand out of the frame
PURE = 0.75
"""A mask shows a class when at least so much of it lies on it."""
CLEAR = 0.9
"""And background when at least so much of it lies on no object."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """A picture and where its object is.

    Attributes:
        class_name: what the object is.
        sha256: digest of the picture.
        rgb: uint8 (h, w, 3), the whole picture.
        mask: bool (h, w), the object.
    """

    class_name: str
    sha256: str
    rgb: np.ndarray
    mask: np.ndarray


def object_mask(mask_set: MaskSet, config: ComposeConfig) -> np.ndarray | None:
    """The mask of the picture's single object, bool (h, w), or None.

    Of the masks of a plausible size that hold some of the middle and little of the border, it is
    the one with the largest product of predicted IoU and stability.

    Args:
        mask_set: SAM's masks of the picture.
    """
    d, m = mask_set.predicted_iou.shape
    packed = mask_set.packed_masks.reshape(d * m, *mask_set.packed_masks.shape[2:])
    rows, columns = valid_hw(mask_set.size_hw, packed.shape[-2])
    masks = unpack(packed)[:, :rows, :columns]
    area = masks.mean(axis=(1, 2))
    right = (
        (area >= config.min_area)
        & (area <= config.max_area)
        & (center_share(masks) >= config.min_center)
        & (border_share(masks) <= config.max_border)
    )
    if not right.any():
        return None
    quality = (mask_set.predicted_iou * mask_set.stability).reshape(-1)
    best = int(np.where(right, quality, -np.inf).argmax())
    return without_specks(upscale(packed[best : best + 1], mask_set.size_hw)[0])


def without_specks(mask: np.ndarray) -> np.ndarray:
    """A mask (h, w) without parts smaller than a tenth of its largest, and without holes smaller
    than a tenth of what is left.

    >>> int(without_specks(np.array([[True, True, True], [False] * 3, [False] * 3])).sum())
    3
    """
    for value in (True, False):
        parts, _ = ndimage.label(mask == value)
        sizes = np.bincount(parts.ravel())
        min_size = _SPECK * (sizes[1:].max() if value else mask.sum())
        small = sizes < min_size
        small[0] = False
        mask = mask ^ small[parts]
    return mask


def center_share(masks: np.ndarray) -> np.ndarray:
    """Share of the middle ninth of the frame that each mask covers, float64 (p,)."""
    h, w = masks.shape[1:]
    middle = masks[:, h // 3 : max(h // 3 + 1, 2 * h // 3), w // 3 : max(w // 3 + 1, 2 * w // 3)]
    return middle.mean(axis=(1, 2))


def border_share(masks: np.ndarray) -> np.ndarray:
    """Share of the frame's border that each mask covers, float64 (p,)."""
    edges = [masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]]
    return np.concatenate(edges, axis=1).mean(axis=1)


def texture(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """A drawn surface, uint8 (h, w, 3)."""
    return np.clip(surface(rng, size_hw), 0, 255).astype(np.uint8)


def blurred(rgb: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """A whole picture, filling the frame, blurred until nothing can be recognized."""
    sigma = min(size_hw) * _BLUR
    filled = fill(rgb, size_hw).astype(np.float32)
    return ndimage.gaussian_filter(filled, (sigma, sigma, 0)).astype(np.uint8)


def beside(cutout: Cutout, size_hw: tuple[int, int]) -> np.ndarray | None:
    """The largest part of a picture beside its object, filling the frame; None if small."""
    h, w = cutout.mask.shape
    cells = np.zeros((_GRID, _GRID), bool)
    rows, columns = np.nonzero(cutout.mask)
    cells[rows * _GRID // h, columns * _GRID // w] = True
    top, left, bottom, right = largest_empty(ndimage.binary_dilation(cells))
    if min(bottom - top, right - left) < _MIN_SIDE:
        return None
    part = cutout.rgb[
        top * h // _GRID : bottom * h // _GRID, left * w // _GRID : right * w // _GRID
    ]
    return fill(part, size_hw) if min(part.shape[:2]) > 1 else None


def fill(rgb: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Scale a picture so that it covers the frame, and cut off what stands out, evenly."""
    h, w = size_hw
    scale = max(h / rgb.shape[0], w / rgb.shape[1])
    wide = (max(w, round(rgb.shape[1] * scale)), max(h, round(rgb.shape[0] * scale)))
    large = np.asarray(Image.fromarray(rgb).resize(wide, Image.Resampling.BICUBIC))
    top, left = (large.shape[0] - h) // 2, (large.shape[1] - w) // 2
    return large[top : top + h, left : left + w]


def largest_empty(taken: np.ndarray) -> tuple[int, int, int, int]:
    """The largest rectangle of False: top, left, bottom, right, the last two exclusive.

    >>> largest_empty(np.array([[True, False, False], [True, False, False]]))
    (0, 1, 2, 3)
    """
    best, rectangle = 0, (0, 0, 0, 0)
    height = np.zeros(taken.shape[1], int)
    for row, line in enumerate(taken):
        height = np.where(line, 0, height + 1)
        for left in range(len(height)):
            lowest = np.minimum.accumulate(height[left:])
            sizes = lowest * np.arange(1, len(lowest) + 1)
            widest = int(sizes.argmax())
            if sizes[widest] > best:
                best = int(sizes[widest])
                rectangle = (row + 1 - int(lowest[widest]), left, row + 1, left + widest + 1)
    return rectangle


@dataclass(frozen=True, slots=True)
class ComposedScene(Scene):
    """A scene of several objects, every one of them visible.

    Attributes:
        sources: digest of each object's picture.
    """

    sources: tuple[str, ...]


def frame_size(rng: np.random.Generator, longest: int) -> tuple[int, int]:
    """Rows and columns of a scene: landscape or portrait, 1:1 to 3:2."""
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
    areas: list[int] = []
    for cutout in cutouts:
        for _ in range(_TRIES):
            color, cover, full = _placed(rng, cutout, size_hw, config)
            trial = np.where(cover >= 0.5, len(kept) + 1, instances).astype(np.uint8)
            visible = np.bincount(trial.ravel(), minlength=len(kept) + 2)[1:]
            if full and (visible >= config.min_visible * np.array([*areas, full])).all():
                rgb += cover[..., None] * (color - rgb)
                instances = trial
                kept.append(cutout)
                areas.append(full)
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
    """An object at a random size and place, how much of each pixel it covers, and its area.

    The area counts what stands out of the frame too.
    """
    rows, columns = np.nonzero(cutout.mask)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    color, mask = cutout.rgb[box], cutout.mask[box]
    if rng.random() < 0.5:
        color, mask = color[:, ::-1], mask[:, ::-1]
    side = min(size_hw) * rng.uniform(*config.object_sides)
    scale = side / max(mask.shape)
    h, w = (max(1, round(length * scale)) for length in mask.shape)
    small = Image.fromarray(np.ascontiguousarray(color)).resize((w, h), Image.Resampling.BICUBIC)
    grey = Image.fromarray((mask * 255).astype(np.uint8)).resize((w, h), Image.Resampling.BILINEAR)
    cover = np.asarray(grey, np.float32) / 255
    inside, own = [], []
    for length, room in zip((h, w), size_hw, strict=True):
        at = round(rng.uniform(-_OUTSIDE * length, room - (1 - _OUTSIDE) * length))
        start, stop = max(0, at), min(room, at + length)
        inside.append(slice(start, stop))
        own.append(slice(start - at, stop - at))
    full_color = np.zeros((*size_hw, 3), np.float32)
    full_cover = np.zeros(size_hw, np.float32)
    full_color[tuple(inside)] = np.asarray(small, np.float32)[tuple(own)]
    full_cover[tuple(inside)] = cover[tuple(own)]
    return full_color, full_cover, int((cover >= 0.5).sum())


def mask_targets(packed: np.ndarray, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What each mask shows, int64 (d,); `UNKNOWN` where neither class nor background is clear.

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
    min_share = np.where(targets == values[0], CLEAR, PURE)
    targets[share[np.arange(len(share)), best] < min_share] = UNKNOWN
    return targets
