"""Truth as COCO keeps it: one JSON of instances."""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from usam_core.digest import file_digest, value_digest
from usam_core.errors import InputError
from usam_core.truth.base import VOID, label_numbers


class CocoTruth:
    """An instances JSON; images are found by their file name.

    Args:
        path: the JSON.
        words: label of every class name and synonym of the project.
        labels: the project's labels in order.

    Raises:
        InputError: the file is no COCO JSON of instances.
    """

    def __init__(self, path: Path, words: Mapping[str, str], labels: Sequence[str]) -> None:
        self.path = path
        self.notes: list[str] = []
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco = COCO(str(path))
            categories = self._coco.loadCats(self._coco.getCatIds())
            _check(self._coco.dataset)
        except Exception as error:  # pycocotools raises anything on a file of another form
            raise InputError(
                f"{path}: expected a COCO JSON with images, annotations and categories, got "
                f"{error!r}"
            ) from error
        names = [category["name"] for category in categories]
        numbers = label_numbers(names, words, labels, self.notes)
        self._numbers = {c["id"]: n for c, n in zip(categories, numbers, strict=True)}
        images = self._coco.dataset["images"]
        self._ids = {image["file_name"]: image["id"] for image in images}
        last_parts = Counter(PurePosixPath(name).name for name in self._ids)
        self._ids_by_last_part = {
            PurePosixPath(name).name: number
            for name, number in self._ids.items()
            if last_parts[PurePosixPath(name).name] == 1
        }

    def digest(self) -> str:
        """Return a digest of the file and of what its categories mean."""
        return value_digest([file_digest(self.path), sorted(self._numbers.items())])

    def label_map(self, file_name: str) -> np.ndarray | None:
        """Return uint8 (h, w): instances flattened, the smaller on top; crowds are void."""
        image_id = self._image_id(file_name)
        if image_id is None:
            return None
        image = self._coco.imgs[image_id]
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        annotations = self._coco.loadAnns(self._coco.getAnnIds(imgIds=[image_id]))
        annotations = [a for a in annotations if self._numbers[a["category_id"]]]
        order = sorted(annotations, key=lambda a: (not a.get("iscrowd", 0), -a["area"]))
        for annotation in order:
            mask = self._coco.annToMask(annotation).astype(bool)
            crowd = annotation.get("iscrowd", 0)
            labels[mask] = VOID if crowd else self._numbers[annotation["category_id"]]
        return labels

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        """Return the image's annotations of our classes, RLE masks, our category ids."""
        image_id = self._image_id(file_name)
        if image_id is None:
            return None
        annotations = self._coco.loadAnns(self._coco.getAnnIds(imgIds=[image_id]))
        return [
            {
                "category_id": self._numbers[a["category_id"]],
                "segmentation": self._coco.annToRLE(a),
                "area": a["area"],
                "bbox": a["bbox"],
                "iscrowd": a.get("iscrowd", 0),
            }
            for a in annotations
            if self._numbers[a["category_id"]]
        ]

    def _image_id(self, file_name: str) -> int | None:
        found = self._ids.get(file_name)
        # Other tools write other folders before the same name.
        return self._ids_by_last_part.get(PurePosixPath(file_name).name) if found is None else found


def _check(dataset: dict[str, Any]) -> None:
    """Complain about what would fail later, image by image."""
    wanted = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("id", "image_id", "category_id", "segmentation", "area", "bbox"),
        "categories": ("id", "name"),
    }
    for part, keys in wanted.items():
        for entry in dataset[part]:
            missing = [key for key in keys if key not in entry]
            if missing:
                raise KeyError(f"{part}: {entry.get('id')} has no {missing[0]!r}")
    categories = {category["id"] for category in dataset["categories"]}
    for annotation in dataset["annotations"]:
        if annotation["category_id"] not in categories:
            raise KeyError(
                f"annotations: {annotation['id']} is of category {annotation['category_id']}, "
                "which is not listed"
            )
