"""What an output format is: given one image after the other, it writes files and an index.

A writer may make a file for each image (`target`, `write`, `read`), or one for all (`rows`,
`finish`), or both. Rows are kept shard by shard; files are put in place shard by shard, unless a
person has changed what lies there.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from usam_core.files.atomic import whole_file
from usam_core.files.paths import way_to
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap

UNKNOWN_LABEL = 1 << 16
"""Of an object whose number or name is not ours; beyond any class."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a format goes, and its settings.

    Attributes:
        folder: of this format alone.
        label_map: the classes.
        run: key of the annotate step that made the labels.
        shapes: for Label Studio: "brush" or "polygon".
        in_place: for OME-Zarr: write into images that are OME-Zarr themselves.
        level: of the labels; images that take them in hold those of each level.
        pixel_size: of every image, micrometers; None takes what the image's file says.
        tolerance: how far polygons may leave a mask's outline, pixels; 0: exact.
    """

    folder: Path
    label_map: LabelMap
    run: str
    shapes: str = "brush"
    in_place: bool = False
    level: str = "classes"
    pixel_size: float | None = None
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Labels:
    """The content of a file of one image, so that two can be compared.

    Attributes:
        classes: integers (h, w): ids of the label map, or `UNKNOWN_LABEL`.
        objects: number of objects of each label, where the format knows objects.
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
        """Whether the format has rows."""
        return type(self).rows is not Writer.rows

    def target(self, image: LabelledImage) -> Path | None:
        """The file (or folder) of one image, or None if there is none."""
        return None

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write one image's file to `path`, which is then renamed to its target."""
        raise NotImplementedError

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Read such a file back; raises anything where it is none."""
        raise NotImplementedError

    def placed(self, image: LabelledImage) -> None:
        """Write what belongs beside an image's file once that is in place."""

    def removed(self, path: Path) -> None:
        """Undo that, of a file that no image has any more and that is gone."""

    def rows(self, image: LabelledImage) -> Iterable[dict[str, Any]]:
        """What the index holds of one image, as JSON-like mappings; not the run."""
        return ()

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the index from the rows of all images; return its files."""
        return []

    def note(self, text: str) -> None:
        """Add a note on the whole export, once."""
        if text not in self.notes:
            self.notes.append(text)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all; return its path."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json_list(path: Path, rows: Iterable[Any]) -> Path:
    """Write a JSON list, one item in memory at a time."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write((",\n" if number else "\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")
    return path


def check_size(image: LabelledImage, labels: np.ndarray) -> np.ndarray:
    """Return a map of the image's size; another one is a ValueError."""
    if labels.shape != image.size_hw:
        raise ValueError(f"expected {image.size_hw} rows and columns, got {labels.shape}")
    return labels


def read_objects(image: LabelledImage, numbers: np.ndarray) -> Labels:
    """The labels of a map of object numbers; objects that we did not number are unknown."""
    known = image.object_ids()
    present, at = np.unique(check_size(image, numbers), return_inverse=True)
    ids = known[np.minimum(present, len(known) - 1)]
    labels = np.where(present < len(known), ids, UNKNOWN_LABEL)
    values, counts = np.unique(labels[present > 0], return_counts=True)
    objects = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return Labels(labels[at].reshape(numbers.shape), objects)


def painted(masks: Sequence[tuple[int, np.ndarray]], size_hw: tuple[int, int]) -> Labels:
    """Paint masks with their labels, best first: the first at a pixel counts."""
    classes = np.zeros(size_hw, np.int64)
    objects: dict[int, int] = {}
    for label, mask in reversed(masks):
        classes[mask] = label
        objects[label] = objects.get(label, 0) + 1
    return Labels(classes, objects)


def relative(file: str, folder: Path) -> str:
    """The way to a file from a folder; a URL as it is."""
    return file if "://" in file else way_to(file, folder)
