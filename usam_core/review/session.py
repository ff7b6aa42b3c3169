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
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy import stats

from usam_core.errors import InputError
from usam_core.files.digest import value_digest
from usam_core.labels.image import Instance
from usam_core.masks.rle import as_text, inside, measures
from usam_core.review.decisions import (
    Decision,
    append_decision,
    append_undo,
    judged,
    last_act,
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
        beside: gives all masks of an image, by its digest.
        empty: names of images in which the head found nothing, by their digests.
    """

    classes: Sequence[str]
    draws: Mapping[str, np.ndarray]
    decided: Sequence[Item]
    shown: Sequence[tuple[Item, bool]]
    label_of: Mapping[str, str]
    beside: Callable[[str], Sequence[Item]] = lambda _: ()
    empty: Mapping[str, str] = field(default_factory=dict)


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
        self._looked_at: set[str] = set()
        self.classes = list(listed.classes)

    def decide(self, items: str | Sequence[str], label: str | None) -> list[Item]:
        """Record the class name of one or several masks, or None for rejected ones.

        Raises:
            InputError: no such mask is shown, or no such class is known.
        """
        with self._lock:
            chosen = [self.item(one) for one in ([items] if isinstance(items, str) else items)]
            if label is not None:
                self._check(label)
            once = {one.id: one for one in chosen}.values()
            return self._record(
                [
                    self._decision(one, label, one.decision.drawn if one.decision else None)
                    for one in once
                ]
            )

    def draw(
        self, image: str, item_id: str | None, outlines: Sequence[dict[str, Any]], label: str
    ) -> list[Item]:
        """Record the outline of a mask, or the pieces it falls into, or a new object.

        Args:
            image: digest of the image.
            item_id: the mask; None where there is none.
            outlines: COCO's compressed RLE, the mask's own first.
            label: what it is.

        Raises:
            InputError: no such mask or image is shown, or no such class is known.
        """
        with self._lock:
            self._check(label)
            act = []
            first = None if item_id is None else self.item(item_id)
            if first is not None:
                image = first.sha256
                act.append(self._decision(first, label, outlines[0]))
            file_name = first.file_name if first else self._name_of(image)
            act += [
                self._decision(self._new(image, file_name, outline, label), label, None)
                for outline in outlines[len(act) :]
            ]
            return self._record(act)

    def merge(self, items: Sequence[str]) -> list[Item]:
        """Record that masks of one image are one object, of the first one's name.

        Raises:
            InputError: there is no such mask, or they are of several images.
        """
        with self._lock:
            chosen = list({one: self.item(one) for one in items}.values())
            if len(chosen) < 2 or len({one.sha256 for one in chosen}) > 1:
                raise InputError(f"merge: expected several masks of one image, got {list(items)}")
            whole = as_text(coco_mask.merge([one.outline for one in chosen]))
            label = chosen[0].label or chosen[0].name
            return self._record([self._decision(one, label, whole) for one in chosen])

    def undo(self) -> list[Item]:
        """Take the last act back, also of an earlier review; return its masks that are listed.

        Raises:
            InputError: there is nothing to take back.
        """
        with self._lock:
            act = last_act(self._log)
            if not act:
                raise InputError(f"{self._log}: holds no decision that could be taken back")
            append_undo(self._log, act[0].id)
            before = {mask_id(d.sha256, d.mask): d for d in standing(read_all(self._log))}
            undone = []
            for said in act:
                item = next((i for i in self._known.values() if i.decision == said), None)
                if item is None:
                    continue
                undone.append(item)
                item.decision = before.get(mask_id(said.sha256, said.mask))
                if item.added and item.decision is None:
                    self._known.pop(item.id), self.items.pop(item.id, None)
            self._changed(self.precisions())
            return undone

    def item(self, item_id: str) -> Item:
        """A mask that is shown, or lies beside one.

        Raises:
            InputError: there is none of that id.
        """
        if item_id not in self._known:
            raise InputError(f"mask {item_id!r}: not one of the {len(self.items)} that are shown")
        return self._known[item_id]

    def file_names(self) -> dict[str, str]:
        """Names of the images that are shown, by their digests."""
        known = {one.sha256: one.file_name for one in self._known.values()}
        return {**self._listed.empty, **known}

    def of_image(self, image: str) -> list[Item]:
        """All masks of an image, those too that are not shown by themselves."""
        if image not in self._looked_at:
            self._looked_at.add(image)
            for one in self._listed.beside(image):
                self._known.setdefault(one.id, one)
        return [one for one in list(self._known.values()) if one.sha256 == image]

    def at(self, image: str, x: int, y: int) -> list[Item]:
        """The masks of an image that hold a pixel, smallest first."""
        rows, columns = slice(y, y + 1), slice(x, x + 1)
        some = [one for one in self.of_image(image) if one.stands]
        found = [one for one in some if inside(one.outline, rows, columns).any()]
        return sorted(found, key=lambda one: int(coco_mask.area(one.outline)))

    def precisions(self) -> list[Precision]:
        """Each class's precision by the decisions so far."""
        of_class: dict[str, list[Judged]] = {name: [] for name in self._listed.draws}
        for item in self._known.values():
            decision = item.decision
            if decision is not None and not item.added and item.name in of_class:
                right = judged(decision, item.name, self._listed.label_of)
                if right is not None:
                    of_class[item.name].append(Judged(item.draw, right, decision.sampled))
        return [estimate(name, draws, of_class[name]) for name, draws in self._listed.draws.items()]

    def state(self) -> dict[str, Any]:
        """All that the page's lists say."""
        return {
            "classes": self.classes,
            "items": [item.to_json() for item in self.items.values()],
            "empty": [{"image": key, "file_name": v} for key, v in self._listed.empty.items()],
            **self.numbers(),
        }

    def numbers(self) -> dict[str, Any]:
        """What the page counts."""
        return {
            "decided": sum(item.decision is not None for item in self._known.values()),
            "precision": [one.to_json() for one in self.precisions()],
        }

    def shown_name(self, item: Item) -> str:
        """What a mask is called now, at the project's level."""
        name = item.label or item.name
        return self._listed.label_of.get(name, name)

    def _check(self, label: str) -> None:
        if label not in self.classes:
            raise InputError(f"class {label!r}: expected one of {self.classes}")

    def _name_of(self, image: str) -> str:
        names = self.file_names()
        if image not in names:
            raise InputError(f"image {image!r}: not one of those that are shown")
        return names[image]

    def _new(self, image: str, file_name: str, outline: dict[str, Any], label: str) -> Item:
        shape = measures(outline)
        place = self.classes.index(label)
        box = tuple(shape["bbox"])
        one = Instance(place, outline, shape["area"], box, 1.0, probability=1.0, entropy=0.0)
        item = Item(image, file_name, label, one, added=True)
        known = self._known.setdefault(item.id, item)
        self.items.setdefault(known.id, known)
        return known

    def _decision(self, item: Item, label: str | None, drawn: dict[str, Any] | None) -> Decision:
        return Decision(
            id=uuid.uuid4().hex,
            time="",
            sha256=item.sha256,
            file_name=item.file_name,
            prompt=item.instance.prompt or 0,
            mask=dict(item.instance.rle),
            head_class=None if item.added else item.name,
            label=label,
            sampled=self._sampled.get(item.id, False),
            drawn=None if drawn is None or drawn == item.instance.rle else dict(drawn),
        )

    def _record(self, act: list[Decision]) -> list[Item]:
        """Write an act, and what it says of masks that were merged with its own."""
        act = [*act, *self._twins(act)]
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        act = [replace(one, time=now) for one in act]
        append_decision(self._log, *act)
        changed = []
        for one in act:
            item = self._known.get(mask_id(one.sha256, one.mask))
            if item is not None:
                item.decision = one
                changed.append(item)
        self._changed(self.precisions())
        return changed

    def _twins(self, act: Sequence[Decision]) -> list[Decision]:
        """The same decisions on masks that have one outline with those of an act."""
        before = {}
        for one in act:
            item = self._known[mask_id(one.sha256, one.mask)]
            if item.decision is not None and item.decision.drawn is not None:
                before[one.sha256, item.decision.drawn["counts"]] = one
        if not before:
            return []
        named = {mask_id(one.sha256, one.mask) for one in act}
        return [
            replace(other, id=uuid.uuid4().hex, label=same.label, drawn=same.outline)
            for other in standing(read_all(self._log))
            if other.drawn is not None
            and mask_id(other.sha256, other.mask) not in named
            and (same := before.get((other.sha256, other.drawn["counts"]))) is not None
        ]
