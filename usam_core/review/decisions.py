"""What a person has decided of masks: one line of JSON each, added and never changed.

Lines are written whole and synced before the person sees the next mask, so that a killed server
loses nothing. A decision names the image by its content and the mask by its pixels; rows and
numbers of a run mean nothing to it.
"""

import functools
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usam_core import faults
from usam_core.atomic import disk_errors
from usam_core.digest import value_digest

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person said of one mask.

    Attributes:
        id: of this decision; another one of the same mask has another.
        time: when, ISO 8601.
        sha256: digest of the image.
        file_name: what the image was called then, for people.
        prompt: the point of the grid that the mask came from.
        mask: COCO's compressed RLE at the image's size.
        head_class: what the head had called it.
        label: what it is: `head_class` (accepted), another name (changed), None (rejected).
        sampled: the mask was shown by chance, not for its doubt.
    """

    id: str
    time: str
    sha256: str
    file_name: str
    prompt: int
    mask: dict[str, Any]
    head_class: str
    label: str | None
    sampled: bool

    @property
    def verdict(self) -> str:
        """Return `accepted`, `changed` or `rejected`."""
        if self.label is None:
            return "rejected"
        return "accepted" if self.label == self.head_class else "changed"


def mask_id(sha256: str, mask: dict[str, Any]) -> str:
    """Return what names a mask, whichever run lists it: its image and its pixels, 24 digits."""
    return value_digest([sha256, list(mask["size"]), mask["counts"]])[:24]


def append(file: Path, line: dict[str, Any]) -> None:
    """Add one line to a log; it is on the disk when this returns.

    Raises:
        StoreError: the disk is full or does not let us write.
    """
    with disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            # What a crash left half-written must not take this line with it.
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
            left = (("\n" if torn else "") + text).encode()
            while left:
                left = left[os.write(handle, left) :]
            faults.at("half", file, file, size)
            os.fsync(handle)
        finally:
            os.close(handle)


def append_decision(file: Path, decision: Decision) -> None:
    """Add a decision to a log."""
    append(file, asdict(decision))


def append_undo(file: Path, decision_id: str) -> None:
    """Take a decision back: what was said of the mask before holds again."""
    append(file, {"undo": decision_id})


def read_all(file: Path) -> list[Decision]:
    """Return every decision that was not taken back, oldest first; none where there is no log."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found: dict[str, Decision] = {}
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if "undo" in value:
                found.pop(value["undo"], None)
            else:
                decision = Decision(**value)
                h, w = decision.mask["size"]
                # Pycocotools would never come back from runs that do not add up.
                if _pixels(decision.mask["counts"]) != h * w:
                    raise ValueError("the mask's runs do not fill its image")
                found[decision.id] = decision
        except (ValueError, TypeError, KeyError):
            _log.warning("%s:%d: no decision can be read; the line is left out", file, number)
    return list(found.values())


def standing(decisions: Iterable[Decision]) -> list[Decision]:
    """Return the last decision of each mask, oldest first."""
    last: dict[str, Decision] = {}
    for decision in decisions:
        name = mask_id(decision.sha256, decision.mask)
        last.pop(name, None)
        last[name] = decision
    return list(last.values())


@functools.lru_cache(maxsize=100_000)
def _pixels(counts: str) -> int:
    """Return how many pixels the runs of COCO's compressed RLE cover.

    >>> _pixels("04" + "4")
    8
    """
    runs: list[int] = []
    value = shift = 0
    for letter in counts.encode("ascii"):
        bits = letter - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            # From the fourth on, a run is written as its difference to the one before the last.
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return sum(runs)
