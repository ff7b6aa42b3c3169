"""The records of a COCO JSON: which are meant, which contradict each other, which to leave out."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from usam_core.errors import InputError
from usam_core.files.text import normalize_name
from usam_core.truth.base import Notes

_PARTS = ("images", "annotations", "categories")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")

Id = int | str


class Image(NamedTuple):
    """An image that the truth speaks of."""

    file_name: str
    size_hw: tuple[int, int]


class Records(NamedTuple):
    """What of a COCO JSON can be meant.

    Attributes:
        images: by their ids.
        categories: names by their ids.
        annotations: of each image, in the order of the file; their segmentations are not checked.
    """

    images: dict[Id, Image]
    categories: dict[Id, str]
    annotations: dict[Id, list[dict[str, Any]]]


def read_records(path: Path, notes: Notes) -> Records:
    """Read a COCO JSON of instances, checking what refers to what.

    A record that cannot be meant is left out, and `notes` names it.

    Raises:
        InputError: the file is no COCO JSON of instances, or an id stands for two things.
    """
    document = _document(path)
    images = _images(path, document["images"], notes)
    categories = _categories(path, document["categories"], notes)
    annotations: dict[Id, list[dict[str, Any]]] = {}
    seen: dict[Id, Any] = {}
    for at, entry in enumerate(document["annotations"]):
        name = record_name("annotations", at, entry)
        fault = _annotation_fault(entry, images, categories)
        number = None if fault else plain_id(entry.get("id"))
        if number is not None and seen.setdefault(number, entry) is not entry:
            # Ids mean nothing here: an object belongs to the image that it names.
            if seen[number] == entry:
                fault = "it stands there before"
            else:
                notes.fault("annotations kept whose id another one has too", name)
        if fault:
            notes.fault(f"annotations left out, {fault}", name)
            continue
        image_id: Any = plain_id(entry["image_id"])  # an image's: `_annotation_fault` looked
        kept = {**entry, "category_id": plain_id(entry["category_id"]), "iscrowd": _crowd(entry)}
        annotations.setdefault(image_id, []).append({**kept, "name": name})
    return Records(images, categories, annotations)


def plain_id(value: object) -> Id | None:
    """Return an id as ids are compared, 1, 1.0 and "1" alike; None for what can be none.

    >>> plain_id(1.0), plain_id(" 1"), plain_id("01"), plain_id(True), plain_id(0.5)
    (1, 1, '01', None, None)
    """
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _WHOLE.fullmatch(text) else text or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def record_name(part: str, at: int, entry: Any) -> str:
    """Return how a person finds a record: its place, and its id where it has one."""
    given = entry.get("id") if isinstance(entry, dict) else None
    return f"{part}[{at}]" + ("" if plain_id(given) is None else f" (id {str(given)[:40]})")


def _document(path: Path) -> dict[str, list[Any]]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({_reason(error)}); expected a COCO JSON with images, "
            "annotations and categories"
        ) from error
    lists = document if isinstance(document, dict) else {}
    wrong = [part for part in _PARTS if not isinstance(lists.get(part), list)]
    if wrong:
        raise InputError(
            f"{path}: no list of {' and '.join(wrong)}; expected a COCO JSON with images, "
            "annotations and categories"
        )
    return document


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _images(path: Path, entries: list[Any], notes: Notes) -> dict[Id, Image]:
    found: dict[Id, Image] = {}
    seen: dict[Id, tuple[Any, ...]] = {}
    for at, entry in enumerate(entries):
        fault, number = _fault_of_id(entry)
        if number is not None:
            meant = tuple(entry.get(key) for key in ("file_name", "height", "width"))
            if seen.setdefault(number, meant) != meant:
                raise InputError(
                    f"{path}: the image id {number!r} stands for both {_shown(seen[number])} and "
                    f"{_shown(meant)}; expected an id of its own for each image"
                )
            name, height, width = meant[0], plain_id(meant[1]), plain_id(meant[2])
            if not isinstance(name, str) or not name.strip():
                fault = "without a file_name"
            elif not (
                isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
            ):
                fault = "without a height and a width in whole pixels"
            else:
                found[number] = Image(name, (height, width))
        if fault:
            notes.fault(f"images left out, {fault}", record_name("images", at, entry))
    return found


def _shown(image: tuple[Any, ...]) -> str:
    name, height, width = (str(part)[:80] for part in image)
    return f"{name} ({height} x {width})"


def _categories(path: Path, entries: list[Any], notes: Notes) -> dict[Id, str]:
    found: dict[Id, str] = {}
    for at, entry in enumerate(entries):
        fault, number = _fault_of_id(entry)
        if number is not None:
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip():
                fault = "without a name"
            elif normalize_name(found.setdefault(number, name)) != normalize_name(name):
                raise InputError(
                    f"{path}: the category id {number!r} stands for both {found[number]!r} and "
                    f"{name!r}; expected an id of its own for each category"
                )
        if fault:
            notes.fault(f"categories left out, {fault}", record_name("categories", at, entry))
    return found


def _fault_of_id(entry: Any) -> tuple[str | None, Id | None]:
    if not isinstance(entry, dict):
        return "no mapping of keys to values", None
    number = plain_id(entry.get("id"))
    return ("without a usable id" if number is None else None), number


def _annotation_fault(entry: Any, images: dict[Id, Image], categories: dict[Id, str]) -> str | None:
    if not isinstance(entry, dict):
        return "no mapping of keys to values"
    for key, known in (("image_id", images), ("category_id", categories)):
        if plain_id(entry.get(key)) not in known:
            return f"their {key} is that of none listed"
    if "segmentation" not in entry:
        return "without a segmentation"
    return "their iscrowd is neither 0 nor 1" if _crowd(entry) is None else None


def _crowd(annotation: dict[str, Any]) -> int | None:
    given = annotation.get("iscrowd")
    number = int(given) if isinstance(given, bool) else plain_id(0 if given is None else given)
    return number if number in (0, 1) else None
