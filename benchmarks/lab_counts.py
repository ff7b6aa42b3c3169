"""What of the objects in real images was found: counts by image, tables by kind of image."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from usam_core.images.ref import Box
from usam_core.labels import LabelledImage, LabelMap
from usam_core.masks.bits import areas, upscale
from usam_core.masks.rle import decode, encode
from usam_core.metrics.scores import AveragePrecision
from usam_core.sam.embedder import grid_points
from usam_core.truth.base import Truth
from usam_core.types import MaskSet

FOUND_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Counts:
    """What was found in one image.

    Attributes:
        kind: of microscopy.
        objects: how many there are in truth.
        pointed: of these, how many hold a point of the grid.
        masked: how many any mask of SAM's matches (IoU 0.5), or several joined, whatever the name.
        found: how many a listed mask of the right name matches.
        listed: masks that the labels list.
        right: pixels of a class that are so in truth too.
        claimed: pixels that the labels give a class.
        held: pixels that have a class in truth.
    """

    kind: str
    objects: int
    pointed: int
    masked: int
    found: int
    listed: int
    right: int
    claimed: int
    held: int


def count_image(
    image: LabelledImage,
    labels: np.ndarray,
    truth: Truth,
    places: np.ndarray,
    proposals: Sequence[dict[str, Any]],
) -> Counts:
    """Compare what is known of one labelled image with its truth.

    Args:
        image: as it was labelled.
        labels: uint8 (h, w).
        truth: of all images.
        places: of the points, as `grid_places` returns them.
        proposals: run lengths of SAM's masks of this image, as `run_lengths` returns them.
    """
    objects = truth.instances(image.path) or []
    expected = truth.label_map(image.path)
    found_there = image.to_coco()["annotations"]
    columns, rows = places.T
    found = 0
    for label in {one["category_id"] for one in objects}:
        same, masks = (
            [one["segmentation"] for one in ones if one["category_id"] == label]
            for ones in (objects, found_there)
        )
        found += sum(matched(same, masks))
    outlines = [one["segmentation"] for one in objects]
    joined = [one.rle for one in image.instances]
    return Counts(
        kind=image.path.split("/")[0],
        objects=len(objects),
        pointed=sum(bool(decode(outline)[rows, columns].any()) for outline in outlines),
        # What lies on a seam may be matched by no tile's mask, but by those of two together.
        masked=sum(matched(outlines, [*proposals, *joined])),
        found=found,
        listed=len(image.instances),
        right=int(((expected == labels) & (labels > 0)).sum()),
        claimed=int((labels > 0).sum()),
        held=int((expected > 0).sum()),
    )


def grid_places(points_per_side: int, boxes: Sequence[Box]) -> np.ndarray:
    """Return column and row of each point in an image, int (n, 2).

    Args:
        points_per_side: of the grid that lies over each box.
        boxes: parts of the image; all of it, or its tiles.
    """
    points = grid_points(points_per_side)
    corners = [np.array([box.columns[0], box.rows[0]]) for box in boxes]
    places = [(points * box.size_hw[::-1]).astype(int) for box in boxes]
    return np.concatenate([of_box + corner for of_box, corner in zip(places, corners, strict=True)])


def run_lengths(mask_set: MaskSet, least: int, most: int) -> list[dict[str, Any]]:
    """Return SAM's masks of an image at its size, those that could match any object.

    Args:
        mask_set: of the image.
        least: area of its smallest object, pixels.
        most: area of its largest.
    """
    packed = mask_set.packed_masks.reshape(-1, *mask_set.packed_masks.shape[-2:])
    h, w = mask_set.size_hw
    pixel = (max(h, w) / packed.shape[-2]) ** 2
    # Twice as large or half as large as an object is an IoU of 0.5 at best; with room for rounding.
    area = areas(packed) * pixel
    packed = np.unique(packed[(area > least / 3) & (area < most * 3)], axis=0)
    return [encode(mask) for one in packed for mask in upscale(one[None], (h, w))]


def matched(objects: Sequence[dict[str, Any]], masks: Sequence[dict[str, Any]]) -> list[bool]:
    """Return for each object whether any mask has an IoU above 0.5 with it; all are run lengths.

    No mask can match two objects, for these do not overlap.
    """
    if not masks or not objects:
        return [False] * len(objects)
    ious = coco_mask.iou(list(masks), list(objects), [0] * len(objects))
    return [bool(hit) for hit in (ious > FOUND_IOU).any(axis=0)]


def by_kind(counted: Sequence[Counts], precision: dict[str, float | None]) -> pd.DataFrame:
    """Return one line a kind of image, in percent but for the counts."""
    frame = pd.DataFrame([asdict(one) for one in counted])
    sums = frame.groupby("kind").sum()
    table = pd.DataFrame(index=sums.index)
    table["images"] = frame.groupby("kind").size()
    table["objects"], table["listed"] = sums["objects"], sums["listed"]
    for column in ("pointed", "masked", "found"):
        table[column] = 100 * sums[column] / sums["objects"]
    table["AP50"] = [None if precision[k] is None else 100 * precision[k] for k in table.index]
    table["IoU"] = 100 * sums["right"] / (sums["claimed"] + sums["held"] - sums["right"])
    table["Dice"] = 200 * sums["right"] / (sums["claimed"] + sums["held"])
    return table.round(1)


def sizes(truth: Truth, name: str) -> tuple[int, int]:
    """Return the areas of an image's smallest and largest object, pixels."""
    found = [one["area"] for one in truth.instances(name)]
    return min(found, default=0), max(found, default=0)


def tabulated(
    images: Sequence[LabelledImage], counted: Sequence[Counts], truth: Truth, names: Sequence[str]
) -> pd.DataFrame:
    """Return `by_kind` with the average precision of each kind's images; `names` of the classes."""
    precision = {}
    for kind in {one.kind for one in counted}:
        found = AveragePrecision(LabelMap.of_names(names))
        for image in images:
            if image.path.startswith(f"{kind}/"):
                found.add(truth.instances(image.path), image.instances)
        scores = found.scores()
        precision[kind] = scores.map50 if scores else None
    return by_kind(counted, precision)
