"""A set of labels that was made once: the files of `annotate`, or what the report kept of them.

    out/annotate                         label PNGs and masks, until the next run replaces them
    out/report/runs/<digest>/            tables, and reduced copies of some label PNGs
    out/report/history.json              the runs that are kept, oldest first

Both open as a `LabelledRun`, so that any two can be compared.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from usam_core.errors import InputError, StoreError
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest, read_sealed, write_sealed
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.parquet import read_frame
from usam_core.files.paths import inside, remove, way_to
from usam_core.images.listing.content import mismatch
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.ref import ImageRef
from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import (
    IMAGES,
    PARTS,
    SCHEMA,
    Parts,
    instance_columns,
    label_columns,
)
from usam_core.lineage.document import LINEAGE, RECORD
from usam_core.masks.label_png import read_label_png

RUN = "run.json"
KEPT = "kept.json"
COPIES = "labels.zip"
FILES = "files"
"""In `KEPT`, the digests of the files beside it."""
COPY_SIDE = 256
MAX_COPIES = 2000
"""Label maps of so many images are kept, reduced to `COPY_SIDE`: one or two kilobytes each."""
RUNS = "runs"
HISTORY = "history.json"
BOX = ("x", "y", "w", "h")

_NAME = re.compile(r"[0-9a-f]{1,16}")
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
"""Of parts of labels, those that `read_tables` needs."""
_TABLES = ("images", "instances", "cover")
_EXPECTED = (
    "expected a finished folder of `annotate` (out/annotate), a run kept by the report "
    "(out/report/runs/...), or the run.json or lineage.json in one"
)


@dataclass(frozen=True)
class RunTables:
    """The labels of a run as tables without masks, images by file name.

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
        """Number of pixels of all images."""
        return int((self.images["height"].astype(np.int64) * self.images["width"]).sum())


def read_tables(tables: Iterable[pa.Table]) -> RunTables:
    """Collect parts of labels, of at least `COLUMNS`; masks are not held."""
    images, instances, cover, count = [], [], [], 0
    for table in chain([SCHEMA.empty_table()], tables):
        columns, covered = instance_columns(table, [*_NUMBERS, "class_index"]), label_columns(table)
        row = {"image": columns.pop("image") + count}
        label = LabelMap.id_of(columns.pop("class_index").astype(np.int64))
        numbers = {name: columns[name].astype(kind) for name, kind in _NUMBERS.items()}
        instances.append(pd.DataFrame({**numbers, **row, "label": label}))
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


@dataclass(frozen=True)
class LabelledRun:
    """Labels of a run.

    Attributes:
        path: the run's folder.
        about: name, classes, colours, config, finished, versions, images (a URL, or the folder,
            relative to the run's folder) and reading (`read_image`'s arguments).
        tables: images, instances and labelled pixels.
        copies: reduced label maps as PNGs by file name; None where the label PNGs themselves are
            there.
    """

    path: Path
    about: dict[str, Any]
    tables: RunTables
    copies: dict[str, bytes] | None = None

    @property
    def classes(self) -> list[str]:
        """The class names."""
        return self.about["classes"]

    @cached_property
    def label_map(self) -> LabelMap:
        """The classes with their colors."""
        return LabelMap.of_names(self.classes, self.about["colours"])

    def labels(self, row: Any) -> np.ndarray | None:
        """The label map of a row of `tables.images`; reduced, or None, in a kept run."""
        try:
            if self.copies is None:
                return read_label_png(self.path / row.png)
            if row.file_name not in self.copies:
                return None
            with Image.open(io.BytesIO(self.copies[row.file_name])) as picture:
                return np.asarray(picture)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot read the labels of {row.file_name} ({error}); run "
                "`usam annotate` again"
            ) from error

    def picture(self, file_name: str) -> np.ndarray | None:
        """An image, uint8 (h, w, 3), or None where it can no longer be read."""
        try:
            inside(IMAGES, ImageRef.parse(file_name).file, self.path, linked=True)
            return read_image(join(self.root, file_name), **self.about["reading"]).rgb
        except (UnusableImage, StoreError):
            return None

    @property
    def root(self) -> str:
        """The folder or URL of the images."""
        root = self.about["images"]
        return root if is_url(root) else os.path.normpath(self.path / root)


def open_run(path: str | Path) -> LabelledRun:
    """Open the run in a folder, or that a file in one belongs to.

    Raises:
        InputError: it is no finished run.
    """
    folder = Path(os.path.abspath(path))
    if not folder.exists():
        raise InputError(f"{path}: no such file or folder; {_EXPECTED}")
    if not folder.is_dir():
        folder = folder.parent
    if not (folder / KEPT).exists() and (folder / "annotate" / RECORD).exists():
        folder /= "annotate"
    try:
        if (folder / KEPT).exists():
            return _kept(folder)
        outputs = json.loads((folder / RECORD).read_text(encoding="utf-8"))["outputs"]
        parts = Parts(folder, {name: None for name in sorted(outputs) if name.startswith(PARTS)})
        return LabelledRun(folder, describe_run(folder), read_tables(parts.tables(COLUMNS)))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a run ({error!r}); {_EXPECTED}") from error


def describe_run(folder: Path) -> dict[str, Any]:
    """`LabelledRun.about` of a finished folder of `annotate`."""
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    document = json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
    config, root = run["config"], run["pictures"]["root"]
    return {
        "name": config["name"],
        "classes": run["head"]["classes"],
        "colours": {
            # Runs of older versions spell it `colour`.
            spec["name"]: spec.get("color", spec.get("colour"))
            for spec in config["classes"]
        },
        "config": config,
        "finished": document["finished"],
        "versions": run["versions"],
        "images": root if is_url(root) else Path(document["root"], root).as_posix(),
        "reading": run["pictures"]["reading"],
    }


def keep_run(run: LabelledRun, folder: Path) -> list[Path]:
    """Write what later runs are compared with; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in _TABLES:
        files.append(folder / f"{name}.parquet")
        with whole_file(files[-1]) as temporary:
            getattr(run.tables, name).to_parquet(temporary, index=False)
    copies = _write_copies(run, folder / COPIES)
    root = run.root
    images = root if is_url(root) else way_to(root, folder)
    files.append(folder / COPIES)
    made = {file.name: file_digest(file) for file in files}
    # Last: without it there is no kept run.
    write_sealed(folder / KEPT, {**run.about, "images": images, "copies": copies, FILES: made})
    return [*files, folder / KEPT]


def damaged_kept(folder: Path) -> str:
    """The damage of a kept run in words; empty if all is as it was written."""
    try:
        files = read_sealed(folder / KEPT).get(FILES, {})
    except (OSError, ValueError) as error:
        return f"{folder / KEPT}: {error}"
    faults = ((name, mismatch(folder / name, sha256)) for name, sha256 in files.items())
    return "; ".join(f"{folder / name}: {what}" for name, what in faults if what)


def reduced(labels: np.ndarray) -> np.ndarray:
    """A label map with at most `COPY_SIDE` rows and columns, the same ones for each size."""
    rows, columns = (_chosen(side, max(labels.shape)) for side in labels.shape)
    return labels[rows][:, columns]


def _chosen(side: int, longer: int) -> np.ndarray:
    count = side if longer <= COPY_SIDE else max(1, round(side * COPY_SIDE / longer))
    return ((np.arange(count) + 0.5) * side / count).astype(np.int64)


def _write_copies(run: LabelledRun, target: Path) -> dict[str, int]:
    # By content, so that every run keeps the same images'.
    chosen = run.tables.images.sort_values(["sha256", "file_name"]).head(MAX_COPIES)
    copies = {}
    with whole_file(target) as temporary, zipfile.ZipFile(temporary, "w") as kept:
        for number, row in enumerate(chosen.itertuples()):
            labels = run.labels(row)
            if labels is None:
                continue
            buffer = io.BytesIO()
            Image.fromarray(reduced(labels)).save(buffer, format="PNG", optimize=True)
            # Not `write`: the time in the archive would make its bytes differ.
            kept.writestr(zipfile.ZipInfo(f"{number}.png"), buffer.getvalue())
            copies[row.file_name] = number
    return copies


def _kept(folder: Path) -> LabelledRun:
    about = read_sealed(folder / KEPT)
    with zipfile.ZipFile(folder / COPIES) as kept:
        copies = {name: kept.read(f"{number}.png") for name, number in about.pop("copies").items()}
    tables = {name: read_frame(folder / f"{name}.parquet") for name in _TABLES}
    return LabelledRun(folder, about, RunTables(**tables), copies)


def run_folder(folder: Path, digest: str) -> Path:
    """The place of a run below the report step's folder; `digest` is of `annotate`'s output."""
    return folder / RUNS / digest[:16]


def previous_run(folder: Path, digest: str) -> Path | None:
    """The last kept run with other labels than those with `digest`, or None."""
    now = run_folder(folder, digest).name
    kept = [folder / RUNS / name for name in _names(folder) if name != now]
    return next((path for path in reversed(kept) if (path / KEPT).exists()), None)


def remember_run(folder: Path, digest: str, most: int) -> None:
    """Make a kept run the last one, and remove all but the last `most` before it."""
    now = run_folder(folder, digest).name
    earlier = [name for name in _names(folder) if name != now]
    names = [*earlier[-most:], now]
    write_json(folder / HISTORY, names)
    for path in (folder / RUNS).iterdir():
        if path.name not in names:
            remove(folder, path)


def kept_runs(folder: Path) -> list[Path]:
    """The folders of all runs that are kept."""
    return sorted(path for path in (folder / RUNS).glob("*") if path.is_dir())


def names_all(folder: Path) -> bool:
    """Whether the history names exactly the runs that are kept."""
    return sorted(_names(folder)) == [path.name for path in kept_runs(folder)]


def rewrite_history(folder: Path) -> None:
    """Name the runs that are kept, by when they finished."""
    finished = {path.name: read_sealed(path / KEPT)["finished"] for path in kept_runs(folder)}
    if (folder / HISTORY).is_dir():
        remove(folder, folder / HISTORY)  # a file cannot be renamed over a folder
    write_json(folder / HISTORY, sorted(finished, key=finished.__getitem__))


def _names(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # the runs are there for comparison: without the list, it begins anew
    names = names if isinstance(names, list) else []
    return [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
