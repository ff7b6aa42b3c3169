"""The seam for truth: what is known about the images that were labelled."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

VOID = 255
"""Pixels of this value count neither for nor against (the VOC convention)."""


class Truth(Protocol):
    """Truth about some images, in the labels of the project."""

    notes: list[str]
    """What a person should know of how the truth was read, such as names left out."""

    def digest(self) -> str:
        """Return a digest of everything that the truth holds."""
        ...

    def label_map(self, file_name: str) -> np.ndarray | None:
        """Return the truth of an image, integers (h, w): 0 background, 1 + class index, 255 void.

        None when there is none for that image.
        """
        ...

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        """Return COCO annotations of an image with our category ids, or None without instances."""
        ...


def label_numbers(
    truth_names: Sequence[str],
    words: Mapping[str, str],
    labels: Sequence[str],
    notes: list[str],
) -> list[int]:
    """Map each of the truth's names to a label: 1 + class index, or 0 for names we do not have.

    Args:
        truth_names: the names that the truth uses.
        words: label of every class name and synonym; compared without case.
        labels: the project's labels in order.
        notes: gets a line with the names that count as background.
    """
    by_word = {word.casefold(): label for word, label in words.items()}
    numbers = [
        list(labels).index(by_word[name.casefold()]) + 1 if name.casefold() in by_word else 0
        for name in truth_names
    ]
    others = [name for name, number in zip(truth_names, numbers, strict=True) if number == 0]
    if others:
        notes.append(f"counted as background: {', '.join(others)}")
    return numbers
