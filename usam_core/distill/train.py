"""Trains the student on crops of labelled pictures; the best one on the validation images stays."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from usam_core.config.results import DistillConfig
from usam_core.distill.model import Student, begin_with, fit_side
from usam_core.progress import Progress
from usam_core.rng import derive_seed, generator

VOID = -1
"""Pixels of this value teach nothing."""
Pair = tuple[np.ndarray, np.ndarray]
"""A picture, uint8 (h, w, 3), and its label map, integers (h, w), 0 background, -1 void."""
_CACHE_BYTES = 1 << 30
_CHECKS = 10
"""How often the validation images are asked, in all of a training."""
_SCALES = (0.5, 1.5)
"""Width of a crop, as a share of the picture as the student sees it."""
_LIGHT = 0.3
_READERS = 4


class Samples:
    """Pictures with labels as the student sees them, read when asked for, and kept while there is
    room.

    Args:
        read: gives one of them by its number.
        side: pixels of the longer side.
    """

    def __init__(self, read: Callable[[int], Pair], side: int) -> None:
        self._read, self._side = read, side
        self._kept: OrderedDict[int, Pair] = OrderedDict()
        self._left = _CACHE_BYTES

    def __call__(self, number: int) -> Pair:
        """Picture, uint8 (3, h, w), and labels, int16 (h, w)."""
        if number in self._kept:
            return self._kept[number]
        rgb, labels = self._read(number)
        seen = (fit_side(rgb, self._side) * 255).round().byte().numpy()
        rows, columns = (
            np.arange(new) * old // new
            for new, old in zip(seen.shape[1:], labels.shape, strict=True)
        )
        pair = seen, labels[rows][:, columns].astype(np.int16)
        size = pair[0].nbytes + pair[1].nbytes
        if size <= self._left:
            self._left -= size
            self._kept[number] = pair
        return pair


def train_student(
    samples: Samples,
    chosen: Sequence[int],
    pixels: np.ndarray,
    config: DistillConfig,
    weights: Path | None,
    seed: int,
    device: str,
    score: Callable[[Student], float] | None,
    progress: Progress,
) -> tuple[Student, list[dict[str, float]]]:
    """Train a student; return it in evaluation mode, and the history of its loss and score.

    Args:
        samples: pictures with labels.
        chosen: numbers of those that it learns from.
        pixels: float (labels,), how many pixels of each label there are: rare ones weigh more.
        config: settings.
        weights: file to begin with, or None.
        score: judges a student on the validation images, more is better; None keeps the last one.
    """
    with torch.random.fork_rng(devices=[]):  # initial weights draw from the global generator
        torch.manual_seed(derive_seed(seed, "distill"))
        student = Student(len(pixels))
        if weights is not None:
            begin_with(student, weights)
        return _train(student.to(device), samples, chosen, pixels, config, seed, score, progress)


def _train(
    student: Student,
    samples: Samples,
    chosen: Sequence[int],
    pixels: np.ndarray,
    config: DistillConfig,
    seed: int,
    score: Callable[[Student], float] | None,
    progress: Progress,
) -> tuple[Student, list[dict[str, float]]]:
    device = next(student.parameters()).device
    rate = torch.from_numpy(_class_weights(pixels)).to(device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    history: list[dict[str, float]] = []
    best: tuple[float, Mapping[str, Tensor]] | None = None
    losses: list[float] = []
    checks = set(np.linspace(0, config.steps, _CHECKS + 1).round().astype(int)[1:].tolist())
    with (
        ThreadPoolExecutor(1) as ahead,
        ThreadPoolExecutor(_READERS) as readers,
        progress.bar("Training", config.steps) as bar,
    ):

        def batch(number: int) -> list[Pair]:
            rng = generator(seed, "distill", number)
            size = config.batch_size
            drawn = rng.choice(len(chosen), size, replace=len(chosen) < size)
            pairs = readers.map(samples, [chosen[one] for one in drawn])
            return [crop_pair(pair, config.size, rng) for pair in pairs]

        coming = ahead.submit(batch, 0)
        for step in range(1, config.steps + 1):
            pairs = coming.result()
            coming = ahead.submit(batch, step)
            rgb = torch.from_numpy(np.stack([pair[0] for pair in pairs])).to(device)
            wanted = torch.from_numpy(np.stack([pair[1] for pair in pairs])).long().to(device)
            student.train()
            if (wanted != VOID).any():  # of nothing the mean loss is no number
                loss = functional.cross_entropy(
                    student.logits(rgb), wanted, weight=rate, ignore_index=VOID
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            schedule.step()
            bar.advance()
            if step in checks:
                student.eval()
                told = {"step": float(step), "loss": float(np.mean(losses or [0.0]))}
                losses.clear()
                if score is not None:
                    told["val"] = score(student)
                    if best is None or told["val"] >= best[0]:
                        best = told["val"], copy.deepcopy(student.state_dict())
                history.append(told)
    if best is not None:
        student.load_state_dict(best[1])
    return student.cpu().eval(), history


def crop_pair(pair: Pair, side: int, rng: np.random.Generator) -> Pair:
    """A random square of a picture: mirrored, larger or smaller, lighter or darker.

    Args:
        pair: as `Samples` gives it.

    Returns:
        Picture, float32 (3, side, side), 0 to 1, and labels, int16 (side, side), void where the
        square reaches beyond the picture.
    """
    rgb, labels = pair
    width = max(8, round(side * rng.uniform(*_SCALES)))
    h, w = labels.shape
    # A square wider than the picture lies anywhere around it, else anywhere within.
    top, left = (int(rng.integers(min(0, n - width), max(0, n - width) + 1)) for n in (h, w))
    rows, columns = (start + (np.arange(side) + 0.5) * width / side for start in (top, left))
    rows, columns = np.floor(rows).astype(int), np.floor(columns).astype(int)
    if rng.random() < 0.5:
        columns = columns[::-1]
    outside = ((rows < 0) | (rows >= h))[:, None] | ((columns < 0) | (columns >= w))[None]
    rows, columns = rows.clip(0, h - 1), columns.clip(0, w - 1)
    seen = rgb[:, rows][:, :, columns].astype(np.float32) / 255
    seen = seen * rng.uniform(1 - _LIGHT, 1 + _LIGHT) + rng.uniform(-_LIGHT, _LIGHT) / 3
    taught = labels[rows][:, columns].copy()
    taught[outside] = VOID
    return seen.clip(0, 1).astype(np.float32), taught


def _class_weights(pixels: np.ndarray) -> np.ndarray:
    """Weights of the labels, 1 in the mean of all pixels: by the root of how rare each is."""
    share = np.maximum(pixels, 1) / max(1, pixels.sum())
    weights = 1 / np.sqrt(share)
    return (weights / (weights * share).sum()).astype(np.float32)
