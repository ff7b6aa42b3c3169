"""What `annotate` recorded of all images, as tables without masks: what reports count."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_OF_IMAGE = ("file_name", "sha256", "png", "png_sha256", "height", "width")
_OF_INSTANCE = {"score": "f", "probability": "f", "entropy": "f", "area": "q"}
BOX = ("x", "y", "w", "h")


@dataclass(frozen=True)
class RunTables:
    """The images of a run by file name, and what was found in them.

    Attributes:
        images: one row an image: file_name, sha256, png, png_sha256, height, width.
        instances: one row an instance: image (row of `images`), label (1 is the first class),
            score, probability, entropy, area (pixels), x, y, w, h.
        cover: one row an image and label: image, label (0 is background), pixels.
    """

    images: pd.DataFrame
    instances: pd.DataFrame
    cover: pd.DataFrame

    @property
    def pixels(self) -> int:
        """Return the pixels of all images."""
        return int((self.images["height"].astype(np.int64) * self.images["width"]).sum())


class TableBuilder:
    """Takes images one by one, and gives their tables; masks are not held."""

    def __init__(self) -> None:
        self._images: list[tuple[Any, ...]] = []
        self._found = {name: array(kind) for name, kind in _OF_INSTANCE.items()}
        self._found |= {name: array("f") for name in BOX}
        self._found |= {"image": array("q"), "label": array("q")}
        self._cover = {name: array("q") for name in ("image", "label", "pixels")}

    def add(self, entry: dict[str, Any]) -> None:
        """Take what `annotate` recorded of one image."""
        number = len(self._images)
        self._images.append(tuple(entry[name] for name in _OF_IMAGE))
        for one in entry["annotations"]:
            self._found["image"].append(number)
            self._found["label"].append(one["category_id"])
            for name in _OF_INSTANCE:
                self._found[name].append(one[name])
            for name, value in zip(BOX, one["bbox"], strict=True):
                self._found[name].append(value)
        for label, pixels in entry["pixels"].items():
            for name, value in (("image", number), ("label", int(label)), ("pixels", pixels)):
                self._cover[name].append(value)

    def tables(self) -> RunTables:
        """Return the tables, images sorted by file name."""
        images = pd.DataFrame(self._images, columns=list(_OF_IMAGE))
        order = np.argsort(images["file_name"].to_numpy(dtype=object), kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return RunTables(
            images.iloc[order].reset_index(drop=True),
            _sorted(self._found, place, ["image"]),
            _sorted(self._cover, place, ["image", "label"]),
        )


def read_tables(entries: Iterable[dict[str, Any]]) -> RunTables:
    """Return the tables of what `annotate` recorded."""
    builder = TableBuilder()
    for entry in entries:
        builder.add(entry)
    return builder.tables()


def _sorted(columns: dict[str, array], place: np.ndarray, by: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({name: np.array(values) for name, values in columns.items()})
    frame["image"] = place[frame["image"].to_numpy(np.int64)]
    return frame.sort_values(by, kind="stable", ignore_index=True)
