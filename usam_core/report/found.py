"""The labels of a run: classes with counts, areas and scores; coverage; masks and images to see."""

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.labels.overlay import overlay
from usam_core.metrics.gate import COVERED, covers_too_much
from usam_core.report.page import (
    AREA_TICKS,
    Album,
    Picture,
    area_bins,
    crop_of_mask,
    enlarged,
    histogram,
    score_bins,
)
from usam_core.report.runs import LabelledRun

MAX_CHARTS = 200
"""Classes with charts; the table has all."""
MAX_SAMPLES = 360
"""Masks shown, of all classes and kinds together."""
KINDS = ("best", "doubtful", "rejected")

_MAX_NAMES = 50
_MAX_OVERVIEW = 6
_SAMPLE_SIDE = 176
_OVERVIEW_SIDE = 480
_SCORE_TICKS = ((0.0, "0"), (0.5, "0.5"), (1.0, "1"))


def class_rows(run: LabelledRun, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """The table of classes, in the project's order."""
    images, instances, cover = run.tables.images, run.tables.instances, run.tables.cover
    share = instances["area"] / _sizes(images)[instances["image"]]
    rows = []
    for (name, label), threshold in zip(run.label_map.ids().items(), thresholds, strict=True):
        own = (instances["label"] == label).to_numpy()
        pixels = int(cover.loc[cover["label"] == label, "pixels"].sum())
        scores = instances.loc[own, "score"].to_numpy()
        row = {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*run.label_map.colors[label]),
            "images": int(instances.loc[own, "image"].nunique()),
            "instances": int(own.sum()),
            "share": pixels / max(1, run.tables.pixels),
            "score": float(scores.mean()) if len(scores) else None,
            "area": float(share[own].median()) if len(scores) else None,
            "threshold": float(threshold),
            "scores": None,
            "areas": None,
        }
        if len(scores) and label <= MAX_CHARTS:
            alt = f"scores of {len(scores)} instances of {name}, mean {row['score']:.2f}"
            row["scores"] = histogram(score_bins(scores), _SCORE_TICKS, alt)
            alt = f"areas of {len(scores)} instances of {name}, median {row['area']:.2%}"
            row["areas"] = histogram(area_bins(share[own].to_numpy()), AREA_TICKS, alt)
        rows.append(row)
    return rows


def coverage(run: LabelledRun) -> dict[str, Any]:
    """The labelled share of the images, and the images without any label."""
    images, cover = run.tables.images, run.tables.cover
    own = cover[cover["label"] > 0]
    share = labelled_shares(run)
    empty = images.loc[share == 0, "file_name"].tolist()
    total = float(own["pixels"].sum() / max(1, run.tables.pixels))
    is_covered = own["pixels"].to_numpy() > COVERED * _sizes(images)[own["image"]]
    covered = Counter(map(run.label_map.name_of, own.loc[is_covered, "label"]))
    alt = f"labelled share of each of {len(images)} images; {total:.1%} of all pixels"
    ticks = ((0.0, "0%"), (0.5, "50%"), (1.0, "100%"))
    return {
        "share": total,
        "notes": covers_too_much(covered, len(images)),
        "empty": empty[:_MAX_NAMES],
        "empty_count": len(empty),
        "chart": histogram(score_bins(share), ticks, alt),
    }


def labelled_shares(run: LabelledRun) -> np.ndarray:
    """The share of each image's pixels that has a label, float (n,)."""
    images, cover = run.tables.images, run.tables.cover
    own = cover[cover["label"] > 0]
    pixels = np.bincount(own["image"], own["pixels"], len(images))
    return pixels / np.maximum(1, _sizes(images)) if len(images) else np.zeros(0)


def _sizes(images: Any) -> np.ndarray:
    return (images["height"].astype(np.int64) * images["width"]).to_numpy()


def overview(run: LabelledRun, album: Album) -> list[dict[str, Any]]:
    """Some whole images with their labels; the same images in every run."""
    return _whole(run, run.tables.images.sort_values(["sha256", "file_name"]), album)


def least_covered(run: LabelledRun, album: Album) -> list[dict[str, Any]]:
    """The whole images of which the smallest share is labelled: what was missed shows there."""
    images = run.tables.images
    if len(images) <= _MAX_OVERVIEW:
        return []  # all are shown already
    share = labelled_shares(run)
    order = np.lexsort((images["sha256"].to_numpy(), share))
    return _whole(run, images.iloc[order], album)


def _whole(run: LabelledRun, images: Any, album: Album) -> list[dict[str, Any]]:
    chosen = images.head(_MAX_OVERVIEW)
    drawn = (
        (row.file_name, labelled_picture(run, row, album, _OVERVIEW_SIDE))
        for row in chosen.itertuples()
    )
    return [{"file_name": name, "picture": picture} for name, picture in drawn if picture]


def labelled_picture(
    run: LabelledRun, row: Any, album: Album, side: int, rgb: np.ndarray | None = None
) -> Picture | None:
    """An image with its labels over it; None where there is no image, label map, or room.

    Args:
        run: the run.
        row: of `run.tables.images`.
        album: takes the picture.
        side: maximum rows and columns.
        rgb: the image, if it has been read.
    """
    rgb = run.picture(row.file_name) if rgb is None else rgb
    labels = run.labels(row)
    if rgb is None or labels is None:
        return None
    small = np.asarray(ImageOps.contain(Image.fromarray(rgb), (side, side)))
    labels = enlarged(labels, small.shape[:2])
    names = [run.label_map.name_of(value) for value in np.unique(labels) if value]
    words = f"labelled {', '.join(names)}" if names else "without a label"
    drawn = overlay(small, labels, run.label_map.colors)
    return album.add(drawn, side, f"{row.file_name}: {words}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One mask to be shown.

    Attributes:
        kind: one of `KINDS`.
        class_index: of its class.
        rank: the reason it was chosen; larger is shown first.
        file_name: its image.
        instance: the mask.
        confidence: the number that was compared with the threshold.
        threshold: of its class.
    """

    kind: str
    class_index: int
    rank: float
    file_name: str
    instance: Instance
    confidence: float
    threshold: float


class SampleKeeper:
    """Goes over images and keeps the few masks of each class that a person should look at.

    * best: the highest scores;
    * doubtful: kept, but the mean of two things is high: the entropy as a share of the largest
      possible, and how near the confidence is to the threshold;
    * rejected: dropped masks that came nearest to the threshold.

    Args:
        thresholds: float (c,), the minimum confidence of each class.
        times_iou: scores are confidence times predicted IoU, as `inference.score` says.
        most: samples of a kind and class; of one image there is but one.
    """

    def __init__(self, thresholds: Sequence[float], times_iou: bool, most: int) -> None:
        self._thresholds = thresholds
        self._times_iou = times_iou
        self._most = most
        self._kept: dict[tuple[str, int], list[tuple[float, int, Sample]]] = {}
        self._seen = 0

    def add(self, image: LabelledImage) -> None:
        """Look at the masks of one image."""
        samples = []
        for one in image.instances:
            threshold = float(self._thresholds[one.class_index])
            iou = min(max(one.predicted_iou or 0.0, 0.0), 1.0)
            sure = one.score / iou if self._times_iou and iou > 0 else one.score
            at = (image.path, one, sure, threshold)
            doubt = self._doubt(one.entropy or 0.0, sure, threshold)
            for kind, rank in (("best", one.score), ("doubtful", doubt)):
                samples.append(Sample(kind, one.class_index, rank, *at))
        for one in image.missed:
            threshold = one.threshold or 0.0
            rank = one.score / max(threshold, 1e-6)
            at = (image.path, one, one.score, threshold)
            samples.append(Sample("rejected", one.class_index, rank, *at))
        largest: dict[tuple[str, int], Sample] = {}
        for sample in samples:
            key = (sample.kind, sample.class_index)
            if key not in largest or largest[key].rank < sample.rank:
                largest[key] = sample
        for key, sample in largest.items():
            self._seen += 1
            heap = self._kept.setdefault(key, [])
            heapq.heappush(heap, (sample.rank, -self._seen, sample))
            if len(heap) > self._most:
                heapq.heappop(heap)

    def samples(self) -> list[Sample]:
        """All samples by class, kind, and rank."""
        return [
            sample
            for index, kind in sorted({(index, KINDS.index(kind)) for kind, index in self._kept})
            for _, _, sample in sorted(self._kept[KINDS[kind], index], reverse=True)
        ]

    def _doubt(self, entropy: float, sure: float, threshold: float) -> float:
        largest = math.log(max(2, len(self._thresholds)))
        near = 1 - (sure - threshold) / max(1 - threshold, 1e-6)
        return float(np.clip(entropy / largest, 0, 1) + np.clip(near, 0, 1)) / 2


def samples_a_kind(classes: int, most: int) -> int:
    """Number of masks of each kind that a class shows: fewer where there are many classes."""
    return max(1, min(most, MAX_SAMPLES // (len(KINDS) * max(1, classes)))) if most else 0


def sample_rows(run: LabelledRun, samples: Sequence[Sample], album: Album) -> list[dict[str, Any]]:
    """The samples by class; classes with most instances come first."""
    indexes = LabelMap.index_of(run.tables.instances["label"].to_numpy())
    count = np.bincount(indexes, minlength=len(run.classes))
    classes = sorted({one.class_index for one in samples}, key=lambda index: (-count[index], index))
    shown = classes[: max(1, MAX_SAMPLES // len(KINDS))]
    samples = [one for one in samples if one.class_index in set(shown)]
    pictures = _draw_samples(run, samples, album)
    masks: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one in samples:
        if id(one) in pictures:
            other = one.instance.runner_up
            mask = {
                "picture": pictures[id(one)],
                "file_name": one.file_name,
                "confidence": one.confidence,
                "threshold": one.threshold,
                "entropy": one.instance.entropy,
                "runner_up": None if other is None else run.classes[other],
            }
            masks.setdefault((one.class_index, one.kind), []).append(mask)
    return [
        {
            "name": run.classes[index],
            "kinds": [{"kind": kind, "masks": masks.get((index, kind), [])} for kind in KINDS],
        }
        for index in shown
    ]


def _draw_samples(run: LabelledRun, samples: Sequence[Sample], album: Album) -> dict[int, Picture]:
    """Pictures by the samples' `id`; each image is read once."""
    by_image: dict[str, list[Sample]] = {}
    for one in samples:
        by_image.setdefault(one.file_name, []).append(one)
    pictures = {}
    for file_name, group in sorted(by_image.items()):
        rgb = run.picture(file_name)
        for one in group:
            mask = one.instance
            if rgb is None or rgb.shape[:2] != tuple(mask.rle["size"]):
                continue  # the file was removed or replaced since
            color = run.label_map.colors[LabelMap.id_of(one.class_index)]
            crop = crop_of_mask(rgb, mask.mask(), mask.bbox, color)
            alt = f"{run.classes[one.class_index]}, {one.kind}, in {file_name}"
            picture = album.add(crop, _SAMPLE_SIDE, alt)
            if picture is not None:
                pictures[id(one)] = picture
    return pictures
