"""Decisions applied to one labelled image: to its list of masks, and to its label map.

A large image, labelled in tiles, is treated as any other: what is listed are run lengths, and of
the label map only the surroundings of a mask are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.masks.rle import crop, inside, measures
from usam_core.review.decisions import SAME_MASK, Decision, judged, match

_AROUND = 0.25
"""Surroundings of a mask, as a share of its longer side: masks that were suppressed for its sake
have voted there."""
_LEAST_AROUND = 8
BY_HAND = ("drawn", "added")
"""What is said of masks whose outline a person made."""


class _Found(NamedTuple):
    """A decision and the listed mask that it is on; None where the head lists none."""

    decision: Decision
    instance: Instance | None


@dataclass(frozen=True, slots=True)
class Rulings:
    """The decisions that may speak of one image.

    Attributes:
        decisions: the image's own, oldest first.
        label_of: class names to the names at the project's level.
        max_iou: of two masks that overlap more than this one goes.
    """

    decisions: Sequence[Decision]
    label_of: Mapping[str, str]
    max_iou: float

    def apply(self, image: LabelledImage, labels: np.ndarray) -> LabelledImage:
        """Return the image as it is by the decisions; its `pixels` are left as they were.

        What was rejected goes, with what was painted for its sake beside it. What was accepted,
        renamed or drawn stays, whether or not the head lists it, and masks of the head that
        overlap it give way.

        Args:
            image: as the head alone labels it.
            labels: its label map, uint8 or uint16 (h, w), changed in place.
        """
        if not self.decisions:
            return image
        names = image.label_map.names
        matched = match(
            [one.rle for one in image.instances],
            [-1 if one.prompt is None else one.prompt for one in image.instances],
            self.decisions,
        )
        stays: list[Instance] = []
        rejected: list[Instance] = []
        gone: list[Instance] = []
        renamed: list[tuple[Instance, int]] = []
        ruled = [d for d in matched if d is not None]
        by_hand = self._unlisted(ruled, image)
        for one, decision in zip(image.instances, matched, strict=True):
            name = names[one.class_index]
            index = None if decision is None else self._index(decision, names)
            if decision is None:
                stays.append(one)
            elif decision.label is None:
                if judged(decision, name, self.label_of) is False:
                    rejected.append(one)
                else:
                    stays.append(one)
            elif index is None:
                stays.append(one)
            elif decision.verdict in BY_HAND:
                gone.append(one)
                by_hand.append(_Found(decision, one))
            else:
                said = None if index == one.class_index else one.class_index
                verdict = "accepted" if said is None else "changed"
                if said is not None:
                    renamed.append((one, index))
                stays.append(replace(one, class_index=index, reviewed=verdict, head_said=said))
        drawn = self._instances(by_hand, names)
        given_way = [one for one in stays if one.reviewed is None and self._overlaps(one, drawn)]
        stays = [one for one in stays if not any(one is other for other in given_way)]
        instances = sorted([*drawn, *stays], key=lambda one: -one.score)
        painter = _Painter(labels, instances)
        for one, index in renamed:
            painter.relabel(one, index)
        for one in (*rejected, *gone, *given_way):
            painter.clear(one)
        for one in drawn:
            painter.paint(one)
        missed = [one for one in image.missed if not self._overlaps(one, drawn)]
        return replace(
            image, instances=tuple(instances), missed=tuple(missed), rejected=tuple(rejected)
        )

    def _index(self, decision: Decision, names: Sequence[str]) -> int | None:
        """The class that a person gave, at the project's level; None if it is not known now."""
        label = self.label_of.get(decision.label or "", decision.label)
        return names.index(label) if label in names else None

    def _unlisted(self, ruled: Sequence[Decision], image: LabelledImage) -> list[_Found]:
        """The decisions that keep a mask which the head does not list, oldest first."""
        names, size = image.label_map.names, list(image.size_hw)
        left = [
            (number, one)
            for number, one in enumerate(self.decisions)
            if not any(one is other for other in ruled)
            and self._index(one, names) is not None
            and list(one.mask["size"]) == size
        ]
        found = []
        for number, one in left:
            # What was said later, or of a mask that is listed, of the same thing holds.
            others = [
                other
                for place, other in enumerate(self.decisions)
                if other is not one
                and list(other.mask["size"]) == size
                and (place > number or any(other is d for d in ruled))
                and other.outline["counts"] != one.outline["counts"]
            ]
            masks = [mask for other in others for mask in (other.mask, other.outline)]
            if masks and (coco_mask.iou([one.outline], masks, [0] * len(masks)) >= SAME_MASK).any():
                continue
            found.append(_Found(one, None))
        return found

    def _instances(self, found: Sequence[_Found], names: Sequence[str]) -> list[Instance]:
        """Masks as a person left them; of those that were merged, one."""
        made: dict[str, Instance] = {}
        for decision, listed in found:
            index = self._index(decision, names)
            assert index is not None
            shape = measures(decision.outline)
            said = None
            if listed is not None and listed.class_index != index:
                said = listed.class_index
            elif listed is None and decision.head_class in names and decision.label is not None:
                head = names.index(decision.head_class)
                said = None if head == index else head
            # A person is sure.
            sure = Instance(
                index, {}, 0, (0, 0, 0, 0), 1.0, probability=1.0, entropy=0.0, predicted_iou=1.0
            )
            made.setdefault(
                decision.outline["counts"],
                replace(
                    listed or sure,
                    class_index=index,
                    rle=shape["segmentation"],
                    area=shape["area"],
                    bbox=tuple(shape["bbox"]),
                    reviewed=decision.verdict,
                    head_said=said,
                ),
            )
        return list(made.values())

    def _overlaps(self, one: Instance, others: Sequence[Instance]) -> bool:
        masks = [other.rle for other in others]
        if not masks:
            return False
        return bool((coco_mask.iou([one.rle], masks, [0] * len(masks)) > self.max_iou).any())


class _Painter:
    """Changes a label map around masks; `instances` are those that stay, best first."""

    def __init__(self, labels: np.ndarray, instances: Sequence[Instance]) -> None:
        self._labels = labels
        self._instances = instances

    def paint(self, one: Instance) -> None:
        """Give a mask all its pixels."""
        part = crop(one.rle)
        rows, columns = part.mask.shape
        here = self._labels[part.top : part.top + rows, part.left : part.left + columns]
        here[part.mask] = LabelMap.id_of(one.class_index)

    def relabel(self, one: Instance, index: int) -> None:
        """Give what is painted for a mask to another class."""
        here, mine, _ = self._own(one, LabelMap.id_of(one.class_index))
        here[mine] = LabelMap.id_of(index)

    def clear(self, one: Instance) -> None:
        """Take away what is painted for a mask; where others cover it, it is theirs."""
        label = LabelMap.id_of(one.class_index)
        here, mine, covering = self._own(one, label)
        mask_here = inside(one.rle, *_window(one, self._labels.shape))
        nobody = mask_here.copy()
        for _, mask in covering:
            nobody &= ~mask
        here[mine | nobody] = 0
        # Worst first, so that the best is painted last.
        for other, mask in reversed(covering):
            here[mask & mask_here & ((here == label) | (here == 0))] = LabelMap.id_of(
                other.class_index
            )

    def _own(
        self, one: Instance, label: int
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[Instance, np.ndarray]]]:
        """The surroundings of a mask, which pixels there are its own, and masks that reach in."""
        rows, columns = _window(one, self._labels.shape)
        here = self._labels[rows, columns]
        covering = []
        others = np.zeros(here.shape, bool)
        for other in self._instances:
            x, y, w, h = other.bbox
            reaches = x < columns.stop and x + w > columns.start
            if not (reaches and y < rows.stop and y + h > rows.start):
                continue
            mask = inside(other.rle, rows, columns)
            if other.rle["counts"] != one.rle["counts"]:
                covering.append((other, mask))
                others |= mask
        mine = (here == label) & ~others
        parts, _ = ndimage.label(mine)
        touched = np.unique(parts[mine & inside(one.rle, rows, columns)])
        return here, mine & np.isin(parts, touched[touched > 0]), covering


def _window(one: Instance, size_hw: tuple[int, ...]) -> tuple[slice, slice]:
    x, y, w, h = (int(side) for side in one.bbox)
    around = max(_LEAST_AROUND, int(_AROUND * max(w, h)))
    rows = slice(max(0, y - around), min(size_hw[0], y + h + around))
    return rows, slice(max(0, x - around), min(size_hw[1], x + w + around))
