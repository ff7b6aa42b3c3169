"""One review: the masks that are shown, the decisions on them, and the precision of each class.

Masks shown for their doubt say nothing of the others: a class's precision can only be read off
masks that had no say in being shown. So every third mask is drawn by chance, class by class in
turn, in an order that the masks' contents give: another run goes on where this one ended. The
sample of a class is the beginning of its order of chance (`Item.draw`), up to the last mask that a
person decided on because chance had chosen it: a simple random sample, whatever was shown for its
doubt in between. Masks of the sample that a person passed over are not known to be right or wrong;
both ends of the interval allow for the worse.
"""

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from usam_core.errors import InputError
from usam_core.files.digest import value_digest
from usam_core.labels.image import Instance
from usam_core.review.decisions import (
    Decision,
    append_decision,
    append_undo,
    judged,
    mask_id,
    read_all,
    standing,
)

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
        id: names the mask, whichever run lists it.
        draw: its place in the order of chance, 0 to 2^63 - 1.
    """

    sha256: str
    file_name: str
    name: str
    instance: Instance
    doubt: dict[str, float] = field(default_factory=dict)
    decision: Decision | None = None
    id: str = ""
    draw: int = 0

    def __post_init__(self) -> None:
        self.id = mask_id(self.sha256, self.instance.rle)
        self.draw = int(value_digest(["drawn", self.id])[:16], 16) >> 1


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


@dataclass(frozen=True, slots=True)
class Listed:
    """The masks that a run lists, as far as a review needs them.

    Attributes:
        classes: all names that a mask may be given.
        draws: for each class that is looked at int64, rising: the places of all its masks in the
            order of chance.
        decided: masks that a person decided on before.
        shown: the masks to be shown now, and whether chance chose them.
        label_of: class names to the names at the project's level.
    """

    classes: Sequence[str]
    draws: Mapping[str, np.ndarray]
    decided: Sequence[Item]
    shown: Sequence[tuple[Item, bool]]
    label_of: Mapping[str, str]


class Session:
    """Takes decisions, one at a time, and writes each to the log before it returns.

    `changed` is called with the precisions whenever they changed.
    """

    def __init__(
        self, listed: Listed, log: Path, changed: Callable[[list[Precision]], None]
    ) -> None:
        self._listed, self._log, self._changed = listed, log, changed
        self._lock = threading.Lock()
        self._sampled = {item.id: sampled for item, sampled in listed.shown}
        self.items = {item.id: item for item, _ in listed.shown}
        self._known = {**{item.id: item for item in listed.decided}, **self.items}
        self.classes = list(listed.classes)

    def decide(self, item_id: str, label: str | None) -> Decision:
        """Record a mask's class name, or None for a rejected mask.

        Raises:
            InputError: no such mask is shown, or no such class is known.
        """
        with self._lock:
            item = self.item(item_id)
            if label is not None and label not in self.classes:
                raise InputError(f"class {label!r}: expected one of {self.classes}")
            decision = Decision(
                id=uuid.uuid4().hex,
                time=datetime.now(UTC).isoformat(timespec="microseconds"),
                sha256=item.sha256,
                file_name=item.file_name,
                prompt=item.instance.prompt or 0,
                mask=dict(item.instance.rle),
                head_class=item.name,
                label=label,
                sampled=self._sampled[item.id],
            )
            append_decision(self._log, decision)
            item.decision = decision
            self._changed(self.precisions())
            return decision

    def undo(self) -> Item | None:
        """Take the last decision back, also of an earlier review; return its mask if it is listed.

        Raises:
            InputError: there is nothing to take back.
        """
        with self._lock:
            decisions = read_all(self._log)
            if not decisions:
                raise InputError(f"{self._log}: holds no decision that could be taken back")
            *earlier, last = decisions
            append_undo(self._log, last.id)
            undone = next((i for i in self._known.values() if i.decision == last), None)
            if undone is not None:
                before = {mask_id(d.sha256, d.mask): d for d in standing(earlier)}
                undone.decision = before.get(undone.id)
            self._changed(self.precisions())
            return undone

    def item(self, item_id: str) -> Item:
        """A mask that is shown.

        Raises:
            InputError: there is none of that id.
        """
        if item_id not in self.items:
            raise InputError(f"mask {item_id!r}: not one of the {len(self.items)} that are shown")
        return self.items[item_id]

    def precisions(self) -> list[Precision]:
        """Each class's precision by the decisions so far."""
        of_class: dict[str, list[Judged]] = {name: [] for name in self._listed.draws}
        for item in self._known.values():
            if (decision := item.decision) is not None:
                right = judged(decision, item.name, self._listed.label_of)
                if right is not None:
                    of_class[item.name].append(Judged(item.draw, right, decision.sampled))
        return [estimate(name, draws, of_class[name]) for name, draws in self._listed.draws.items()]

    def state(self) -> dict[str, Any]:
        """The page's text beside the mask."""
        decisions = {name: item.decision for name, item in self.items.items()}
        return {
            "classes": self.classes,
            "items": [{"id": name, "verdict": d and d.verdict} for name, d in decisions.items()],
            "decided": sum(item.decision is not None for item in self._known.values()),
            "precision": [one.to_json() for one in self.precisions()],
        }
