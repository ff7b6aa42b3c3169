"""From a head and one image's masks to the kept instances (U-SAM, section 3.6)."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from usam_core.config.model import InferenceConfig
from usam_core.head.bags import choose_masks
from usam_core.head.losses import entropy
from usam_core.inference.calibration import Calibration
from usam_core.labels.image import LabelledImage, count_labels, list_instances
from usam_core.labels.label_map import LabelMap
from usam_core.masks.bits import areas, upscale, valid_hw
from usam_core.masks.edges import Edges
from usam_core.masks.paint import Overlaps, paint, paint_votes, suppress
from usam_core.masks.tidy import tidy_labels, tidy_mask
from usam_core.types import TOKENS_BLOCK, Instances, MaskSet

MAX_NEAR = 2
"""Near misses kept of an image: there are always very many masks that nobody would want."""
_MIN_NEAR = 0.5
"""Masks below this share of their threshold are no near misses."""
_MAX_COMPARED = 16


@dataclass(frozen=True, slots=True)
class Candidates:
    """Masks with the head's outputs; columns of one length.

    Attributes:
        packed: uint8 (p, u, b).
        logits: float32 (p, o), the head's: c classes, then its other outputs.
        classes: int64 (p,), the most probable class.
        confidence: float32 (p,), its probability.
        entropy: float32 (p,), nats.
        predicted_iou: float32 (p,).
        stability: float32 (p,).
        prompts: int64 (p,), the point of the grid.
    """

    packed: np.ndarray
    logits: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        """Return p, the number of masks."""
        return len(self.packed)

    def __getitem__(self, rows: np.ndarray) -> "Candidates":
        """Return the chosen rows of every column."""
        return Candidates(*(getattr(self, name)[rows] for name in self.__slots__))


class Labelled(NamedTuple):
    """What labelling makes of one image.

    Attributes:
        instances: the kept masks, best first.
        labels: uint8 or uint16 (h, w); see `usam_core.masks.paint` for who gets a pixel.
        missed: the dropped masks nearest to being kept; scored by the confidence that fell short.
        least: float32 (p,), the threshold of each of `missed`.
    """

    instances: Instances
    labels: np.ndarray
    missed: Instances
    least: np.ndarray


@torch.inference_mode()
def class_logits(
    head: nn.Module,
    mask_set: MaskSet,
    features: Sequence[str],
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """The head's logits for every mask of every prompt, float32 (d, m, c).

    Blocks of one vector a prompt (`tokens`) are the same for its masks.

    Args:
        head: maps float32 (..., f) to logits (..., c).
        mask_set: the masks.
        features: the head's feature blocks.
        chosen: int64 (d,), one mask of each prompt: the logits of these alone, float32 (d, c).
    """
    d = len(mask_set)
    masks = (d,) if chosen is not None else mask_set.predicted_iou.shape
    if list(features) == [TOKENS_BLOCK]:
        # All masks of a prompt have the same logits: compute them once.
        logits = head(torch.from_numpy(_tokens(mask_set).astype(np.float32)))
        return (logits if chosen is not None else logits[:, None].expand(*masks, -1)).numpy()
    blocks = []
    for name in features:
        if name == TOKENS_BLOCK:
            tokens = _tokens(mask_set)
            tokens = tokens if chosen is not None else tokens[:, None]
            blocks.append(np.broadcast_to(tokens, (*masks, tokens.shape[-1])))
        else:
            block = mask_set.features[name]
            blocks.append(block if chosen is None else block[np.arange(d), chosen])
    rows = np.concatenate(blocks, axis=-1) if len(blocks) > 1 else blocks[0]
    return head(torch.from_numpy(rows.astype(np.float32))).numpy()


def _tokens(mask_set: MaskSet) -> np.ndarray:
    if mask_set.tokens is None:
        raise ValueError("tokens: expected them with the masks, for the head reads them")
    return mask_set.tokens


def candidates(
    head: nn.Module,
    mask_set: MaskSet,
    features: Sequence[str],
    config: InferenceConfig,
    classes: int | None = None,
) -> Candidates:
    """One candidate a prompt, before any threshold; `classes` is c, None if the head has no more.

    Outputs beyond the classes (negative names, "none of these") share the probability, and a mask
    that one of them claims is no candidate.
    """
    prompts = np.arange(len(mask_set))
    # The head is asked only of the masks that will be candidates.
    chosen = choose_masks(mask_set.predicted_iou, config.mask_choice)
    logits = class_logits(head, mask_set, features, chosen)
    probability = torch.from_numpy(logits).softmax(-1).numpy()
    claimed = probability.argmax(-1) < probability[:, :classes].shape[-1]
    probability = probability[:, :classes]
    every = Candidates(
        packed=mask_set.packed_masks[prompts, chosen],
        logits=logits,
        classes=probability.argmax(-1).astype(np.int64),
        confidence=probability.max(-1).astype(np.float32),
        entropy=entropy(torch.from_numpy(logits)).numpy().astype(np.float32),
        predicted_iou=mask_set.predicted_iou[prompts, chosen],
        stability=mask_set.stability[prompts, chosen],
        prompts=prompts,
    )
    return every[claimed]


def thresholds(
    config: InferenceConfig, class_names: Sequence[str], calibration: Calibration | None = None
) -> np.ndarray:
    """Minimum confidence of each class, float32 (c,); what the user set for a class wins."""
    fitted = calibration.thresholds if calibration and config.thresholds == "calibrated" else {}
    usual = {name: fitted.get(name, config.threshold) for name in class_names}
    return np.array([config.class_thresholds.get(n, v) for n, v in usual.items()], np.float32)


def is_good(masks: Candidates, size_hw: tuple[int, int], config: InferenceConfig) -> np.ndarray:
    """Which candidates pass the thresholds of quality and area, bool (p,)."""
    rows, columns = valid_hw(size_hw, masks.packed.shape[-2])
    share = areas(masks.packed) / (rows * columns)
    return (
        (masks.predicted_iou >= config.min_predicted_iou)
        & (masks.stability >= config.min_stability)
        & (share >= config.min_area)
        & (share <= config.max_area)
        & (share > 0)
    )


def mask_scores(
    confidence: np.ndarray, predicted_iou: np.ndarray, config: InferenceConfig
) -> np.ndarray:
    """The order of masks in suppression, painting and output files, float32 (p,)."""
    if config.score == "confidence_x_iou":
        confidence = confidence * np.clip(predicted_iou, 0, 1)
    return confidence.astype(np.float32)


def class_probabilities(
    masks: Candidates, classes: int, calibration: Calibration | None
) -> np.ndarray:
    """Each class's probability for each mask, float64 (p, c): calibrated, or the softmax."""
    if calibration is not None:
        return calibration.probabilities(masks.logits, masks.predicted_iou)[:, :classes]
    return torch.from_numpy(masks.logits).double().softmax(-1).numpy()[:, :classes]


def runner_up(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The most probable class (p, c) but the chosen one, int64 (p,); -1 where there is no other."""
    if probability.shape[1] < 2:
        return np.full(len(classes), -1, np.int64)
    others = probability.copy()
    others[np.arange(len(classes)), classes] = -1
    return others.argmax(axis=1).astype(np.int64)


def label_image(
    head: nn.Module,
    mask_set: MaskSet,
    features: Sequence[str],
    config: InferenceConfig,
    class_names: Sequence[str],
    calibration: Calibration | None = None,
    rgb: Callable[[], np.ndarray] | None = None,
) -> Labelled:
    """Label one image: score, gate, threshold, suppress, and paint.

    Args:
        head: maps float32 (..., f) to logits (..., c), or more outputs than classes.
        mask_set: the image's masks and features.
        features: the head's feature blocks.
        config: the inference settings.
        class_names: the head's classes.
        calibration: gives probabilities, presence and thresholds; None takes the head's softmax
            as it is, and gates nothing.
        rgb: gives the image, uint8 (h, w, 3), whose edges borders are to follow; asked only where
            something was found. None leaves borders on the grid, as `edges: grid` does.
    """
    masks = candidates(head, mask_set, features, config, len(class_names))
    masks = masks[is_good(masks, mask_set.size_hw, config)]
    every = class_probabilities(masks, len(class_names), calibration)
    stated = every[np.arange(len(masks)), masks.classes]
    limits = thresholds(config, class_names, calibration)
    # Fitted thresholds belong to fitted probabilities.
    fitted = calibration is not None and config.thresholds == "calibrated"
    confidence = stated if fitted else masks.confidence
    wanted = confidence >= limits[masks.classes]
    if calibration is not None and config.presence > 0:
        wanted &= calibration.presence(every)[masks.classes] >= config.presence
    kept, probability = masks[wanted], every[wanted]
    scores = mask_scores(confidence[wanted], kept.predicted_iou, config)
    stay = suppress(kept.packed, scores, config.nms_iou)

    @functools.cache
    def edges() -> Edges | None:
        if rgb is None or config.edges == "grid":
            return None
        return Edges(_of_size(rgb(), mask_set.size_hw), masks.packed.shape[-2])

    def full_size(packed: np.ndarray) -> np.ndarray:
        follow = edges() if len(packed) else None
        full = upscale(packed, mask_set.size_hw) if follow is None else follow.masks(packed)
        for mask in full:
            tidy_mask(mask, config.min_part)
        return full

    instances, shown = _instances(kept[stay], scores[stay], probability[stay], full_size)
    best = kept.packed[stay[shown]]
    if config.paint == "vote":
        follow = edges() if len(kept) else None
        painted_hw = mask_set.size_hw if follow is None else follow.fine_hw
        labels = paint_votes(kept.packed, kept.classes, scores, painted_hw, limits / 2)
        labels = labels if follow is None else follow.labels(labels)
    else:
        labels = paint(instances, len(class_names))
    tidy_labels(labels, config.min_area * labels.size)
    dropped = np.flatnonzero(~wanted)
    reached = confidence[dropped] / np.maximum(limits[masks.classes[dropped]], 1e-6)
    near = dropped[near_misses(masks.packed[dropped], reached, best, config.nms_iou)]
    missed, _ = _instances(masks[near], confidence[near], every[near], full_size)
    return Labelled(instances, labels, missed, limits[missed.classes])


def _instances(
    of: Candidates,
    scores: np.ndarray,
    probability: np.ndarray,
    full_size: Callable[[np.ndarray], np.ndarray],
) -> tuple[Instances, np.ndarray]:
    """Masks at the image's own size, and the rows of those that have a pixel there.

    A small mask may lie between the centers of the image's pixels.
    """
    masks = full_size(of.packed)
    shown = np.flatnonzero([mask.any() for mask in masks])
    if len(shown) < len(masks):
        of, scores, probability, masks = of[shown], scores[shown], probability[shown], masks[shown]
    stated = probability[np.arange(len(of)), of.classes]
    instances = Instances(
        masks=masks,
        classes=of.classes,
        scores=scores.astype(np.float32),
        entropy=of.entropy,
        predicted_iou=of.predicted_iou,
        prompts=of.prompts,
        probability=stated.astype(np.float32),
        runner_up=runner_up(probability, of.classes),
    )
    return instances, shown


def _of_size(rgb: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    if rgb.shape[:2] != size_hw:
        raise ValueError(f"rgb: expected {size_hw} rows and columns, got {rgb.shape[:2]}")
    return rgb


def near_misses(
    packed: np.ndarray, reached: np.ndarray, kept: np.ndarray, max_iou: float
) -> np.ndarray:
    """Rows of the dropped masks nearest to being kept, best first, int64 (at most `MAX_NEAR`,).

    Thresholds are checked by them. A duplicate of a kept mask or of a nearer miss is left out.

    Args:
        packed: uint8 (p, u, b), the dropped masks.
        reached: float (p,), confidence as a share of the threshold.
        kept: uint8 (k, u, b), the masks that were kept.
        max_iou: masks that overlap more than this are duplicates.
    """
    order = np.argsort(-reached, kind="stable")[:_MAX_COMPARED]
    order = order[reached[order] >= _MIN_NEAR]
    if not len(order):
        return order
    overlaps = Overlaps(np.concatenate([kept, packed[order]]))
    shown = list(range(len(kept)))
    near: list[int] = []
    for row, place in enumerate(order, start=len(kept)):
        if not (overlaps(row, np.array(shown, np.int64)) > max_iou).any():
            shown.append(row)
            near.append(place)
        if len(near) == MAX_NEAR:
            break
    return np.array(near, np.int64)


def labelled_image(
    done: Labelled, mask_set: MaskSet, label_map: LabelMap, **known: Any
) -> LabelledImage:
    """The image of a labelled mask set.

    `known` are more attributes of the image: `path` and `sha256`, and `painted` or `png`.
    """
    height, width = mask_set.size_hw
    points = mask_set.points_xy[done.instances.prompts] * [width, height]
    return LabelledImage(
        size_hw=mask_set.size_hw,
        label_map=label_map,
        instances=list_instances(done.instances, points),
        missed=list_instances(done.missed, thresholds=done.least),
        pixels=count_labels(done.labels),
        **known,
    )
