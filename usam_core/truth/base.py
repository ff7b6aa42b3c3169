"""The seam for truth: what is known about the images that were labelled."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from usam_core.files.text import escape_control, normalize_name
from usam_core.images.listing.walk import plain_path
from usam_core.labels.label_map import LabelMap

VOID = -1
"""Pixels of this value count neither for nor against; no class can have it."""
_NAMED = 5
"""Records that a note names; of more it gives the number."""

_T = TypeVar("_T")


class Truth(Protocol):
    """Truth about some images, in the labels of the project."""

    @property
    def notes(self) -> list[str]:
        """What was left out by now, and which names count as background."""
        ...

    def digest(self) -> str:
        """Return a digest of everything that the truth holds."""
        ...

    def expect(self, file_names: Iterable[str]) -> None:
        """Take note of all images that will be asked for: no two may share one truth."""
        ...

    def label_map(
        self, file_name: str, size_hw: tuple[int, int] | None = None
    ) -> np.ndarray | None:
        """Return the truth of an image, int16 (h, w): 0 background, 1 + class index, -1 void.

        None when there is none for that image, or none of its size: then `notes` says so.

        Args:
            file_name: the image, as it is listed.
            size_hw: its rows and columns; None takes truth of any size.
        """
        ...

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        """Return COCO annotations of an image with our category ids, or None without instances."""
        ...


class Notes:
    """Collects a truth's sentences, each once, and its faults, alike ones in one sentence.

    Signs that cannot be shown, such as half of a surrogate pair, are spelled out.
    """

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._faults: dict[str, dict[str, None]] = {}

    def say(self, sentence: str) -> None:
        """Add a sentence."""
        self._sentences.append(sentence)

    def fault(self, kind: str, record: str) -> None:
        """Add a record that has a fault; the same one counts once.

        Args:
            kind: what is wrong, and what was done about it.
            record: names it for a person.
        """
        self._faults.setdefault(kind, {})[record] = None

    def lines(self) -> list[str]:
        """Return all sentences, in the order of their first mention."""
        faults = []
        for kind, records in self._faults.items():
            more = f" and {len(records) - _NAMED} more" if len(records) > _NAMED else ""
            faults.append(f"{kind}: {', '.join(list(records)[:_NAMED])}{more}")
        return [escape_control(line) for line in (*self._sentences, *faults)]


def label_numbers(
    truth_names: Sequence[str], words: Mapping[str, str], labels: Sequence[str], notes: Notes
) -> list[int]:
    """Map each of the truth's names to a label: 1 + class index, or 0 for names we do not have.

    Args:
        truth_names: the names that the truth uses.
        words: label of every class name and synonym; compared as class names are.
        labels: the project's labels in order.
        notes: gets a line with the names that count as background.
    """
    ids = LabelMap.of_names(labels).ids()
    numbers = {normalize_name(word): ids.get(label, 0) for word, label in words.items()}
    others = [name for name in truth_names if normalize_name(name) not in numbers]
    if others:
        notes.say(f"counted as background: {', '.join(others)}")
    return [numbers.get(normalize_name(name), 0) for name in truth_names]


class ByName(Generic[_T]):
    """Finds the record of an image: that with which its path has the longest end in common.

    Args:
        names: the truth's name of each image, by its record.
    """

    def __init__(self, names: Mapping[_T, str]) -> None:
        self._whole: dict[str, list[_T]] = {}
        self._by_end: dict[str, list[_T]] = {}
        self._refused: set[str] = set()
        for record, name in names.items():
            self._whole.setdefault(plain_path(name), []).append(record)
            for end in _ends(name):
                self._by_end.setdefault(end, []).append(record)

    def settle(self, listed: Iterable[str]) -> list[str]:
        """Return the listed images whose record is another image's; `find` gives them none.

        A record belongs to the image with the longer end in common; if there are two, to none.
        """
        claims: dict[_T, list[tuple[int, str]]] = {}
        for name in listed:
            records, length = self._find(name)
            if len(records) == 1:
                claims.setdefault(records[0], []).append((length, name))
        for rivals in claims.values():
            best = max(length for length, _ in rivals)
            meant = [name for length, name in rivals if length == best]
            self._refused.update(name for _, name in rivals if meant != [name])
        return sorted(self._refused)

    def find(self, listed: str) -> list[_T]:
        """Return the records that a listed image may have; several where the names do not tell."""
        return [] if listed in self._refused else self._find(listed)[0]

    def _find(self, listed: str) -> tuple[list[_T], int]:
        if records := self._whole.get(plain_path(listed)):
            return records, len(listed) + 1  # longer than any end
        end = next((end for end in _ends(listed) if end in self._by_end), "")
        return self._by_end.get(end, []), len(end)


def _ends(name: str) -> Iterator[str]:
    """Yield the ends of a path, the longest first.

    >>> list(_ends("a/b.jpg"))
    ['a/b.jpg', 'b.jpg']
    """
    path = plain_path(name).lstrip("/")
    while path:
        yield path
        path = path.partition("/")[2]
