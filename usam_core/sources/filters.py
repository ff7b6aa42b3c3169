"""Which collected pictures teach: one named reason for every one that does not.

n pictures of a class, m images to be labelled, f features
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from usam_core.config.training import FilterConfig
from usam_core.sources.base import Rejected, TrainingPicture

_NEIGHBORS = 5
_FEWEST_FOR_OUTLIERS = 2 * _NEIGHBORS
_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_MIN_DEVIATION = 0.01  # cosine: a class of near-equal pictures must not lose its margins
_CHUNK = 1 << 20


def filter_pictures(
    pictures: Sequence[TrainingPicture],
    looks: pd.DataFrame,
    config: FilterConfig,
    labelled: np.ndarray,
) -> tuple[list[TrainingPicture], list[Rejected]]:
    """Judge the pictures of one class.

    Filters run in the order of cost and certainty: unreadable, size, aspect, contrast, leaked,
    duplicate, outlier; a picture is counted under the first that it fails.

    Args:
        pictures: n pictures of one class.
        looks: their rows of `picture_looks`, in the same order.
        config: the thresholds.
        labelled: uint64 (m,), perceptual hashes of the images to be labelled.

    Returns:
        The pictures kept, in their order, and a line for each of the others.
    """
    verdicts: list[tuple[str, str] | None] = [
        _alone(row, config) for row in looks.itertuples(index=False)
    ]
    hashes = looks["phash"].to_numpy(np.uint64)

    def left() -> np.ndarray:
        return np.array([i for i, verdict in enumerate(verdicts) if verdict is None], dtype=int)

    if config.leak_bits is not None and len(labelled):
        for i in left():
            distance = nearest_bits(hashes[i], labelled)
            if distance <= config.leak_bits:
                verdicts[i] = (
                    "leak",
                    f"differs in {distance} of 64 hash bits from an image to be labelled; more "
                    f"than filters.leak_bits, {config.leak_bits}, is needed",
                )
    if config.duplicate_bits is not None:
        _mark_duplicates(verdicts, pictures, hashes, left(), config.duplicate_bits)
    if config.outlier_deviations is not None:
        _mark_outliers(verdicts, looks["features"], left(), config.outlier_deviations)
    kept = [pictures[i] for i in left()]
    rejected = [
        Rejected(picture.class_name, picture.path, *verdict)
        for picture, verdict in zip(pictures, verdicts, strict=True)
        if verdict is not None
    ]
    return kept, rejected


def nearest_bits(value: np.uint64, hashes: np.ndarray) -> int:
    """Return the least number of differing bits between a hash and any of uint64 (m,)."""
    return min(
        int(np.bitwise_count(hashes[start : start + _CHUNK] ^ value).min())
        for start in range(0, len(hashes), _CHUNK)
    )


def similarity_to_neighbors(features: np.ndarray) -> np.ndarray:
    """Return each picture's mean cosine similarity to the five most similar others, (n,).

    Args:
        features: (n, f), rows of length 1, n above 5.
    """
    cosine = features @ features.T
    np.fill_diagonal(cosine, -np.inf)
    return np.partition(cosine, -_NEIGHBORS, axis=1)[:, -_NEIGHBORS:].mean(axis=1)


def _alone(row: Any, config: FilterConfig) -> tuple[str, str] | None:
    """Return what speaks against a picture by itself: code and sentence."""
    if row.code:
        return row.code, row.reason
    shorter, longer = sorted((row.width, row.height))
    size = f"{row.width} x {row.height} pixels"
    if config.min_side is not None and shorter < config.min_side:
        return "too_small", f"{size}; filters.min_side is {config.min_side}"
    if config.max_aspect is not None and longer > config.max_aspect * shorter:
        return "extreme_aspect", f"{size}; filters.max_aspect is {config.max_aspect:g}"
    if config.min_contrast is not None and row.contrast < config.min_contrast:
        return (
            "near_uniform",
            f"grey values deviate by {row.contrast:.1f}; filters.min_contrast is "
            f"{config.min_contrast:g}",
        )
    return None


def _mark_duplicates(
    verdicts: list[tuple[str, str] | None],
    pictures: Sequence[TrainingPicture],
    hashes: np.ndarray,
    left: np.ndarray,
    bits: int,
) -> None:
    kept = np.empty(len(left), int)
    known = np.empty(len(left), np.uint64)
    count = 0
    for i in left:
        differing = np.bitwise_count(known[:count] ^ hashes[i])
        if count and differing.min() <= bits:
            first = kept[int(differing.argmin())]
            verdicts[i] = (
                "near_duplicate",
                f"differs in {differing.min()} of 64 hash bits from {pictures[first].path}; more "
                f"than filters.duplicate_bits, {bits}, is needed",
            )
        else:
            kept[count], known[count] = i, hashes[i]
            count += 1


def _mark_outliers(
    verdicts: list[tuple[str, str] | None], features: pd.Series, left: np.ndarray, most: float
) -> None:
    if len(left) < _FEWEST_FOR_OUTLIERS:
        return
    similar = similarity_to_neighbors(np.stack([features[i] for i in left]))
    median = np.median(similar)
    deviation = max(_MAD_TO_DEVIATION * float(np.median(np.abs(similar - median))), _MIN_DEVIATION)
    for i, below in zip(left, (median - similar) / deviation, strict=True):
        if below > most:
            verdicts[i] = (
                "outlier",
                f"{below:.1f} deviations less like its companions than the class's median; "
                f"filters.outlier_deviations is {most:g}",
            )
