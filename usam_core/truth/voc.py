"""Truth as PASCAL VOC keeps it: one palette PNG an image, 255 is void."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from usam_core.digest import file_digest, value_digest
from usam_core.errors import InputError
from usam_core.truth.base import VOID, label_numbers


class VocTruth:
    """A folder of label PNGs that have the images' names.

    Args:
        folder: the folder; sub-folders are matched like the images' own.
        names: the class of the values 1, 2, ...
        words: label of every class name and synonym of the project.
        labels: the project's labels in order.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        words: Mapping[str, str],
        labels: Sequence[str],
    ) -> None:
        self.folder = folder
        self.notes: list[str] = []
        numbers = label_numbers(names, words, labels, self.notes)
        self._table = np.full(256, VOID, np.uint8)
        self._table[: len(numbers) + 1] = [0, *numbers]
        self._unknown = np.arange(256) > len(numbers)
        self._unknown[VOID] = False

    def digest(self) -> str:
        """Return a digest of all PNGs and of what their values mean."""
        files = sorted(self.folder.rglob("*.png"))
        return value_digest([self._table.tolist(), [[f.name, file_digest(f)] for f in files]])

    def label_map(self, file_name: str) -> np.ndarray | None:
        """Return uint8 (h, w) of an image, or None when it has no PNG.

        Raises:
            InputError: the PNG holds a value that no name was given for.
        """
        path = (self.folder / file_name).with_suffix(".png")
        if not path.exists():
            return None
        try:
            with Image.open(path) as picture:
                values = np.asarray(picture)
        except Exception as error:  # decoders raise anything on damaged bytes
            raise InputError(f"{path}: cannot be read as a label PNG ({error!r})") from error
        if values.ndim != 2 or values.dtype != np.uint8:
            raise InputError(
                f"{path}: expected a palette or greyscale PNG of labels, got {values.dtype} "
                f"{values.shape}"
            )
        strange = np.unique(values[self._unknown[values]])
        if len(strange):
            raise InputError(
                f"{path}: values {strange.tolist()} have no name; expected 0, "
                f"1 to {int(np.argmax(self._unknown)) - 1}, or 255; list the names of all values "
                "under evaluation.classes"
            )
        return self._table[values]

    def instances(self, file_name: str) -> list[dict[str, Any]] | None:
        """Return None: label maps do not tell objects apart."""
        del file_name
        return None
