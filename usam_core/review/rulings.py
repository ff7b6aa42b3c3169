"""Decisions applied while an image is labelled, before its pixels are painted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from usam_core.config.model import InferenceConfig
from usam_core.masks.paint import Overlaps
from usam_core.masks.rle import encode
from usam_core.review.decisions import Decision, judged, match
from usam_core.types import Instances

_UNTOUCHED, _REJECTED = -1, -2


class Ruled(NamedTuple):
    """An image's masks after decisions.

    Attributes:
        instances: those that stay, with the classes they now have.
        voters: rows of the masks that may still be painted, int64 (v,).
        classes: their classes, int64 (v,).
        rejected: the instances that a person rejected, with the head's classes.
    """

    instances: Instances
    voters: np.ndarray
    classes: np.ndarray
    rejected: Instances


@dataclass(frozen=True, slots=True)
class Rulings:
    """The decisions that may speak of one image.

    Attributes:
        decisions: the image's own, oldest first.
        class_names: the head's classes.
        label_of: class names to the names at the project's level.
    """

    decisions: Sequence[Decision]
    class_names: Sequence[str]
    label_of: Mapping[str, str]

    def apply(
        self,
        instances: Instances,
        packed: np.ndarray,
        classes: np.ndarray,
        stay: np.ndarray,
        config: InferenceConfig,
    ) -> Ruled:
        """Drop or rename instances, and with each the masks that were suppressed for its sake.

        Args:
            instances: those of the head alone.
            packed: uint8 (p, u, b), every mask that passed the thresholds.
            classes: int64 (p,), theirs.
            stay: int64 (p',), rows of the instances.
            config: the settings by which the others were suppressed.
        """
        ruled = self._classes(instances)
        stays = ruled != _REJECTED
        ruled_classes = np.where(ruled == _UNTOUCHED, instances.classes, ruled)
        head_said = np.where(ruled == _UNTOUCHED, -1, instances.classes)
        of_each = ruled[_leaders(packed, stay, config)]
        voters = np.flatnonzero(of_each != _REJECTED)
        renamed = np.where(of_each == _UNTOUCHED, classes, of_each)[voters]
        changed = replace(instances, classes=ruled_classes, head_said=head_said)
        return Ruled(rows_of(changed, stays), voters, renamed, rows_of(instances, ~stays))

    def _classes(self, instances: Instances) -> np.ndarray:
        """Each instance's class by a person's decision, `_REJECTED` or `_UNTOUCHED`."""
        masks = [encode(mask) for mask in instances.masks]
        matched = match(masks, instances.prompts.tolist(), self.decisions)
        ruled = np.full(len(instances), _UNTOUCHED, np.int64)
        for row, decision in enumerate(matched):
            if decision is None:
                continue
            name = self.class_names[instances.classes[row]]
            if decision.label is None:
                if judged(decision, name, self.label_of) is False:
                    ruled[row] = _REJECTED
                continue
            label = self.label_of.get(decision.label, decision.label)
            if label in self.class_names:
                ruled[row] = self.class_names.index(label)
        return ruled


def rows_of(instances: Instances, rows: np.ndarray) -> Instances:
    """The chosen instances."""
    columns = ((name, getattr(instances, name)) for name in Instances.__dataclass_fields__)
    return Instances(**{name: column[rows] for name, column in columns if column is not None})


def _leaders(packed: np.ndarray, stay: np.ndarray, config: InferenceConfig) -> np.ndarray:
    """The instance that each mask was suppressed for, or that it is, int64 (p,)."""
    if not len(stay):
        return np.zeros(0, np.int64)
    overlaps, everyone = Overlaps(packed), np.arange(len(packed))
    conflict = np.zeros((len(packed), len(stay)), bool)
    for column, leader in enumerate(stay):
        conflict[:, column] = overlaps(leader, everyone) > config.nms_iou
    conflict[stay] = np.eye(len(stay), dtype=bool)
    return conflict.argmax(axis=1)
