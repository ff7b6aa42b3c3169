"""Fits temperature, "none of these", presence and thresholds to masks whose truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch.nn import functional

from usam_core.inference.calibration import Calibration, best_log_odds, centered

NONE = -1
"""Target of a mask that shows no one class."""

_PRIOR = 10
"""A class's own threshold counts as much as the common one when it was seen in so many scenes."""
_FOLDS = 5
_GROUPS, _GROUP = 20, 30
"""At most so many groups of masks, of at least so many, for how often they are right."""
_GRID = np.linspace(0.02, 0.98, 49)


@dataclass(frozen=True, slots=True)
class SceneMasks:
    """One scene's masks, as they would be listed were there no threshold.

    Attributes:
        logits: float32 (p, o), the head's; classes first.
        predicted_iou: float32 (p,).
        targets: int64 (p,), the class each shows, or `NONE`.
        present: bool (c,), which classes are in the scene.
    """

    logits: np.ndarray
    predicted_iou: np.ndarray
    targets: np.ndarray
    present: np.ndarray


def fit_calibration(scenes: Sequence[SceneMasks], names: Sequence[str]) -> Calibration:
    """Return the calibration that makes the scenes' truth most probable.

    Args:
        scenes: at least one mask in all.
        names: the classes.

    Raises:
        ValueError: there is no mask.
    """
    if not sum(len(scene.targets) for scene in scenes):
        raise ValueError("scenes: expected at least one mask, got none")
    found = _fit_masks(scenes, len(names))
    _, sure, right = judged(scenes, found, len(names))
    stated, rate = _never_falling(sure, right)
    found = replace(found, stated=stated, right=rate)
    offset, slope = _fit_presence(scenes, found, len(names))
    found = replace(found, presence_offset=offset, presence_slope=slope)
    return replace(found, thresholds=_thresholds(scenes, found, names))


def _fit_masks(scenes: Sequence[SceneMasks], classes: int) -> Calibration:
    logits = torch.from_numpy(np.concatenate([centered(scene.logits, classes) for scene in scenes]))
    iou = torch.from_numpy(np.concatenate([scene.predicted_iou for scene in scenes])).double()
    targets = torch.from_numpy(np.concatenate([scene.targets for scene in scenes]))
    # Logarithm of T, and what "none" has; from where a softmax alone would begin.
    free = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss() -> torch.Tensor:
        scaled = logits / free[0].exp()
        none = free[1] + free[2] * iou
        # Outputs beyond the classes (negative names, background) speak for none of them.
        others = torch.cat([scaled[:, classes:], none[:, None]], dim=1).logsumexp(1)
        log_p = torch.cat([scaled[:, :classes], others[:, None]], dim=1).log_softmax(1)
        wanted = torch.where(targets == NONE, classes, targets)
        # The weak pull keeps numbers finite where the truth can be told apart without fault.
        return functional.nll_loss(log_p, wanted) + 1e-4 * free.square().sum()

    _minimize(free, loss)
    log_t, offset, slope = free.tolist()
    return Calibration(float(np.exp(log_t)), offset, slope, classes=classes)


def _never_falling(
    sure: np.ndarray, right: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return points of how often masks are right against what is stated of them.

    Masks are taken in groups of equal number, one more right and one more wrong in halves: a group
    of ten that are all right does not say that such masks always are.
    """
    order = np.argsort(sure, kind="stable")
    groups = np.array_split(order, max(1, min(_GROUPS, len(order) // _GROUP)))
    stated = np.array([sure[group].mean() for group in groups])
    rate = np.array([(right[group].sum() + 0.5) / (len(group) + 1) for group in groups])
    weights = [float(len(group)) for group in groups]
    fitted = np.maximum.accumulate(isotonic_regression(rate, weights=weights).x)
    stated = np.maximum.accumulate(np.concatenate([[0.0], stated, [1.0]]))
    return tuple(stated.tolist()), (0.0, *fitted.tolist(), float(fitted[-1]))


def _fit_presence(
    scenes: Sequence[SceneMasks], found: Calibration, classes: int
) -> tuple[float, float]:
    """Fit one logistic curve for all classes: a single class is in few scenes."""
    evidence = np.stack([best_log_odds(class_probabilities(s, found, classes)) for s in scenes])
    x = torch.from_numpy(evidence.ravel())
    y = torch.from_numpy(np.stack([scene.present for scene in scenes]).ravel()).double()
    start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    free = start.clone().requires_grad_()

    def loss() -> torch.Tensor:
        fitted = functional.binary_cross_entropy_with_logits(free[0] + free[1] * x, y)
        # Where the evidence never differs, the slope is free: the pull is to leave it as it is.
        return fitted + 1e-4 * (free - start).square().sum()

    _minimize(free, loss)
    offset, slope = free.tolist()
    return offset, max(0.0, slope)


def _minimize(free: torch.Tensor, loss: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        [free], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def class_probabilities(scene: SceneMasks, found: Calibration, classes: int) -> np.ndarray:
    """Return the calibrated probability of each class for each mask, float64 (p, c)."""
    return found.probabilities(scene.logits, scene.predicted_iou)[:, :classes]


def judged(
    scenes: Sequence[SceneMasks], found: Calibration, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of all masks: the class, its probability, and whether it is right; each (p,)."""
    chosen, sure, right = [], [], []
    for scene in scenes:
        probability = class_probabilities(scene, found, classes)
        best = probability.argmax(axis=1) if len(probability) else np.zeros(0, np.int64)
        chosen.append(best)
        sure.append(probability[np.arange(len(best)), best])
        right.append(best == scene.targets)
    return np.concatenate(chosen), np.concatenate(sure), np.concatenate(right)


def crossed(scenes: Sequence[SceneMasks], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return of all masks the probability and whether it is right, each (p,).

    Each fifth of the scenes is judged by what was fitted to the others: what was fitted to
    flatters itself.
    """
    scenes = [scene for scene in scenes if len(scene.targets)]
    parts = []
    for fold in range(_FOLDS):
        others = [scene for number, scene in enumerate(scenes) if number % _FOLDS != fold]
        parts.append(judged(scenes[fold::_FOLDS], fit_calibration(others, names), len(names)))
    sure, right = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    return sure, right


def _thresholds(
    scenes: Sequence[SceneMasks], found: Calibration, names: Sequence[str]
) -> dict[str, float]:
    """Return for each class the least probability that gives the best F1 over the scenes.

    With few scenes of a class its own optimum is chance: it is mixed with the common one.
    """
    chosen, sure, right = judged(scenes, found, len(names))
    shown = np.stack([scene.present for scene in scenes]).sum(axis=0)
    common = _best_f1(sure, right, int(shown.sum()))
    own = {}
    for number, name in enumerate(names):
        mine = chosen == number
        best = _best_f1(sure[mine], right[mine], int(shown[number])) if mine.any() else common
        weight = shown[number] / (shown[number] + _PRIOR)
        own[name] = round(float(weight * best + (1 - weight) * common), 4)
    return own


def _best_f1(sure: np.ndarray, right: np.ndarray, wanted: int) -> float:
    """Return the threshold of the best F1; of a plateau its middle."""
    kept = sure[None] >= _GRID[:, None]
    true = (kept & right).sum(axis=1)
    f1 = 2 * true / np.maximum(kept.sum(axis=1) + wanted, 1)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(_GRID[best[len(best) // 2]])
