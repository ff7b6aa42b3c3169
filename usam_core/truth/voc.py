"""Truth as PASCAL VOC keeps it: one palette PNG an image, 255 is void."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from usam_core.digest import file_digest, value_digest
from usam_core.errors import InputError
from usam_core.image_ref import ImageRef
from usam_core.imagestores.limits import check_values
from usam_core.outputs.coco_json import mask_record
from usam_core.truth.base import VOID, label_numbers


class VocTruth:
    """A folder of label PNGs that have the images' names.

    Args:
        folder: the folder; sub-folders are matched like the images' own.
        names: the class of the values 1, 2, ...
        words: label of every class name and synonym of the project.
        labels: the project's labels in order.
        objects: folder of PNGs of the same names that number each image's objects, if there is
            one; 0 is no object, nor is 255 where a pixel has 8 bit; laboratories number in 16.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        words: Mapping[str, str],
        labels: Sequence[str],
        objects: Path | None = None,
    ) -> None:
        self.folder = folder
        self.objects = objects
        self.notes: list[str] = []
        numbers = label_numbers(names, words, labels, self.notes)
        self._table = np.full(256, VOID, np.uint8)
        self._table[: len(numbers) + 1] = [0, *numbers]
        self._unknown = np.arange(256) > len(numbers)
        self._unknown[VOID] = False

    def digest(self) -> str:
        """Return a digest of all PNGs and of what their values mean."""
        folders = [self.folder, *([self.objects] if self.objects else [])]
        files = [file for folder in folders for file in sorted(folder.rglob("*.png"))]
        return value_digest([self._table.tolist(), [[f.name, file_digest(f)] for f in files]])

    def label_map(self, file_name: str) -> np.ndarray | None:
        """Return uint8 (h, w) of an image, or None when it has no PNG.

        Raises:
            InputError: the PNG holds a value that no name was given for.
        """
        path = self.folder / ImageRef.parse(file_name).output_name(".png")
        if not path.exists():
            return None
        values = _read(path)
        strange = np.unique(values[self._unknown[values]])
        if len(strange):
            raise InputError(
                f"{path}: values {strange.tolist()} have no name; expected 0, "
                f"1 to {int(np.argmax(self._unknown)) - 1}, or 255; list the names of all values "
                "under evaluation.classes"
            )
        return self._table[values]

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        """Return the numbered objects of our classes, or None without a folder of objects.

        An object's class is the one that most of its pixels have; void pixels belong to none.

        Raises:
            InputError: the PNG of objects is missing, or is not of the labels' size.
        """
        if self.objects is None:
            return None
        labels = self.label_map(file_name)
        if labels is None:
            return []
        path = self.objects / ImageRef.parse(file_name).output_name(".png")
        if not path.exists():
            raise InputError(f"{path}: missing; expected the objects of {file_name} as a PNG")
        numbers = _read(path, deep=True)
        if numbers.shape != labels.shape:
            raise InputError(
                f"{path}: {numbers.shape} rows and columns; expected {labels.shape} as in "
                f"{self.folder}"
            )
        none = (0, VOID) if numbers.dtype == np.uint8 else (0,)
        found = []
        for number in np.unique(numbers):
            mask = (numbers == number) & (labels != VOID)
            if number in none or not mask.any():
                continue
            label = int(np.bincount(labels[mask]).argmax())
            if label:
                found.append(mask_record(mask, label))
        return found


def _read(path: Path, *, deep: bool = False) -> np.ndarray:
    """Return the values of a palette or greyscale PNG, uint8 (h, w); uint16 too where `deep`."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            check_values(path, picture.width * picture.height, path.stat().st_size)
            values = np.asarray(picture)
    except Exception as error:  # decoders raise anything on damaged bytes
        raise InputError(f"{path}: cannot be read as a label PNG ({error!r})") from error
    known = (np.uint8, np.uint16) if deep else (np.uint8,)
    if values.ndim != 2 or values.dtype not in known:
        kinds = " or 16-bit" if deep else ""
        raise InputError(
            f"{path}: expected a palette{kinds} or greyscale PNG of labels, got {values.dtype} "
            f"{values.shape}"
        )
    return values
