"""A set of labels that was made once: the files of `annotate`, or what the report kept of them.

    out/annotate                         label PNGs and masks, until the next run replaces them
    out/report/runs/<digest>/            tables, and reduced copies of some label PNGs

Both open as a `LabelledRun`, so that any two can be compared.
"""

import io
import json
import os
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from usam_core.errors import InputError, StoreError
from usam_core.files.atomic import whole_file
from usam_core.files.digest import file_digest
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.parquet import read_frame
from usam_core.files.paths import inside
from usam_core.files.sealed import read_sealed, write_sealed
from usam_core.images.listing.content import mismatch
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.ref import ImageRef
from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import IMAGES, PARTS, Parts
from usam_core.lineage.document import LINEAGE, RECORD
from usam_core.masks.label_png import read_label_png
from usam_core.report.tables import COLUMNS, RunTables, read_tables

RUN = "run.json"
KEPT = "kept.json"
COPIES = "labels.zip"
FILES = "files"
"""In `KEPT`, the digests of the files beside it."""
COPY_SIDE = 256
MAX_COPIES = 2000
"""Label maps of so many images are kept, reduced to `COPY_SIDE`: one or two kilobytes each."""

_TABLES = ("images", "instances", "cover")
_EXPECTED = (
    "expected a finished folder of `annotate` (out/annotate), a run kept by the report "
    "(out/report/runs/...), or the run.json or lineage.json in one"
)


@dataclass(frozen=True)
class LabelledRun:
    """Labels of a run.

    Attributes:
        path: the run's folder.
        about: name, classes, colours, config, finished, versions, images (a URL, or the folder,
            counted from the run's folder) and reading (`read_image`'s arguments).
        tables: what was found.
        copies: reduced label maps as PNGs by file name; None where the label PNGs themselves are
            there.
    """

    path: Path
    about: dict[str, Any]
    tables: RunTables
    copies: dict[str, bytes] | None = None

    @property
    def classes(self) -> list[str]:
        """Return the class names."""
        return self.about["classes"]

    @cached_property
    def label_map(self) -> LabelMap:
        """Return the classes with their colours."""
        return LabelMap.of_names(self.classes, self.about["colours"])

    def labels(self, row: Any) -> np.ndarray | None:
        """Return the label map of a row of `tables.images`; reduced, or None, in a kept run."""
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
        """Return an image, uint8 (h, w, 3), or None where it can no longer be read."""
        try:
            inside(IMAGES, ImageRef.parse(file_name).file, self.path, linked=True)
            return read_image(join(self.root, file_name), **self.about["reading"]).rgb
        except (UnusableImage, StoreError):
            return None

    @property
    def root(self) -> str:
        """Return the folder or URL that the images' names count from."""
        root = self.about["images"]
        return root if is_url(root) else os.path.normpath(self.path / root)


def open_run(path: str | Path) -> LabelledRun:
    """Return the run in a folder, or that a file of its belongs to.

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
    """Return what a finished folder of `annotate` says of itself; see `LabelledRun.about`."""
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
    """Write what later runs are compared with, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in _TABLES:
        files.append(folder / f"{name}.parquet")
        with whole_file(files[-1]) as temporary:
            getattr(run.tables, name).to_parquet(temporary, index=False)
    copies = _write_copies(run, folder / COPIES)
    root = run.root
    images = root if is_url(root) else Path(os.path.relpath(root, folder)).as_posix()
    files.append(folder / COPIES)
    made = {file.name: file_digest(file) for file in files}
    # Last: without it there is no kept run.
    write_sealed(folder / KEPT, {**run.about, "images": images, "copies": copies, FILES: made})
    return [*files, folder / KEPT]


def damaged_kept(folder: Path) -> str:
    """Return what of a run that is kept is not as it was written; nothing if all is."""
    try:
        files = read_sealed(folder / KEPT).get(FILES, {})
    except (OSError, ValueError) as error:
        return f"{folder / KEPT}: {error}"
    found = ((name, mismatch(folder / name, sha256)) for name, sha256 in files.items())
    return "; ".join(f"{folder / name}: {what}" for name, what in found if what)


def reduced(labels: np.ndarray) -> np.ndarray:
    """Return a label map with at most `COPY_SIDE` rows and columns, the same ones for each size."""
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
    found = {name: read_frame(folder / f"{name}.parquet") for name in _TABLES}
    return LabelledRun(folder, about, RunTables(**found), copies)
