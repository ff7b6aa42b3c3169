"""What was found: classes with counts, areas and scores; coverage; masks and images to look at."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from usam_core.labels.label_map import LabelMap
from usam_core.labels.overlay import overlay
from usam_core.metrics.gate import COVERED, covers_too_much
from usam_core.report.charts import AREA_TICKS, area_bins, histogram, score_bins
from usam_core.report.pictures import Album, Picture, crop_of_mask, enlarged
from usam_core.report.runs import LabelledRun
from usam_core.report.samples import KINDS, Sample

MAX_CHARTS = 200
"""Classes with charts; the table has all."""

MAX_SAMPLES = 360
"""Masks shown, of all classes and kinds together."""

_MAX_NAMES = 50
_MAX_OVERVIEW = 6
_SAMPLE_SIDE = 176
_OVERVIEW_SIDE = 480
_SCORE_TICKS = ((0.0, "0"), (0.5, "0.5"), (1.0, "1"))


def class_rows(run: LabelledRun, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Return what stands about each class, in the project's order."""
    images, found, cover = run.tables.images, run.tables.instances, run.tables.cover
    share = found["area"] / _sizes(images)[found["image"]]
    rows = []
    for (name, label), threshold in zip(run.label_map.ids().items(), thresholds, strict=True):
        own = (found["label"] == label).to_numpy()
        pixels = int(cover.loc[cover["label"] == label, "pixels"].sum())
        scores = found.loc[own, "score"].to_numpy()
        row = {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*run.label_map.colors[label]),
            "images": int(found.loc[own, "image"].nunique()),
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
    """Return how much of the images is labelled, and which images are not at all."""
    images, cover = run.tables.images, run.tables.cover
    own = cover[cover["label"] > 0]
    pixels = np.bincount(own["image"], own["pixels"], len(images))
    share = pixels / np.maximum(1, _sizes(images)) if len(images) else np.zeros(0)
    empty = images.loc[pixels == 0, "file_name"].tolist()
    total = float(pixels.sum() / max(1, run.tables.pixels))
    whole = own["pixels"].to_numpy() > COVERED * _sizes(images)[own["image"]]
    covered = Counter(map(run.label_map.name_of, own.loc[whole, "label"]))
    alt = f"labelled share of each of {len(images)} images; {total:.1%} of all pixels"
    ticks = ((0.0, "0%"), (0.5, "50%"), (1.0, "100%"))
    return {
        "share": total,
        "notes": covers_too_much(covered, len(images)),
        "empty": empty[:_MAX_NAMES],
        "more_empty": max(0, len(empty) - _MAX_NAMES),
        "empty_count": len(empty),
        "chart": histogram(score_bins(share), ticks, alt),
    }


def samples_a_kind(classes: int, most: int) -> int:
    """Return how many masks of each kind a class shows: fewer where there are many classes."""
    return max(1, min(most, MAX_SAMPLES // (len(KINDS) * max(1, classes)))) if most else 0


def sample_rows(run: LabelledRun, samples: Sequence[Sample], album: Album) -> list[dict[str, Any]]:
    """Return the masks to be looked at, by class; classes with most instances come first."""
    found = LabelMap.index_of(run.tables.instances["label"].to_numpy())
    count = np.bincount(found, minlength=len(run.classes))
    classes = sorted({one.class_index for one in samples}, key=lambda index: (-count[index], index))
    shown = classes[: max(1, MAX_SAMPLES // len(KINDS))]
    drawn = _draw_samples(run, [one for one in samples if one.class_index in set(shown)], album)
    return [
        {
            "name": run.classes[index],
            "kinds": [{"kind": kind, "masks": drawn.get((index, kind), [])} for kind in KINDS],
        }
        for index in shown
    ]


def overview(run: LabelledRun, album: Album) -> list[dict[str, Any]]:
    """Return some whole images with their labels; the same images in every run."""
    chosen = run.tables.images.sort_values(["sha256", "file_name"]).head(_MAX_OVERVIEW)
    found = []
    for row in chosen.itertuples():
        drawn = labelled_picture(run, row, album, _OVERVIEW_SIDE)
        if drawn is not None:
            found.append({"file_name": row.file_name, "picture": drawn})
    return found


def labelled_picture(
    run: LabelledRun, row: Any, album: Album, side: int, rgb: np.ndarray | None = None
) -> Picture | None:
    """Return an image with its labels over it; None where there is no image, label map, or room.

    Args:
        run: the run.
        row: of `run.tables.images`.
        album: takes the picture.
        side: most rows and columns.
        rgb: the image, if it has been read.
    """
    rgb = run.picture(row.file_name) if rgb is None else rgb
    labels = run.labels(row)
    if rgb is None or labels is None:
        return None
    small = np.asarray(ImageOps.contain(Image.fromarray(rgb), (side, side)))
    labels = enlarged(labels, small.shape[:2])
    names = [run.label_map.name_of(value) for value in np.unique(labels) if value]
    said = f"labelled {', '.join(names)}" if names else "without a label"
    return album.add(overlay(small, labels, run.label_map.colors), side, f"{row.file_name}: {said}")


def _draw_samples(
    run: LabelledRun, samples: Sequence[Sample], album: Album
) -> dict[tuple[int, str], list[dict[str, Any]]]:
    by_image: dict[str, list[Sample]] = {}
    for one in samples:
        by_image.setdefault(one.file_name, []).append(one)
    drawn: dict[int, dict[str, Any]] = {}
    for file_name, group in sorted(by_image.items()):
        rgb = run.picture(file_name)
        if rgb is None:
            continue
        for one in group:
            mask = one.instance
            if rgb.shape[:2] != tuple(mask.rle["size"]):
                continue  # the file was replaced since
            color = run.label_map.colors[LabelMap.id_of(one.class_index)]
            crop = crop_of_mask(rgb, mask.mask(), mask.bbox, color)
            alt = f"{run.classes[one.class_index]}, {one.kind}, in {file_name}"
            picture = album.add(crop, _SAMPLE_SIDE, alt)
            if picture is not None:
                drawn[id(one)] = _sample(run, one, picture)
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one in samples:
        if id(one) in drawn:
            rows.setdefault((one.class_index, one.kind), []).append(drawn[id(one)])
    return rows


def _sample(run: LabelledRun, one: Sample, picture: Picture) -> dict[str, Any]:
    other = one.instance.runner_up
    return {
        "picture": picture,
        "file_name": one.file_name,
        "confidence": one.confidence,
        "threshold": one.threshold,
        "entropy": one.instance.entropy,
        "runner_up": None if other is None else run.classes[other],
    }


def _sizes(images: Any) -> np.ndarray:
    return (images["height"].astype(np.int64) * images["width"]).to_numpy()
