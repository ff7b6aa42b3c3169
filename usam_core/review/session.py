"""One review: the masks that are shown, and the decisions on them."""

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from usam_core.errors import InputError
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
from usam_core.review.sampling import Item, Judged, Precision, estimate


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
            InputError: no such mask or image is shown, the mask is of another image, or no such
                class is known.
        """
        with self._lock:
            self._check(label)
            act = []
            first = None if item_id is None else self.item(item_id)
            if first is not None:
                if first.sha256 != image:
                    raise InputError(f"mask {item_id!r}: expected one of image {image!r}")
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
