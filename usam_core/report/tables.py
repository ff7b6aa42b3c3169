"""What `annotate` recorded of all images, as tables without masks: what reports count."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa

from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import SCHEMA, instance_columns, label_columns

BOX = ("x", "y", "w", "h")
_OF_IMAGE = ["path", "sha256", "png", "png_sha256", "height", "width"]
_NUMBERS = {
    **dict.fromkeys(("score", "probability", "entropy"), np.float32),
    "area": np.int64,
    **dict.fromkeys(BOX, np.float32),
}
COLUMNS = [
    *_OF_IMAGE,
    *("labels", "pixels"),
    *(f"instances.list.element.{name}" for name in (*_NUMBERS, "class_index")),
]
"""Of parts of labels, what the tables are made of."""


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


def read_tables(tables: Iterable[pa.Table]) -> RunTables:
    """Put together what some images at a time say; masks are not held.

    Args:
        tables: of parts of labels, of at least `COLUMNS`.
    """
    images, instances, cover, count = [], [], [], 0
    for table in chain([SCHEMA.empty_table()], tables):
        found, covered = instance_columns(table, [*_NUMBERS, "class_index"]), label_columns(table)
        row = {"image": found.pop("image") + count}
        label = LabelMap.id_of(found.pop("class_index").astype(np.int64))
        columns = {name: found[name].astype(kind) for name, kind in _NUMBERS.items()}
        instances.append(pd.DataFrame({**columns, **row, "label": label}))
        cover.append(pd.DataFrame({**covered, "image": covered["image"] + count}))
        named = table.select(_OF_IMAGE).rename_columns(["file_name", *_OF_IMAGE[1:]])
        images.append(named.to_pandas())
        count += len(table)
    listed = pd.concat(images, ignore_index=True)
    order = np.argsort(listed["file_name"].to_numpy(dtype=object), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return RunTables(
        listed.iloc[order].reset_index(drop=True),
        _sorted(instances, place, ["image"]),
        _sorted(cover, place, ["image", "label"]),
    )


def _sorted(frames: list[pd.DataFrame], place: np.ndarray, by: list[str]) -> pd.DataFrame:
    frame = pd.concat(frames, ignore_index=True)
    frame["image"] = place[frame["image"].to_numpy(np.int64)]
    return frame.sort_values(by, kind="stable", ignore_index=True)
