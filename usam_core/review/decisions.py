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

from pydantic import TypeAdapter

from usam_core.errors import InputError
from usam_core.files.atomic import disk_errors, fault_point
from usam_core.files.digest import value_digest
from usam_core.masks.rle import run_lengths

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


@dataclass(frozen=True, slots=True)
class _Undo:
    undo: str


_LINE: TypeAdapter[Decision | _Undo] = TypeAdapter(Decision | _Undo)


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
            fault_point("half", file, file, size)
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
    """Return every decision that was not taken back, oldest first; none where there is no log.

    A line that holds no decision is left out with a warning, and stays in the file.

    Raises:
        InputError: the log cannot be read.
    """
    found, bad = read_log(file)
    for number in bad:
        _log.warning("%s:%d: no decision can be read; the line is left out", file, number)
    return found


def read_log(file: Path) -> tuple[list[Decision], list[int]]:
    """Return what `read_all` does, and the numbers of the lines that are left out."""
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); expected the log of what was decided in "
            "`usam review`; put it back, or move what lies there away"
        ) from error
    found: dict[str, Decision] = {}
    bad = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() and number == len(lines):
            continue  # behind the last line's end
        try:
            said = _LINE.validate_json(line, strict=True)
            if isinstance(said, _Undo):
                found.pop(said.undo, None)
                continue
            h, w = said.mask["size"]
            # Pycocotools would never come back from runs that do not add up.
            pixels = _pixels(said.mask["counts"])
            if not (type(h) is type(w) is int and min(h, w) > 0 and h * w == pixels < 2**32):
                raise ValueError("the mask's runs do not fill its image")
            found[said.id] = said
        except (ValueError, TypeError, KeyError, AttributeError):
            bad.append(number)
    return list(found.values()), bad


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
    """Return how many pixels the runs of COCO's compressed RLE cover."""
    return int(run_lengths(counts).sum())
