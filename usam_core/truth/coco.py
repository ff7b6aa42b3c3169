"""Truth in COCO's format: one JSON of instances, its records checked against each other."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from usam_core.errors import InputError
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.text import normalize_name
from usam_core.masks.rle import run_lengths
from usam_core.truth.base import VOID, ByName, Notes, label_numbers

_PARTS = ("images", "annotations", "categories")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_MIN_NUMBERS = 6
"""Numbers of a polygon: three points."""

_Id = int | str


class _Image(NamedTuple):
    file_name: str
    size_hw: tuple[int, int]


class _Object(NamedTuple):
    label: int
    rle: dict[str, Any]
    area: float
    is_crowd: int


class CocoTruth:
    """An instances JSON; images are found by their file name.

    Contradictory records are left out, and `notes` names them: most at once, segmentations when
    their image is asked for.

    Args:
        path: the JSON.
        words: label of every class name and synonym of the project.
        labels: the project's labels in order.

    Raises:
        InputError: the file is no COCO JSON of instances, or an id of images or categories stands
            for two things.
    """

    def __init__(self, path: Path, words: Mapping[str, str], labels: Sequence[str]) -> None:
        self.path = path
        self._notes = Notes()
        document = _document(path)
        self._images = _images(path, document["images"], self._notes)
        categories = _categories(path, document["categories"], self._notes)
        # By image, in the order of the file; their segmentations are not checked yet.
        self._annotations: dict[_Id, list[dict[str, Any]]] = {}
        self._read_annotations(document["annotations"], categories)
        numbers = label_numbers(list(categories.values()), words, labels, self._notes)
        self._numbers = dict(zip(categories, numbers, strict=True))
        for name, count in Counter(map(normalize_name, categories.values())).items():
            if count > 1:
                self._notes.say(f"{count} categories are called {name!r} and count as one")
        self._by_name = ByName({number: image.file_name for number, image in self._images.items()})

    def _read_annotations(self, entries: list[Any], categories: dict[_Id, str]) -> None:
        seen: dict[_Id, Any] = {}
        for at, entry in enumerate(entries):
            name = _record_name("annotations", at, entry)
            fault = _annotation_fault(entry, self._images, categories)
            number = None if fault else _plain_id(entry.get("id"))
            if number is not None and seen.setdefault(number, entry) is not entry:
                # Ids mean nothing here: an object belongs to the image that it names.
                if seen[number] == entry:
                    fault = "it stands there before"
                else:
                    self._notes.fault("annotations kept whose id another one has too", name)
            if fault:
                self._notes.fault(f"annotations left out, {fault}", name)
                continue
            image_id: Any = _plain_id(entry["image_id"])
            checked = {"category_id": _plain_id(entry["category_id"]), "iscrowd": _crowd(entry)}
            self._annotations.setdefault(image_id, []).append({**entry, **checked, "name": name})

    def expect(self, file_names: Iterable[str]) -> None:
        for name in self._by_name.settle(file_names):
            self._notes.fault("images left out, their truth may be another image's", name)

    @property
    def notes(self) -> list[str]:
        return self._notes.lines()

    def digest(self) -> str:
        """Return a digest of the file and of the meaning of its categories."""
        meaning = sorted([str(number), label] for number, label in self._numbers.items())
        return value_digest([file_digest(self.path), meaning])

    def label_map(
        self, file_name: str, size_hw: tuple[int, int] | None = None
    ) -> np.ndarray | None:
        """Return int16 (h, w): instances flattened, the smaller on top; crowds are void."""
        image_id = self._image_id(file_name)
        if image_id is None:
            return None
        size = self._images[image_id].size_hw
        if size_hw not in (None, size):
            self._notes.fault("images left out, their truth is of another size", file_name)
            return None
        labels = np.zeros(size, np.int16)
        for one in sorted(self._objects(image_id), key=lambda o: (not o.is_crowd, -o.area)):
            labels[coco_mask.decode(one.rle).astype(bool)] = VOID if one.is_crowd else one.label
        return labels

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        image_id = self._image_id(file_name)
        if image_id is None:
            return None
        return [
            {
                "category_id": one.label,
                "segmentation": one.rle,
                "area": one.area,
                "bbox": coco_mask.toBbox(one.rle).tolist(),
                "iscrowd": one.is_crowd,
            }
            for one in self._objects(image_id)
        ]

    def _image_id(self, file_name: str) -> _Id | None:
        ids = self._by_name.find(file_name)
        if len(ids) > 1:
            self._notes.fault("images left out, several of the truth have their name", file_name)
        return ids[0] if len(ids) == 1 else None

    def _objects(self, image_id: _Id) -> Iterator[_Object]:
        """Yield the objects of our classes."""
        size_hw = self._images[image_id].size_hw
        for annotation in self._annotations.get(image_id, []):
            label = self._numbers[annotation["category_id"]]
            if not label:
                continue
            try:
                rle = read_mask(annotation["segmentation"], size_hw)
            except ValueError as error:
                self._notes.fault(f"annotations left out, {error}", annotation["name"])
                continue
            area: Any = annotation.get("area")
            if type(area) not in (int, float) or not 0 <= area <= size_hw[0] * size_hw[1]:
                area = float(coco_mask.area(rle))
            yield _Object(label, rle, area, annotation["iscrowd"])


def _document(path: Path) -> dict[str, list[Any]]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(
            f"{path}: cannot be read as JSON ({reason}); expected a COCO JSON with images, "
            "annotations and categories"
        ) from error
    lists = document if isinstance(document, dict) else {}
    wrong = [part for part in _PARTS if not isinstance(lists.get(part), list)]
    if wrong:
        raise InputError(
            f"{path}: no list of {' and '.join(wrong)}; expected a COCO JSON with images, "
            "annotations and categories"
        )
    return lists


def _images(path: Path, entries: list[Any], notes: Notes) -> dict[_Id, _Image]:
    images: dict[_Id, _Image] = {}
    seen: dict[_Id, tuple[Any, ...]] = {}
    for at, entry in enumerate(entries):
        fault, number = _fault_of_id(entry)
        if number is not None:
            meant = tuple(entry.get(key) for key in ("file_name", "height", "width"))
            if seen.setdefault(number, meant) != meant:
                both = (
                    "{} ({} x {})".format(*(str(part)[:80] for part in image))
                    for image in (seen[number], meant)
                )
                raise InputError(
                    f"{path}: the image id {number!r} stands for both {' and '.join(both)}; "
                    "expected an id of its own for each image"
                )
            name, height, width = meant[0], _plain_id(meant[1]), _plain_id(meant[2])
            if not isinstance(name, str) or not name.strip():
                fault = "without a file_name"
            elif not (
                isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
            ):
                fault = "without a height and a width in whole pixels"
            else:
                images[number] = _Image(name, (height, width))
        if fault:
            notes.fault(f"images left out, {fault}", _record_name("images", at, entry))
    return images


def _categories(path: Path, entries: list[Any], notes: Notes) -> dict[_Id, str]:
    categories: dict[_Id, str] = {}
    for at, entry in enumerate(entries):
        fault, number = _fault_of_id(entry)
        if number is not None:
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip():
                fault = "without a name"
            elif normalize_name(categories.setdefault(number, name)) != normalize_name(name):
                raise InputError(
                    f"{path}: the category id {number!r} stands for both {categories[number]!r} "
                    f"and {name!r}; expected an id of its own for each category"
                )
        if fault:
            notes.fault(f"categories left out, {fault}", _record_name("categories", at, entry))
    return categories


def _fault_of_id(entry: Any) -> tuple[str | None, _Id | None]:
    if not isinstance(entry, dict):
        return "no mapping of keys to values", None
    number = _plain_id(entry.get("id"))
    return ("without a usable id" if number is None else None), number


def _annotation_fault(
    entry: Any, images: dict[_Id, _Image], categories: dict[_Id, str]
) -> str | None:
    if not isinstance(entry, dict):
        return "no mapping of keys to values"
    for key, known in (("image_id", images), ("category_id", categories)):
        if _plain_id(entry.get(key)) not in known:
            return f"their {key} is that of none listed"
    if "segmentation" not in entry:
        return "without a segmentation"
    return "their iscrowd is neither 0 nor 1" if _crowd(entry) is None else None


def _crowd(annotation: dict[str, Any]) -> int | None:
    value = annotation.get("iscrowd")
    number = int(value) if isinstance(value, bool) else _plain_id(0 if value is None else value)
    return int(number) if number in (0, 1) else None


def _plain_id(value: object) -> _Id | None:
    """Return an id as ids are compared, 1, 1.0 and "1" alike; None for what can be none.

    >>> _plain_id(1.0), _plain_id(" 1"), _plain_id("01"), _plain_id(True), _plain_id(0.5)
    (1, 1, '01', None, None)
    """
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _WHOLE.fullmatch(text) else text or None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _record_name(part: str, at: int, entry: Any) -> str:
    """Return how a person finds a record: its place, and its id where it has one."""
    number = entry.get("id") if isinstance(entry, dict) else None
    return f"{part}[{at}]" + ("" if _plain_id(number) is None else f" (id {str(number)[:40]})")


def read_mask(segmentation: object, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return a segmentation, polygons or an RLE, as COCO's compressed RLE.

    A polygon of fewer than three points beside a whole one covers nothing and is passed over.

    Raises:
        ValueError: it is malformed; the message says how.
    """
    if segmentation is None or segmentation in ([], {}, ""):
        raise ValueError("the segmentation is empty")
    if isinstance(segmentation, dict):
        rle = _from_runs(segmentation, size_hw)
    elif isinstance(segmentation, list):
        rle = _from_polygons(segmentation, size_hw)
    else:
        raise ValueError("the segmentation is neither polygons nor an RLE")
    if not coco_mask.area(rle):
        raise ValueError("the segmentation covers no pixel")
    return rle


def _from_polygons(polygons: list[Any], size_hw: tuple[int, int]) -> dict[str, Any]:
    # Along an edge, pycocotools lays out every pixel, however far outside.
    reach = 2 * max(size_hw)
    good = []
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError("the segmentation is no list of polygons, each a list of x, y, ...")
        numbers = np.asarray(polygon) if all(map(_is_number, polygon)) else np.array(None)
        if numbers.dtype.kind not in "iuf":
            raise ValueError("a polygon holds other things than numbers")
        if len(numbers) % 2:
            raise ValueError("a polygon has an odd count of coordinates")
        if not np.isfinite(numbers).all():
            raise ValueError("a polygon holds coordinates that are not finite")
        if len(numbers) and np.abs(numbers).max() > reach:
            raise ValueError("a polygon lies far outside its image")
        if len(numbers) >= _MIN_NUMBERS:
            good.append(numbers.astype(float).tolist())
    if not good:
        raise ValueError("a polygon has fewer than 3 points")
    return coco_mask.merge(coco_mask.frPyObjects(good, *size_hw))


def _from_runs(rle: dict[str, Any], size_hw: tuple[int, int]) -> dict[str, Any]:
    size, counts = rle.get("size"), rle.get("counts")
    if size != list(size_hw):
        if size == list(size_hw)[::-1]:
            raise ValueError("the RLE's size is [width, height] in place of [height, width]")
        raise ValueError("the RLE's size is not its image's [height, width]")
    if isinstance(counts, str):
        runs = run_lengths(counts).tolist()
    elif isinstance(counts, list) and all(_is_number(run) and run == run // 1 for run in counts):
        runs = [int(run) for run in counts]
    else:
        raise ValueError("the RLE's counts are neither text nor a list of whole numbers")
    if min(runs, default=0) < 0 or sum(runs) != size_hw[0] * size_hw[1]:
        raise ValueError("the RLE's runs do not fill its image")
    return coco_mask.frPyObjects({"size": list(size_hw), "counts": runs}, *size_hw)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
