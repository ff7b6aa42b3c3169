"""Which mask of another run a decision speaks of, and what it says of it there."""

from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from usam_core.review.decisions import Decision

SAME_MASK = 0.75
"""Masks of one image that overlap at least so much (IoU) are taken for the same mask."""


def match(
    masks: Sequence[dict[str, Any]], prompts: Sequence[int], decisions: Sequence[Decision]
) -> list[Decision | None]:
    """Return the decision of each mask of one image, if there is one; each is used once.

    Most alike come first; of equals those of the same point of the grid, then the later decision.

    Args:
        masks: COCO's compressed RLE of each mask, at the image's size.
        prompts: the point of the grid of each.
        decisions: of that image, oldest first.
    """
    found: list[Decision | None] = [None] * len(masks)
    sizes = [list(mask["size"]) for mask in masks]
    usable = [decision for decision in decisions if list(decision.mask["size"]) in sizes]
    if not usable:
        return found
    wanted = [decision.mask for decision in usable]
    overlap = coco_mask.iou(list(masks), wanted, [0] * len(wanted))
    pairs = [
        (overlap[row, column], prompts[row] == usable[column].prompt, column, row)
        for row in range(len(masks))
        for column in range(len(usable))
        if overlap[row, column] >= SAME_MASK
    ]
    used: set[int] = set()
    for _, _, column, row in sorted(pairs, reverse=True):
        if found[row] is None and column not in used:
            found[row] = usable[column]
            used.add(column)
    return found


def judged(decision: Decision, name: str, label_of: Mapping[str, str]) -> bool | None:
    """Return whether a mask that the head calls `name` is one, as far as a decision says.

    A rejected name says nothing of another one: None.

    Args:
        decision: of this mask.
        name: what the head calls the mask now.
        label_of: class names to the names at the project's level.
    """
    if decision.label is None:
        return False if decision.head_class == name else None
    return label_of.get(decision.label, decision.label) == name
