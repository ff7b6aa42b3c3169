"""From the head's logits to probabilities that can be believed, without a label of the user's.

A softmax over the classes alone has no word for "none of these", and a distilled student is made
to be unsure of what it does not know. So masks get one outcome more:

    z' = z - mean of the classes' z;   p_i = exp(z'_i / T) / (sum_j exp(z'_j / T) + exp(a + b q))
    probability of class i = r(p_i)

T is the temperature (Guo et al. 2017, On Calibration of Modern Neural Networks), q SAM's own
estimate of the mask's IoU, and the last term the mask that shows no one class. Confident mistakes
happen at every level: r, which never falls (isotonic regression; Zadrozny and Elkan 2002), is what
T cannot do about them. All are fitted on composed scenes whose truth is known by construction
(`usam_core.steps.calibrate`).
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted; the axis letters are those of `usam_core.types`.

    Attributes:
        temperature: T; above 1 the head was too sure.
        none_offset: a, the logit of "none of these" for a mask of predicted IoU 0.
        none_slope: b, what one of predicted IoU adds to it.
        stated: points of r, rising from 0 to 1.
        right: how often masks of which that is stated are right, never falling.
        thresholds: least probability of each class, 0 to 1, by name; see `operating`.
        presence_offset: log odds that a class is in the image when its best mask has even odds.
        presence_slope: what the log odds of its best mask add to them.
        classes: c, of the outputs o; the others may lie anywhere. 0: all outputs are classes.
    """

    temperature: float
    none_offset: float
    none_slope: float
    stated: tuple[float, ...] = (0.0, 1.0)
    right: tuple[float, ...] = (0.0, 1.0)
    thresholds: dict[str, float] = field(default_factory=dict)
    presence_offset: float = 0.0
    presence_slope: float = 1.0
    classes: int = 0

    def probabilities(self, logits: np.ndarray, predicted_iou: np.ndarray) -> np.ndarray:
        """Return the probability of each class for each mask, float64 (p, c); rows sum to <= 1.

        Args:
            logits: float32 (p, o), the head's; o is c, or more where it has other outputs.
            predicted_iou: float32 (p,).
        """
        scaled = centered(logits, self.classes) / self.temperature
        none = self.none_offset + self.none_slope * predicted_iou.astype(np.float64)
        largest = np.maximum(scaled.max(axis=1), none)
        weights = np.exp(scaled - largest[:, None])
        p = weights / (weights.sum(axis=1) + np.exp(none - largest))[:, None]
        # How often masks are right was learned of classes: it is no word on other outputs.
        p = np.interp(p[:, : self.classes or None], self.stated, self.right)
        # Where that is more than 1 together, the best one keeps what was learned of best ones.
        best = np.arange(p.shape[1]) == p.argmax(axis=1)[:, None]
        others = np.where(best, 0, p)
        room = (1 - p.max(axis=1)) / np.maximum(others.sum(axis=1), 1e-12)
        return np.where(best, p, others * np.minimum(room, 1)[:, None])

    def presence(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probability that each class is in the image at all, float64 (c,).

        Args:
            probabilities: float64 (p, c), of all of the image's masks; p may be 0.
        """
        evidence = best_log_odds(probabilities)
        return 1 / (1 + np.exp(-(self.presence_offset + self.presence_slope * evidence)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Calibration":
        """Return what `to_json` returned."""
        points = {name: tuple(value[name]) for name in ("stated", "right")}
        return cls(**{**value, **points})


def centered(logits: np.ndarray, classes: int = 0) -> np.ndarray:
    """Return logits less the classes' mean, float64: what all outputs share says nothing.

    "None of these" may lie far from the classes, and would move all of them.
    """
    logits = logits.astype(np.float64)
    return logits - logits[:, : classes or None].mean(axis=1, keepdims=True)


def best_log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return the log odds of each class's most probable mask, float64 (c,); at least -14."""
    if not len(probabilities):
        return np.full(probabilities.shape[1], log_odds(0.0))
    return log_odds(probabilities.max(axis=0))


def log_odds(probability: np.ndarray | float) -> np.ndarray:
    """Return log(p / (1 - p)), cut off at 14 on both sides."""
    bounded = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(bounded) - np.log1p(-bounded)
