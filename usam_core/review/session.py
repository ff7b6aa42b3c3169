"""One review: which masks are shown, what was said of them, and what that makes of each class."""

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from usam_core.errors import InputError
from usam_core.review.decisions import Decision, append_decision, append_undo, read_all, standing
from usam_core.review.decisions import mask_id as name_of
from usam_core.review.item import Item
from usam_core.review.matching import judged
from usam_core.review.precision import Judged, Precision, estimate


@dataclass(frozen=True, slots=True)
class Listed:
    """The masks that a run lists, as far as a review needs them.

    Attributes:
        classes: all names that a mask may be given.
        draws: for each class that is looked at int64, rising: the places of all its masks in the
            order of chance.
        decided: masks that a person decided on before.
        shown: what is to be shown now, and whether chance chose it.
        label_of: class names to the names at the project's level.
    """

    classes: Sequence[str]
    draws: Mapping[str, np.ndarray]
    decided: Sequence[Item]
    shown: Sequence[tuple[Item, bool]]
    label_of: Mapping[str, str]


class Session:
    """Takes decisions, one at a time, and writes each to the log before it returns.

    Args:
        listed: the masks.
        log: the file of decisions.
        changed: told the precisions whenever they changed.
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
        """Record what a mask is: a class name, or None for no mask of use.

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
                prompt=item.instance.prompt,
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
        """Take the last decision back, also one of an earlier review.

        Returns:
            Its mask, None if it is not listed now.

        Raises:
            InputError: there is nothing to take back.
        """
        with self._lock:
            said = read_all(self._log)
            if not said:
                raise InputError(f"{self._log}: holds no decision that could be taken back")
            append_undo(self._log, said[-1].id)
            undone = next((i for i in self._known.values() if i.decision == said[-1]), None)
            if undone is not None:
                before = {name_of(d.sha256, d.mask): d for d in standing(said[:-1])}
                undone.decision = before.get(undone.id)
            self._changed(self.precisions())
            return undone

    def item(self, item_id: str) -> Item:
        """Return a mask that is shown.

        Raises:
            InputError: there is none of that id.
        """
        if item_id not in self.items:
            raise InputError(f"mask {item_id!r}: not one of the {len(self.items)} that are shown")
        return self.items[item_id]

    def precisions(self) -> list[Precision]:
        """Return each class's precision as far as decisions tell."""
        of_class: dict[str, list[Judged]] = {name: [] for name in self._listed.draws}
        for item in self._known.values():
            said = item.decision
            right = said and judged(said, item.name, self._listed.label_of)
            if right is not None:
                of_class[item.name].append(Judged(item.draw, right, said.sampled))
        return [estimate(name, draws, of_class[name]) for name, draws in self._listed.draws.items()]

    def state(self) -> dict[str, Any]:
        """Return what the page shows beside the mask."""
        decisions = {name: item.decision for name, item in self.items.items()}
        return {
            "classes": self.classes,
            "items": [{"id": name, "verdict": d and d.verdict} for name, d in decisions.items()],
            "decided": sum(item.decision is not None for item in self._known.values()),
            "precision": [one.to_json() for one in self.precisions()],
        }
