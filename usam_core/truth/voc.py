"""Truth in PASCAL VOC's format: one palette PNG an image, 255 is void.

A PNG of 16 bit holds classes from 255 on; void there is 65535. The largest value, in other words.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from usam_core.config.training import BACKGROUND
from usam_core.errors import InputError
from usam_core.files.digest import files_digest, value_digest
from usam_core.files.text import normalize_name
from usam_core.images.errors import UnusableImage, check_values
from usam_core.images.ref import ImageRef
from usam_core.masks.label_png import is_reindexed, opened_png, stored_values, values_of_colors
from usam_core.masks.rle import mask_record
from usam_core.truth.base import VOID, Notes, label_numbers

PNGS = "*.[pP][nN][gG]"
"""Which files of a folder of truth are read."""


class VocTruth:
    """A folder of label PNGs that have the images' names.

    A PNG that cannot be read, or is of another size than its image, is left out with a note.

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
        self.folder, self.objects = folder, objects
        self._notes = Notes()
        self._shared: set[int] = set()
        if names and normalize_name(names[0]) == BACKGROUND:
            names = names[1:]
            self._notes.say("evaluation.classes begins with background: passed over, 0 is that")
        self._names = list(names)
        numbers = label_numbers(names, words, labels, self._notes)
        self._numbers = np.array([0, *numbers], np.int16)

    def expect(self, file_names: Iterable[str]) -> None:
        # Eight bytes an image, however many there are.
        marks = np.fromiter((hash(_png(name)) for name in file_names), np.int64)
        values, counts = np.unique(marks, return_counts=True)
        self._shared = set(values[counts > 1].tolist())

    @property
    def notes(self) -> list[str]:
        return self._notes.lines()

    def digest(self) -> str:
        """Return a digest of all PNGs, their places, and the meaning of their values."""
        folders = [self.folder, *([self.objects] if self.objects else [])]
        try:
            files = [files_digest(folder, PNGS) for folder in folders]
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return value_digest([self._names, self._numbers.tolist(), files])

    def label_map(
        self, file_name: str, size_hw: tuple[int, int] | None = None
    ) -> np.ndarray | None:
        """Return int16 (h, w) of an image, or None when it has no PNG that can be used.

        Raises:
            InputError: the PNG holds a value without a name, or a color that is none of VOC's.
        """
        path = _file(self.folder, file_name)
        if hash(_png(file_name)) in self._shared:
            if path.exists():
                self._notes.fault("images left out, their truth may be another image's", file_name)
            return None
        values = self._read(path, "images left out", size_hw)
        if values is None:
            return None
        void = np.iinfo(values.dtype).max
        held = np.unique(values)
        strange = held[(held >= len(self._numbers)) & (held != void)]
        if len(strange):
            raise InputError(
                f"{path}: values {strange.tolist()} have no name; expected 0, "
                f"1 to {min(len(self._numbers), void) - 1}, or {void} (void); list the names of "
                "all values under evaluation.classes"
            )
        if set(held) | {0} == {0, void}:
            self._notes.fault(
                f"no class in truth that holds {void} (void) and no other value but 0; expected "
                f"the class's number in place of {void}",
                file_name,
            )
        elif void in held and void < len(self._numbers):
            self._notes.fault(
                f"{void} is void in truth of 8 bit; expected 16 bit where "
                f"{self._names[void - 1]!r} is meant, the class of that number",
                file_name,
            )
        table = np.full(void + 1, VOID, np.int16)
        table[: len(self._numbers)][:void] = self._numbers[:void]
        return table[values]

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        """Return the numbered objects of our classes, or None where none are numbered.

        An object's class is the one that most of its pixels have; void pixels belong to none.
        """
        labels = None if self.objects is None else self.label_map(file_name)
        if self.objects is None or labels is None:
            return None
        path = _file(self.objects, file_name)
        without = "images left out of mAP50"
        numbers = self._read(path, without, labels.shape)
        if numbers is None:
            if not path.exists():
                self._notes.fault(f"{without}, their objects have no PNG", str(path))
            return None
        none = (0, 255) if numbers.dtype == np.uint8 else (0,)
        objects = []
        for number in np.unique(numbers):
            mask = (numbers == number) & (labels != VOID)
            if number in none or not mask.any():
                continue
            label = int(np.bincount(labels[mask]).argmax())
            if label:
                objects.append(mask_record(mask, label))
        return objects

    def _read(self, path: Path, without: str, size_hw: tuple[int, ...] | None) -> np.ndarray | None:
        """Return the values of a PNG, uint8 or uint16 (h, w); None without one."""
        if not path.exists():
            return None
        try:
            with opened_png(path) as picture:
                check_values(path, picture.width * picture.height, path.stat().st_size)
                if size_hw not in (None, picture.size[::-1]):
                    self._notes.fault(f"{without}, their truth is of another size", str(path))
                    return None
                values = _values(picture, path)
                if is_reindexed(picture, values):
                    self._notes.fault(
                        "VOC's colours in another order, read by their values", str(path)
                    )
        except Exception as error:  # decoders raise anything on damaged bytes
            if isinstance(error, InputError) and not isinstance(error, UnusableImage):
                raise
            self._notes.fault(f"{without}, their truth cannot be read as a label PNG", str(path))
            return None
        if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"{path}: expected a palette or greyscale PNG of labels, 8 or 16 bit, got "
                f"{values.dtype} {values.shape}"
            )
        return values


def _file(folder: Path, file_name: str) -> Path:
    """Return where the PNG of an image lies, its ending in either case."""
    path = folder / _png(file_name)
    other = path.with_suffix(".PNG")
    return other if not path.exists() and other.exists() else path


def _png(file_name: str) -> str:
    return ImageRef.parse(file_name).output_name(".png")


def _values(picture: Image.Image, path: Path) -> np.ndarray:
    values = stored_values(picture, path)
    if values.ndim == 2:
        return values
    numbers, known = values_of_colors(values)
    if known.all():
        return numbers
    if (values == values[..., :1]).all():
        return values[..., 0]  # grayscale, saved in color
    color = "#" + bytes(values[~known][0]).hex()
    raise InputError(
        f"{path}: holds the colour {color}, which is none of VOC's; expected a palette or "
        "greyscale PNG of labels, or the colours of VOC's palette"
    )
