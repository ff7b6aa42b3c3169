"""What an output format is: given one image after the other, it writes files and an index.

A writer may make a file for each image (`target`, `write`, `read`), or one for all (`rows`,
`finish`), or both. What `rows` gives is kept shard by shard; what `write` makes is put in place
shard by shard, unless a person has changed what lies there.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from usam_core.files.atomic import whole_file
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap


@dataclass(frozen=True, slots=True)
class Target:
    """Where a format goes and what it has to know.

    Attributes:
        folder: of this format alone.
        label_map: the classes.
        run: key of the annotate step that made the labels.
        shapes: for Label Studio: "brush" or "polygon".
        in_place: for OME-Zarr: write into images that are OME-Zarr themselves.
        level: of the labels; images that take them in hold those of each level.
        pixel_size: of every image, micrometres; None takes what the image's file says.
    """

    folder: Path
    label_map: LabelMap
    run: str
    shapes: str = "brush"
    in_place: bool = False
    level: str = "classes"
    pixel_size: float | None = None


UNKNOWN_LABEL = 1 << 16
"""Of an object whose number or name is not ours; beyond any class."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a file of one image says, in a form in which two can be compared.

    Attributes:
        classes: integers (h, w): ids of the label map, or `UNKNOWN_LABEL`.
        objects: how many objects of each label, where the format knows objects.
    """

    classes: np.ndarray
    objects: dict[int, int] = field(default_factory=dict)


class Writer:
    """One output format.

    Attributes:
        name: as in `outputs.formats`; also its folder.
    """

    name: ClassVar[str]

    def __init__(self, target: Target) -> None:
        self.to = target
        self.notes: list[str] = []

    @property
    def indexed(self) -> bool:
        """Return whether the format has rows."""
        return type(self).rows is not Writer.rows

    def target(self, image: LabelledImage) -> Path | None:
        """Return the file (or folder) of one image, or None if there is none."""
        return None

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write one image's file to `path`, which is then renamed to its target."""
        raise NotImplementedError

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Read such a file back; raises anything where it is none."""
        raise NotImplementedError

    def placed(self, image: LabelledImage) -> None:
        """Do what has to be done beside an image's file once that is in place."""

    def removed(self, path: Path) -> None:
        """Undo that, of a file that no image has any more and that is not there any more."""

    def rows(self, image: LabelledImage) -> Iterable[dict[str, Any]]:
        """Return what the index has to know of one image, as JSON-like mappings; not the run."""
        return ()

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the index from the rows of all images; return its files."""
        return []

    def note(self, text: str) -> None:
        """Say something once about the whole export."""
        if text not in self.notes:
            self.notes.append(text)


def read_objects(image: LabelledImage, numbers: np.ndarray) -> Labels:
    """Return what a map of object numbers says; objects that we did not number are unknown."""
    if numbers.shape != image.size_hw:
        raise ValueError(f"expected {image.size_hw} rows and columns, got {numbers.shape}")
    known = image.object_ids()
    found, at = np.unique(numbers, return_inverse=True)
    labels = np.where(found < len(known), known[np.minimum(found, len(known) - 1)], UNKNOWN_LABEL)
    present, counts = np.unique(labels[found > 0], return_counts=True)
    objects = dict(zip(present.tolist(), counts.tolist(), strict=True))
    return Labels(labels[at].reshape(numbers.shape), objects)


def painted(masks: Sequence[tuple[int, np.ndarray]], size_hw: tuple[int, int]) -> Labels:
    """Return what masks with their labels, best first, say: the first at a pixel counts."""
    classes = np.zeros(size_hw, np.int64)
    objects: dict[int, int] = {}
    for label, mask in reversed(masks):
        classes[mask] = label
        objects[label] = objects.get(label, 0) + 1
    return Labels(classes, objects)


def write_json_list(path: Path, rows: Iterable[Any]) -> Path:
    """Write a JSON list, one item in memory at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")
    return path


def relative(file: str, folder: Path) -> str:
    """Return how a file is reached from a folder; a URL as it is."""
    return file if "://" in file else Path(os.path.relpath(file, folder)).as_posix()
