"""How often the head is right with each class, from the masks that chance chose.

The masks of a class have an order of chance (`Item.draw`). The sample is its beginning, up to the
last mask that a person decided on because chance had chosen it: a simple random sample, whatever
was shown for its doubt in between. Masks of the sample that a person passed over are not known to
be right or wrong; both ends of the interval allow for the worse.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
"""How sure the interval is."""


class Judged(NamedTuple):
    """A mask of a class that a person has decided on.

    Attributes:
        draw: its place in the order of chance.
        right: it is what the head calls it.
        sampled: it was shown because chance had chosen it.
    """

    draw: int
    right: bool
    sampled: bool


@dataclass(frozen=True, slots=True)
class Precision:
    """The share of a class's listed masks that are of the class.

    Attributes:
        name: the class.
        masks: how many of it the head lists.
        decided: how many of these a person has decided on, drawn by chance or not.
        sample: how many of the random sample were decided.
        right: how many of these are of the class.
        skipped: masks of the sample that nobody has decided on.
        precision: `right` / `sample`; None while there is no sample.
        low: lower end of the interval, 0 to 1.
        high: upper end.
    """

    name: str
    masks: int
    decided: int
    sample: int
    right: int
    skipped: int
    precision: float | None
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def interval(right: int, sample: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share: never less sure than it says.

    Args:
        right: how many of the sample.
        sample: its size.
        level: how sure, 0 to 1.

    >>> [round(end, 4) for end in interval(10, 10)]  # the lower end is 0.025 ** (1 / 10)
    [0.6915, 1.0]
    """
    if not sample:
        return 0.0, 1.0
    found = stats.binomtest(right, sample).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def estimate(name: str, draws: np.ndarray, judged: Iterable[Judged]) -> Precision:
    """Return a class's precision.

    Args:
        name: the class.
        draws: int64, the places of all its masks in the order of chance, rising.
        judged: those of them that a person has decided on.
    """
    judged = list(judged)
    end = max((one.draw for one in judged if one.sampled), default=-1)
    sample = [one.right for one in judged if one.draw <= end]
    skipped = int(np.searchsorted(draws, end, side="right")) - len(sample)
    right = sum(sample)
    return Precision(
        name=name,
        masks=len(draws),
        decided=len(judged),
        sample=len(sample),
        right=right,
        skipped=skipped,
        precision=right / len(sample) if sample else None,
        low=interval(right, len(sample) + skipped)[0],
        high=interval(right + skipped, len(sample) + skipped)[1],
    )
