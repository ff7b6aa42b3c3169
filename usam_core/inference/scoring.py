"""From a head and one image's masks to the kept instances (U-SAM, section 3.6)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from usam_core.config.schema import InferenceConfig
from usam_core.head.bags import choose_masks
from usam_core.head.losses import entropy
from usam_core.inference.calibration import Calibration
from usam_core.inference.near_misses import near_misses
from usam_core.masks.bits import areas, upscale, valid_hw
from usam_core.masks.paint import paint, paint_votes, suppress
from usam_core.review.rulings import Rulings
from usam_core.types import TOKENS_BLOCK, Instances, MaskSet


@dataclass(frozen=True, slots=True)
class Candidates:
    """Masks with the head's word on them; columns of one length.

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
        missed: the few dropped masks that came nearest to being kept; their scores are the
            confidence that did not do.
        least: float32 (p,), what each of `missed` should have reached.
        rejected: instances that a person did not want; None where nobody has decided anything.
    """

    instances: Instances
    labels: np.ndarray
    missed: Instances
    least: np.ndarray
    rejected: Instances | None = None


@torch.inference_mode()
def class_logits(
    head: nn.Module,
    mask_set: MaskSet,
    features: Sequence[str],
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """Return the head's logits for every mask of every prompt, float32 (d, m, c).

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
        # All masks of a prompt have the same logits: work once.
        logits = head(torch.from_numpy(mask_set.tokens.astype(np.float32)))
        return (logits if chosen is not None else logits[:, None].expand(*masks, -1)).numpy()
    blocks = []
    for name in features:
        if name == TOKENS_BLOCK:
            tokens = mask_set.tokens if chosen is not None else mask_set.tokens[:, None]
            blocks.append(np.broadcast_to(tokens, (*masks, tokens.shape[-1])))
        else:
            block = mask_set.features[name]
            blocks.append(block if chosen is None else block[np.arange(d), chosen])
    rows = np.concatenate(blocks, axis=-1) if len(blocks) > 1 else blocks[0]
    return head(torch.from_numpy(rows.astype(np.float32))).numpy()


def candidates(
    head: nn.Module,
    mask_set: MaskSet,
    features: Sequence[str],
    config: InferenceConfig,
    classes: int | None = None,
) -> Candidates:
    """Return one candidate a prompt, before any threshold.

    Outputs beyond the classes (negative names, "none of these") share the probability, and a mask
    that one of them claims is no candidate.

    Args:
        head: maps float32 (..., f) to logits (..., c), or more outputs than classes.
        mask_set: the masks.
        features: the head's feature blocks.
        config: the inference settings.
        classes: c; None when the head has no other outputs.
    """
    prompts = np.arange(len(mask_set))
    # Without asking the head of the masks that will not be candidates.
    chosen = choose_masks(mask_set.predicted_iou, config.mask_choice)
    logits = class_logits(head, mask_set, features, chosen)
    probability = torch.from_numpy(logits).softmax(-1).numpy()
    claimed = probability.argmax(-1) < probability[:, :classes].shape[-1]
    probability = probability[:, :classes]
    found = Candidates(
        packed=mask_set.packed_masks[prompts, chosen],
        logits=logits,
        classes=probability.argmax(-1).astype(np.int64),
        confidence=probability.max(-1).astype(np.float32),
        entropy=entropy(torch.from_numpy(logits)).numpy().astype(np.float32),
        predicted_iou=mask_set.predicted_iou[prompts, chosen],
        stability=mask_set.stability[prompts, chosen],
        prompts=prompts,
    )
    return found[claimed]


def thresholds(
    config: InferenceConfig, class_names: Sequence[str], calibration: Calibration | None = None
) -> np.ndarray:
    """Return the least confidence of each class, float32 (c,); what the user set for one wins."""
    fitted = calibration.thresholds if calibration and config.thresholds == "calibrated" else {}
    least = {name: fitted.get(name, config.threshold) for name in class_names}
    return np.array([config.class_thresholds.get(n, v) for n, v in least.items()], np.float32)


def is_good(found: Candidates, size_hw: tuple[int, int], config: InferenceConfig) -> np.ndarray:
    """Return which candidates pass the thresholds of quality and area, bool (p,)."""
    rows, columns = valid_hw(size_hw, found.packed.shape[-2])
    share = areas(found.packed) / (rows * columns)
    return (
        (found.predicted_iou >= config.min_predicted_iou)
        & (found.stability >= config.min_stability)
        & (share >= config.min_area)
        & (share <= config.max_area)
        & (share > 0)
    )


def mask_scores(
    confidence: np.ndarray, predicted_iou: np.ndarray, config: InferenceConfig
) -> np.ndarray:
    """Return what orders masks in suppression, painting and output files, float32 (p,)."""
    if config.score == "confidence_x_iou":
        confidence = confidence * np.clip(predicted_iou, 0, 1)
    return confidence.astype(np.float32)


def class_probabilities(
    found: Candidates, classes: int, calibration: Calibration | None
) -> np.ndarray:
    """Return each class's probability for each mask, float64 (p, c): calibrated, or the softmax."""
    if calibration is not None:
        return calibration.probabilities(found.logits, found.predicted_iou)[:, :classes]
    return torch.from_numpy(found.logits).double().softmax(-1).numpy()[:, :classes]


def runner_up(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the most probable class but the chosen one, int64 (p,); -1 where there is no other.

    Args:
        probability: float64 (p, c).
        classes: int64 (p,), the chosen ones.
    """
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
    rulings: Rulings | None = None,
) -> Labelled:
    """Label one image: score, gate, threshold, suppress, and paint.

    Args:
        head: maps float32 (..., f) to logits (..., c).
        mask_set: what the store has of the image.
        features: the head's feature blocks.
        config: the inference settings.
        class_names: the head's classes.
        calibration: gives probabilities, presence and thresholds; None takes the head's softmax
            as it is, and gates nothing.
        rulings: what a person has decided of the image's masks, if anything.
    """
    found = candidates(head, mask_set, features, config, len(class_names))
    found = found[is_good(found, mask_set.size_hw, config)]
    every = class_probabilities(found, len(class_names), calibration)
    stated = every[np.arange(len(found)), found.classes]
    limits = thresholds(config, class_names, calibration)
    # Thresholds and scores speak of the same: fitted thresholds of fitted probabilities.
    fitted = calibration is not None and config.thresholds == "calibrated"
    confidence = stated if fitted else found.confidence
    wanted = confidence >= limits[found.classes]
    if calibration is not None and config.presence > 0:
        wanted &= calibration.presence(every)[found.classes] >= config.presence
    kept, probability = found[wanted], every[wanted]
    scores = mask_scores(confidence[wanted], kept.predicted_iou, config)
    stay = suppress(kept.packed, scores, config.nms_iou)
    instances, shown = _instances(kept[stay], scores[stay], probability[stay], mask_set.size_hw)
    stay = stay[shown]
    best, rejected = kept.packed[stay], None
    if rulings is not None:
        ruled = rulings.apply(instances, kept.packed, kept.classes, stay, config)
        instances, rejected = ruled.instances, ruled.rejected
        kept, scores = replace(kept[ruled.voters], classes=ruled.classes), scores[ruled.voters]
    if config.paint == "vote":
        labels = paint_votes(kept.packed, kept.classes, scores, mask_set.size_hw, limits / 2)
    else:
        labels = paint(instances, len(class_names))
    if rejected is not None:
        # Doubles of other instances may still reach into what a person did not want.
        labels[rejected.masks.any(axis=0) & ~instances.masks.any(axis=0)] = 0
    dropped = np.flatnonzero(~wanted)
    reached = confidence[dropped] / np.maximum(limits[found.classes[dropped]], 1e-6)
    near = near_misses(found.packed[dropped], reached, best, config.nms_iou)
    near = dropped[near]
    missed, _ = _instances(found[near], confidence[near], every[near], mask_set.size_hw)
    return Labelled(instances, labels, missed, limits[missed.classes], rejected)


def _instances(
    of: Candidates, scores: np.ndarray, probability: np.ndarray, size_hw: tuple[int, int]
) -> tuple[Instances, np.ndarray]:
    """Return masks at the image's own size, and the rows of those that have any pixel there.

    `probability` is float64 (p, c). A small mask may lie between the centres of the image's pixels.
    """
    masks = upscale(of.packed, size_hw)
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
