"""What a person has changed in a file of labels."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usam_core.labels.image import LabelledImage, count_labels
from usam_core.labels.label_map import LabelMap
from usam_core.outputs.base import Writer


@dataclass(frozen=True, slots=True)
class Edit:
    """The difference between a file as it was written and as it is.

    Attributes:
        format: of the file.
        image: path of the image.
        path: of the file.
        pixels: how many have another class now; None where only the counts by class are known.
        by_class: for each class that differs, pixels before and now.
        objects: for each class that differs, objects before and now.
        unreadable: why nothing can be said of it, where it cannot be read.
    """

    format: str
    image: str
    path: str
    pixels: int | None
    by_class: dict[str, tuple[int, int]]
    objects: dict[str, tuple[int, int]]
    unreadable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-like mapping."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the difference in words."""
        if self.unreadable is not None:
            return f"unreadable: {self.unreadable}"
        said = [] if self.pixels is None else [f"{self.pixels} pixels have another class"]
        said += [f"{n} {a} -> {b} pixels" for n, (a, b) in self.by_class.items()]
        said += [f"{n} {a} -> {b} objects" for n, (a, b) in self.objects.items()]
        return "; ".join(said) or "saved again, nothing changed"


def compare(writer: Writer, image: LabelledImage, path: Path) -> Edit:
    """Return what differs between a file and what the writer makes of the same image.

    Args:
        writer: of the file's format.
        image: as it was labelled.
        path: the file as it is now.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / path.name
        writer.write(image, fresh)
        before = writer.read(image, fresh)
    try:
        now = writer.read(image, path)
    except Exception as error:  # readers raise anything on damaged bytes
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Edit(writer.name, image.path, str(path), None, {}, {}, why)
    return Edit(
        writer.name,
        image.path,
        str(path),
        int((before.classes != now.classes).sum()),
        changed_counts(count_labels(before.classes), count_labels(now.classes), image.label_map),
        changed_counts(before.objects, now.objects, image.label_map),
    )


def changed_counts(
    before: Mapping[int, int], now: Mapping[int, int], label_map: LabelMap
) -> dict[str, tuple[int, int]]:
    """Return the counts that differ, by the labels' names: `unknown` for what we did not write."""
    found: dict[str, tuple[int, int]] = {}
    for label in sorted({*before, *now}):
        pair = before.get(label, 0), now.get(label, 0)
        if pair[0] != pair[1]:
            name = label_map.name_of(label)
            earlier = found.get(name, (0, 0))
            found[name] = (earlier[0] + pair[0], earlier[1] + pair[1])
    return found
