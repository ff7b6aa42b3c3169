"""Truth as COCO keeps it: one JSON of instances."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from usam_core.files.digest import file_digest, value_digest
from usam_core.files.text import normalize_name
from usam_core.masks.rle import run_lengths
from usam_core.truth.base import VOID, ByName, Notes, label_numbers
from usam_core.truth.coco_records import Id, read_records

_MIN = 6
"""Numbers of a polygon: three points."""


def read_mask(segmentation: object, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return a segmentation as COCO's compressed RLE.

    A polygon of fewer than three points beside a whole one covers nothing and is passed over.

    Args:
        segmentation: polygons, or an RLE, compressed or not.
        size_hw: rows and columns of the image.

    Raises:
        ValueError: it cannot be meant; the message says what is wrong with it.
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
        if len(numbers) >= _MIN:
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


class _Object(NamedTuple):
    label: int
    rle: dict[str, Any]
    area: float
    is_crowd: int


class CocoTruth:
    """An instances JSON; images are found by their file name.

    Records that cannot be meant are left out, and `notes` names them: those that contradict
    themselves at once, segmentations when their image is asked for.

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
        self._images, categories, self._annotations = read_records(path, self._notes)
        numbers = label_numbers(list(categories.values()), words, labels, self._notes)
        self._numbers = dict(zip(categories, numbers, strict=True))
        spelled = Counter(normalize_name(name) for name in categories.values())
        for name in (name for name, count in spelled.items() if count > 1):
            self._notes.say(f"{spelled[name]} categories are called {name!r} and count as one")
        self._by_name = ByName({number: image.file_name for number, image in self._images.items()})

    def expect(self, file_names: Iterable[str]) -> None:
        """Take note of all images that will be asked for: one truth belongs to one of them."""
        for name in self._by_name.settle(file_names):
            self._notes.fault("images left out, their truth may be another image's", name)

    @property
    def notes(self) -> list[str]:
        """What was left out by now, and which categories count as background."""
        return self._notes.lines()

    def digest(self) -> str:
        """Return a digest of the file and of what its categories mean."""
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
        """Return the image's annotations of our classes, RLE masks, our category ids."""
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

    def _objects(self, image_id: Id) -> Iterator[_Object]:
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

    def _image_id(self, file_name: str) -> Id | None:
        found = self._by_name.find(file_name)
        if len(found) > 1:
            self._notes.fault("images left out, several of the truth have their name", file_name)
        return found[0] if len(found) == 1 else None
