"""Which masks a review shows, and what its decisions say of the precision of each class.

Masks shown for their doubt say nothing of the others: a class's precision can only be read off
masks that had no say in being shown. So every third mask is drawn by chance, class by class in
turn, in an order that the masks' contents give: another run goes on where this one ended. The
sample of a class is the beginning of its order of chance (`Item.draw`), up to the last mask that a
person decided on because chance had chosen it: a simple random sample, whatever was shown for its
doubt in between. Masks of the sample that a person passed over are not known to be right or wrong;
both ends of the interval allow for the worse.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from usam_core.files.digest import value_digest
from usam_core.labels.image import Instance
from usam_core.masks.rle import measures
from usam_core.review.decisions import Decision, mask_id

DRAWN_EVERY = 3
"""Every third mask is drawn by chance."""
LEVEL = 0.95
"""Confidence level of the interval."""


@dataclass(slots=True)
class Item:
    """A mask that `annotate` has listed, with what makes it doubtful.

    Attributes:
        sha256: digest of the image.
        file_name: the image's name as it is listed.
        name: the head's class name, whatever a person has decided.
        instance: the mask; its class index may be a person's, `name` is the head's.
        doubt: measures of doubt by name, larger is more doubtful.
        decision: a person's, if any.
        added: a person added it; the head has not listed it.
        id: names the mask, whichever run lists it.
        draw: its place in the order of chance, 0 to 2^63 - 1.
    """

    sha256: str
    file_name: str
    name: str
    instance: Instance
    doubt: dict[str, float] = field(default_factory=dict)
    decision: Decision | None = None
    added: bool = False
    id: str = ""
    draw: int = 0

    def __post_init__(self) -> None:
        self.id = mask_id(self.sha256, self.instance.rle)
        self.draw = int(value_digest(["drawn", self.id])[:16], 16) >> 1

    @property
    def outline(self) -> dict[str, Any]:
        """The mask as it is now, COCO's compressed RLE."""
        return self.instance.rle if self.decision is None else self._drawn() or self.instance.rle

    def _drawn(self) -> dict[str, Any] | None:
        return self.decision.drawn if self.decision else None

    @property
    def bbox(self) -> tuple[float, ...]:
        """Left, top, width and height of what it is now."""
        drawn = self._drawn()
        return self.instance.bbox if drawn is None else tuple(measures(drawn)["bbox"])

    @property
    def label(self) -> str | None:
        """What a person called it; None where nobody did."""
        return self.decision.label if self.decision else None

    @property
    def stands(self) -> bool:
        """Whether it is an object as far as anybody has said."""
        return self.decision is None or self.decision.label is not None

    def to_json(self) -> dict[str, Any]:
        """What the page's lists say of it."""
        drawn = self._drawn()
        return {
            "id": self.id,
            "image": self.sha256,
            "file_name": self.file_name,
            "name": self.name,
            "label": self.label,
            "verdict": self.decision and self.decision.verdict,
            "score": self.instance.score,
            "entropy": self.instance.entropy,
            "area": self.instance.area if drawn is None else measures(drawn)["area"],
            "added": self.added,
        }


def queue(
    doubtful: Sequence[Sequence[Item]], drawn: Mapping[str, Sequence[Item]], limit: int
) -> list[tuple[Item, bool]]:
    """Masks in the order of showing, each once, and whether chance chose it.

    Args:
        doubtful: the masks by one or several measures of doubt, most doubtful first; the measures
            take turns.
        drawn: the masks of each class in the order of chance; the classes take turns.
        limit: maximum number of masks.
    """
    seen: set[str] = set()
    shown: list[tuple[Item, bool]] = []
    doubts, chances = _turns(doubtful, seen), _turns(drawn.values(), seen)
    while len(shown) < limit:
        ways = [(doubts, False), (chances, True)]
        if len(shown) % DRAWN_EVERY == DRAWN_EVERY - 1:
            ways.reverse()
        for items, by_chance in ways:
            item = next(items, None)
            if item is not None:
                shown.append((item, by_chance))
                break
        else:
            break
    return shown


def _turns(lists: Iterable[Sequence[Item]], seen: set[str]) -> Iterator[Item]:
    """Yield the next unseen mask of each list in turn."""
    left = deque(iter(items) for items in lists)
    while left:
        items = left.popleft()
        item = next((item for item in items if item.id not in seen), None)
        if item is not None:
            left.append(items)
            seen.add(item.id)
            yield item


class Judged(NamedTuple):
    """A decision on a mask of a class: its `draw`, whether it is right, whether chance chose it."""

    draw: int
    right: bool
    sampled: bool


@dataclass(frozen=True, slots=True)
class Precision:
    """The share of a class's listed masks that are of the class.

    Attributes:
        name: the class.
        masks: number of its listed masks.
        decided: number of these with a decision, drawn by chance or not.
        sample: number of masks of the random sample with a decision.
        right: number of these that are of the class.
        skipped: number of masks of the sample without a decision.
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
        """A JSON object."""
        return asdict(self)


def interval(right: int, sample: int, level: float = LEVEL) -> tuple[float, float]:
    """The Clopper-Pearson interval of `right` of `sample`: it covers at least at its level.

    >>> [round(end, 4) for end in interval(10, 10)]  # the lower end is 0.025 ** (1 / 10)
    [0.6915, 1.0]
    """
    if not sample:
        return 0.0, 1.0
    ends = stats.binomtest(right, sample).proportion_ci(level, method="exact")
    return float(ends.low), float(ends.high)


def estimate(name: str, draws: np.ndarray, judged: Iterable[Judged]) -> Precision:
    """A class's precision from the draws of all its masks, int64, rising, and those decided on."""
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
