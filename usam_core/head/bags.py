"""Bags for multiple-instance learning, streamed from the embedding store in bounded memory."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Protocol

import numpy as np

from usam_core.errors import InputError
from usam_core.head.losses import UNKNOWN
from usam_core.types import TOKENS_BLOCK

MULTIMASKS = slice(1, 4)
"""The masks of a prompt among which the best is chosen; 0 is the single mask."""


class Rows(Protocol):
    """The part of the embedding store that bags need."""

    def read_rows(
        self, shas: Sequence[str], columns: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield each image's columns, in any order."""
        ...

    def block_names(self) -> list[str]:
        """Names of the region feature blocks."""
        ...


def block_column(block: str) -> str:
    """The store's column of a feature block."""
    return TOKENS_BLOCK if block == TOKENS_BLOCK else f"features/{block}"


def choose_masks(predicted_iou: np.ndarray, choice: str) -> np.ndarray:
    """Which mask of each prompt stands for it, int64 (d,), of predicted IoUs float32 (d, m).

    `choice` is `single` (mask 0), or `best_iou` among masks 1 to 3; ties go to the lowest.
    """
    if choice == "single":
        return np.zeros(len(predicted_iou), np.int64)
    return predicted_iou[:, MULTIMASKS].argmax(axis=1) + 1


def assemble(
    columns: dict[str, np.ndarray], features: Sequence[str], prompts: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Feature rows of chosen masks, float16 (d, f), blocks side by side.

    Args:
        columns: the image's columns.
        features: names of the feature blocks.
        prompts, chosen: int64 (d,), the prompt of each mask, and which of its masks it is.
    """
    parts = [
        columns[TOKENS_BLOCK][prompts]
        if block == TOKENS_BLOCK
        else columns[block_column(block)][prompts, chosen]
        for block in features
    ]
    return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def balanced_weights(labels: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """How often each picture shall be seen so that classes are seen alike, sum 1.

    A bag of no class comes as often as the others do on average. Labels are (n, c), multi-hot.

    >>> balanced_weights([[1, 0], [1, 0], [0, 1]]).tolist()
    [0.25, 0.25, 0.5]
    """
    labels = np.asarray(labels, np.float64)
    rarity = 1 / np.maximum(labels.sum(axis=0), 1)
    weights = (labels * rarity).sum(axis=1) / np.maximum(labels.sum(axis=1), 1)
    named = labels.any(axis=1)
    weights[~named] = weights[named].mean()
    return weights / weights.sum()


def deviations(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Standard deviations of columns, from the means of their values and of their squares."""
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
    # A constant column says nothing: leave it at 0 instead of dividing by 0.
    deviation[deviation < 1e-6] = 1
    return deviation


class BagSource:
    """The bags of the training pictures: features (d, f) and a multi-hot label each.

    As many bags as `cache_mb` allows are kept as float16; the others are read from the store
    whenever a batch asks for them.

    Attributes:
        labels: float32 (n, c), multi-hot.
        widths: length of each feature block's vectors; they stand side by side in a row.
        prompts, width: d and f of the rows.

    Args:
        store: where the embeddings are.
        shas: digests of the pictures.
        labels: in the order of `shas`.
        features: names of the feature blocks, `tokens` among them or not.
        mask_choice: which mask of a prompt gives its region features; see `choose_masks`.
        cache_mb: memory for bags, megabytes.
        targets: int64 (n, d), what each mask shows where that is known; see
            `usam_core.head.losses`. None: nothing is known.
        weights: float64 (n,), how often each bag shall come, sum 1. None: all the same, each once
            an epoch.
        picked: for each bag int64 (d, 2), prompt and mask of each of its rows, or None where
            every prompt gives a row, by `mask_choice`. None: so for all bags. Only bags of picked
            masks may share an image with others.

    Raises:
        InputError: a feature block is not in the store, or there is no picture.
    """

    def __init__(
        self,
        store: Rows,
        shas: Sequence[str],
        labels: np.ndarray,
        features: Sequence[str],
        mask_choice: str = "best_iou",
        cache_mb: int = 1024,
        targets: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        picked: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        known = store.block_names()
        unknown = [block for block in features if block not in known]
        if unknown:
            raise InputError(f"head.features: {unknown} not in the store; expected some of {known}")
        if not len(shas):
            raise InputError("no training picture to learn from; run the collect step first")
        self._store = store
        self._shas = list(shas)
        self._picked = [None] * len(self._shas) if picked is None else list(picked)
        self.labels = np.asarray(labels, np.float32)
        self.features = list(features)
        self._choice = mask_choice
        self._columns = ["predicted_iou", *map(block_column, features)]
        ((_, columns),) = store.read_rows(self._shas[:1], self._columns)
        self.widths = [columns[block_column(block)].shape[-1] for block in features]
        self.prompts, self.width = len(columns["predicted_iou"]), sum(self.widths)
        shape = (len(self._shas), self.prompts)
        self._targets = np.full(shape, UNKNOWN, np.int64) if targets is None else targets
        self._weights = weights
        self._block = slice(None)
        room = int(cache_mb * 1e6) // (self.prompts * self.width * 2)
        self._cached = np.empty((min(room, len(self)), self.prompts, self.width), np.float16)
        for number, bag in self._read(np.arange(len(self._cached))):
            self._cached[number] = bag

    def __len__(self) -> int:
        """n, the number of bags."""
        return len(self._shas)

    def batches(
        self, rng: np.random.Generator, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield an epoch in random order: features float32 (n', d, f), labels float32 (n', c) and
        targets int64 (n', d)."""
        if self._weights is None:
            order = rng.permutation(len(self))
        else:
            order = rng.choice(len(self), len(self), p=self._weights)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            bags = np.ascontiguousarray(self._bags(rows)[..., self._block])
            yield bags, self.labels[rows], self._targets[rows]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each column over all masks, float32 (f,)."""
        total, square, count = np.zeros(self.width), np.zeros(self.width), 0
        for bags, _ in self.in_order():
            rows = bags.reshape(-1, self.width).astype(np.float64)
            total += rows.sum(0)
            square += np.square(rows).sum(0)
            count += len(rows)
        mean = total / count
        deviation = deviations(mean, square / count)
        return mean.astype(np.float32)[self._block], deviation.astype(np.float32)[self._block]

    def blocks(self) -> "list[BagSource]":
        """The bags of each feature block alone, for batches and moments."""
        parts, start = [], 0
        for width in self.widths:
            part = copy(self)
            part.widths, part._block = [width], slice(start, start + width)
            parts.append(part)
            start += width
        return parts

    def in_order(self, batch_size: int = 32) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield features and labels of every bag once, in order."""
        for start in range(0, len(self), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self)))
            yield self._bags(rows), self.labels[rows]

    def _bags(self, rows: np.ndarray) -> np.ndarray:
        bags = np.empty((len(rows), self.prompts, self.width), np.float32)
        cached = rows < len(self._cached)
        bags[cached] = self._cached[rows[cached]]
        missing = np.flatnonzero(~cached)
        for number, bag in self._read(rows[missing]):
            bags[missing[number]] = bag
        return bags

    def _read(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each wanted bag with its place in `rows`; a bag may be wanted more than once."""
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(self._shas[row], []).append(place)
        for sha256, columns in self._store.read_rows(list(places), self._columns):
            chosen = choose_masks(columns["predicted_iou"], self._choice)
            every = np.stack([np.arange(self.prompts), chosen], axis=1)
            for place in places[sha256]:
                picked = self._picked[rows[place]]
                prompts, masks = (every if picked is None else picked).T
                yield place, assemble(columns, self.features, prompts, masks)
