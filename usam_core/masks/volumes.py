"""Joins the objects of single planes over z, and over time: one thing has one number.

Masks are COCO's run lengths throughout. Two planes are in memory at a time, of what there is to
compare; numbers are all that stays of the others.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from usam_core.masks.seams import Record

SAME_OBJECT = 0.8
"""Of two masks that are slices of one object, or two objects that are one at two times, at least
this share of the smaller lies in the other: slices shrink towards the ends (decision 21)."""
MISSED = 1
"""Planes in which an object may be missed and still go on behind them."""


class Overlap(NamedTuple):
    """Pixels that objects of two groups share.

    Attributes:
        shared: float64 (p, q); 0 between objects of two classes.
        here, there: float64 (p,) and (q,), the areas.
    """

    shared: np.ndarray
    here: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, here: Sequence[Record], there: Sequence[Record]) -> "Overlap":
        """Compare the masks of two planes, COCO annotations."""
        areas = [np.array([one["area"] for one in some], float) for some in (here, there)]
        shared = np.zeros((len(here), len(there)))
        if here and there:
            masks = [[one["segmentation"] for one in some] for some in (here, there)]
            iou = coco_mask.iou(*masks, [0] * len(there))
            kinds = [np.array([one["category_id"] for one in some]) for some in (here, there)]
            same = kinds[0][:, None] == kinds[1][None]
            shared = same * iou / (1 + iou) * (areas[0][:, None] + areas[1][None])
        return cls(shared, *areas)

    def pairs(self) -> list[tuple[int, int]]:
        """Match one to one, for the largest sum of IoUs; see `SAME_OBJECT`."""
        union = self.here[:, None] + self.there[None] - self.shared
        smaller = np.minimum(self.here[:, None], self.there[None])
        iou = self.shared / np.maximum(union, 1)
        iou[self.shared < SAME_OBJECT * smaller] = 0
        rows, columns = linear_sum_assignment(iou, maximize=True)
        matched = iou[rows, columns] > 0
        return list(zip(rows[matched].tolist(), columns[matched].tolist(), strict=True))


def joined_planes(planes: Iterable[Sequence[Record]]) -> list[list[int]]:
    """Return the object's number, from 0, of each mask of each plane of a stack.

    A mask goes on with the object of the plane before that overlaps it most; where none does, with
    one that was last seen a plane earlier (`MISSED`). Only masks of one class are one object.

    Args:
        planes: the masks of each plane in the order of z, COCO annotations.
    """
    numbers: list[list[int]] = []
    # Of each object that may go on: its last mask, its number, in how many planes it was missed.
    open_: list[tuple[Record, int, int]] = []
    count = 0
    for records in planes:
        here = [-1] * len(records)
        for missed in range(MISSED + 1):
            before = [one for one in open_ if one[2] == missed and one[1] not in here]
            free = [place for place, number in enumerate(here) if number < 0]
            overlap = Overlap.of([one[0] for one in before], [records[place] for place in free])
            for one, other in overlap.pairs():
                here[free[other]] = before[one][1]
        for place, number in enumerate(here):
            if number < 0:
                here[place] = count
                count += 1
        numbers.append(here)
        go_on = [
            (mask, number, missed + 1)
            for mask, number, missed in open_
            if number not in here and missed < MISSED
        ]
        open_ = go_on + [(records[place], number, 0) for place, number in enumerate(here)]
    return numbers


def joined_times(
    before: Sequence[Sequence[Record]],
    numbers_before: Sequence[Sequence[int]],
    after: Sequence[Sequence[Record]],
    numbers_after: Sequence[Sequence[int]],
) -> dict[int, int]:
    """Return which objects of one time are objects of the time before: their numbers by its own.

    Args:
        before: the masks of each plane of the time before, COCO annotations.
        numbers_before: the object of each.
        after, numbers_after: the same of the next time, with as many planes.
    """
    names = [
        sorted({number for plane in numbers for number in plane})
        for numbers in (numbers_before, numbers_after)
    ]
    row, column = ({number: place for place, number in enumerate(some)} for some in names)
    whole = Overlap(np.zeros((len(row), len(column))), np.zeros(len(row)), np.zeros(len(column)))
    for one, number_one, other, number_other in zip(
        before, numbers_before, after, numbers_after, strict=True
    ):
        part = Overlap.of(one, other)
        rows, columns = [row[n] for n in number_one], [column[n] for n in number_other]
        np.add.at(whole.here, rows, part.here)
        np.add.at(whole.there, columns, part.there)
        if rows and columns:
            np.add.at(whole.shared, np.ix_(rows, columns), part.shared)
    return {names[1][there]: names[0][here] for here, there in whole.pairs()}
