"""A person's decisions on masks: one line of JSON for each act, added and never changed.

Lines are written whole and synced before the person sees the next mask, so that a killed server
loses nothing. A decision names the image by its content and the mask by its pixels; rows and
numbers of a run mean nothing to it, and in another run it is matched by overlap.

What a person draws is a decision too: on a mask of the head, with the outline that takes its
place, or on no mask, for an object that the head missed. An act on several masks (a split, a
merge) is one line with all its decisions, which are taken back together.
"""

import functools
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pydantic import TypeAdapter

from usam_core.errors import InputError
from usam_core.files.atomic import disk_errors, fault_point
from usam_core.files.digest import value_digest
from usam_core.masks.rle import run_lengths

SAME_MASK = 0.75
"""Masks of one image that overlap at least so much (IoU) are taken for the same mask."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision on one mask.

    Attributes:
        id: of this decision; another one of the same mask has another.
        time: ISO 8601.
        sha256: digest of the image.
        file_name: the image's name then, for people.
        prompt: the point of the grid that the mask came from.
        mask: COCO's compressed RLE at the image's size.
        head_class: the head's class name; None of an object that a person added.
        label: `head_class` (accepted), another name (changed), or None (rejected).
        sampled: the mask was shown by chance, not for its doubt.
        drawn: the outline that a person gave it, as `mask`; None where that is right.
    """

    id: str
    time: str
    sha256: str
    file_name: str
    prompt: int
    mask: dict[str, Any]
    head_class: str | None
    label: str | None
    sampled: bool
    drawn: dict[str, Any] | None = None

    @property
    def outline(self) -> dict[str, Any]:
        """The mask as it is by this decision."""
        return self.mask if self.drawn is None else self.drawn

    @property
    def verdict(self) -> str:
        """`accepted`, `changed`, `drawn`, `added` or `rejected`."""
        if self.label is None:
            return "rejected"
        if self.head_class is None:
            return "added"
        if self.drawn is not None:
            return "drawn"
        return "accepted" if self.label == self.head_class else "changed"


@dataclass(frozen=True, slots=True)
class _Undo:
    undo: str


_LINE: TypeAdapter[Decision | _Undo | list[Decision]] = TypeAdapter(
    Decision | _Undo | list[Decision]
)


def mask_id(sha256: str, mask: dict[str, Any]) -> str:
    """Digest of a mask's image and pixels, 24 digits: its name in every run."""
    return value_digest([sha256, list(mask["size"]), mask["counts"]])[:24]


def append(file: Path, line: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Add one line to a log; it is on the disk when this returns.

    Raises:
        StoreError: the disk is full or does not let us write.
    """
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            # A line that a crash left half-written must not take this one with it.
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
            left = (("\n" if torn else "") + text).encode()
            while left:
                left = left[os.write(handle, left) :]
            fault_point("half", file, file, size)
            os.fsync(handle)
        finally:
            os.close(handle)


def append_decision(file: Path, *decisions: Decision) -> None:
    """Add a decision to a log, or the decisions of one act."""
    made = [_as_json(decision) for decision in decisions]
    append(file, made if len(made) > 1 else made[0])


def _as_json(decision: Decision) -> dict[str, Any]:
    values = asdict(decision)
    if decision.drawn is None:
        del values["drawn"]
    return values


def append_undo(file: Path, decision_id: str) -> None:
    """Take the act of a decision back: what was said of its masks before holds again."""
    append(file, {"undo": decision_id})


def read_all(file: Path) -> list[Decision]:
    """Every decision that was not taken back, oldest first; none where there is no log.

    A line that holds no decision is left out with a warning, and stays in the file.

    Raises:
        InputError: the log cannot be read.
    """
    decisions, bad = read_log(file)
    for number in bad:
        _log.warning("%s:%d: no decision can be read; the line is left out", file, number)
    return decisions


def read_log(file: Path) -> tuple[list[Decision], list[int]]:
    """The result of `read_all`, and the numbers of the lines that are left out."""
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); expected the log of what was decided in "
            "`usam review`; put it back, or move what lies there away"
        ) from error
    acts: dict[str, list[Decision]] = {}
    act_of: dict[str, str] = {}
    bad = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() and number == len(lines):
            continue  # behind the last line's end
        try:
            read = _LINE.validate_json(line, strict=True)
            if isinstance(read, _Undo):
                acts.pop(act_of.get(read.undo, ""), None)
                continue
            act = read if isinstance(read, list) else [read]
            for one in act:
                _check(one)
            acts[act[0].id] = act
            act_of |= {one.id: act[0].id for one in act}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            bad.append(number)
    return [one for act in acts.values() for one in act], bad


def last_act(file: Path) -> list[Decision]:
    """The decisions of the last act that was not taken back; none where there is no log."""
    lines = read_log(file)[0]
    if not lines:
        return []
    # An act is a line: its decisions have one time.
    return [one for one in lines if one.time == lines[-1].time]


def _check(one: Decision) -> None:
    """Raise a `ValueError` where a decision's masks cannot be."""
    h, w = one.mask["size"]
    for mask in (one.mask, one.outline):
        # Pycocotools would never come back from runs that do not add up.
        pixels = _pixels(mask["counts"])
        if list(mask["size"]) != [h, w] or not (
            type(h) is type(w) is int and min(h, w) > 0 and h * w == pixels < 2**32
        ):
            raise ValueError("the mask's runs do not fill its image")


def standing(decisions: Iterable[Decision]) -> list[Decision]:
    """The last decision of each mask, oldest first."""
    last: dict[str, Decision] = {}
    for decision in decisions:
        name = mask_id(decision.sha256, decision.mask)
        last.pop(name, None)
        last[name] = decision
    return list(last.values())


@functools.lru_cache(maxsize=100_000)
def _pixels(counts: str) -> int:
    """Number of pixels that the runs of COCO's compressed RLE cover."""
    return int(run_lengths(counts).sum())


def match(
    masks: Sequence[dict[str, Any]], prompts: Sequence[int], decisions: Sequence[Decision]
) -> list[Decision | None]:
    """The decision on each mask of one image, if there is one; each is used once.

    Most alike come first; of equals those of the same point of the grid, then the later decision.

    Args:
        masks: COCO's compressed RLE of each mask, at the image's size.
        prompts: the point of the grid of each.
        decisions: of that image, oldest first.
    """
    matched: list[Decision | None] = [None] * len(masks)
    sizes = [list(mask["size"]) for mask in masks]
    usable = [decision for decision in decisions if list(decision.mask["size"]) in sizes]
    if not usable:
        return matched
    wanted = [decision.mask for decision in usable]
    overlap = coco_mask.iou(list(masks), wanted, [0] * len(wanted))
    pairs = [
        (overlap[row, column], prompts[row] == usable[column].prompt, column, row)
        for row, column in np.argwhere(overlap >= SAME_MASK).tolist()
    ]
    used: set[int] = set()
    for _, _, column, row in sorted(pairs, reverse=True):
        if matched[row] is None and column not in used:
            matched[row] = usable[column]
            used.add(column)
    return matched


def judged(decision: Decision, name: str, label_of: Mapping[str, str]) -> bool | None:
    """Whether a mask that the head calls `name` is one, as far as a decision on it says.

    A rejected name says nothing of another one: None. A mask that was drawn anew was right if its
    name was, and little was drawn (`SAME_MASK`). `label_of` maps class names to the names at the
    project's level.
    """
    if decision.label is None:
        return False if decision.head_class == name else None
    if label_of.get(decision.label, decision.label) != name:
        return False
    if decision.drawn is None:
        return True
    return bool(coco_mask.iou([decision.drawn], [decision.mask], [0])[0, 0] >= SAME_MASK)


def count_objects(decisions: Iterable[Decision]) -> int:
    """Number of objects that decisions speak of, at most one for each.

    Masks that were merged have one outline; an object that a person added and took away is none.
    """
    return len(
        {
            (one.sha256, one.outline["counts"])
            for one in decisions
            if one.label is not None or one.head_class is not None
        }
    )
