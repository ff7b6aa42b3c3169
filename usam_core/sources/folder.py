"""Training pictures that the user has, nothing copied: a sub-folder per class, or a CSV file."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.config.images import ImagesConfig
from usam_core.config.training import ClassSpec
from usam_core.errors import InputError
from usam_core.files.spreadsheet import as_written, read_separated
from usam_core.files.text import normalize_name
from usam_core.images.listing.scan import list_files, list_images
from usam_core.images.listing.walk import local_path, with_slashes
from usam_core.progress import SILENT, Progress
from usam_core.sources.base import Collected, Rejected, TrainingPicture, class_folder


def class_table(file: Path, column: str, spec: ClassSpec) -> pd.DataFrame:
    """Return a class's rows of a CSV file that has the columns `class` and `column`.

    A row counts when its class is the name or a synonym, in any case; repeated rows count once.
    The rows are as `read_separated` gives them.

    Raises:
        InputError: the file cannot be read, lacks a column, or has no row of the class.
    """
    try:
        table = read_separated(file.read_bytes(), ("class", column))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as CSV ({error}); expected UTF-8 with the columns class and "
            f"{column} between commas, semicolons or tabs"
        ) from error
    missing = [name for name in ("class", column) if name not in table]
    if missing:
        raise InputError(
            f"{file}: no column {missing[0]!r}; expected a first line with class and {column}, "
            f"got {list(table.columns)}"
        )
    table = table.map(as_written)
    wanted = {normalize_name(word) for word in (spec.name, *spec.synonyms)}
    rows = table[table["class"].map(normalize_name).isin(wanted) & (table[column] != "")]
    if rows.empty:
        raise InputError(
            f"{file}: no row of the class {spec.name!r} (nor a synonym); expected rows "
            f"{spec.name},<{column}>, found the classes {sorted(set(table['class']))[:20]}"
        )
    return rows.drop_duplicates(column)


class FolderSource:
    """Reads `<root>/<class name or synonym>/**`, or the rows of a CSV file `class,path`.

    Args:
        root: folder that holds the class folders, or the CSV file; its paths count from its
            folder.
        images: which endings count as pictures.
        cache: folder for remembered digests, so that unchanged files are not read again.
    """

    name = "folder"
    filtered = True
    wanted = None

    def __init__(self, root: Path, images: ImagesConfig, cache: Path) -> None:
        self.root = root
        self._images = images
        self._cache = cache

    def inputs(self, spec: ClassSpec) -> Any:
        """Return path and digest of each of the class's pictures: the manifest says both."""
        listing = self._listing(spec, SILENT).dropna(subset="sha256")
        folder = self.root.parent if self.root.is_file() else self.root
        paths = [os.path.relpath(path, folder) for path in listing["path"]]
        return sorted(map(list, zip(paths, listing["sha256"], strict=True)))

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Return the class's pictures, each content once."""
        del spare
        listing = self._listing(spec, progress)
        usable = listing["status"] == "ok"
        again = usable & listing["sha256"].duplicated()
        return Collected(
            pictures=[
                TrainingPicture(
                    class_name=spec.name,
                    path=row.path,
                    sha256=row.sha256,
                    bytes=int(row.bytes),
                    source=self.name,
                    provenance={"given_by": "user"},
                )
                for row in listing[usable & ~again].itertuples()
            ],
            rejected=[
                Rejected(spec.name, row.path, row.code, row.reason)
                for row in listing[~usable].itertuples()
            ]
            + [
                Rejected(spec.name, path, "duplicate", "has the same bytes as another file")
                for path in listing[again]["path"]
            ],
        )

    def forget(self, spec: ClassSpec) -> None:
        """Do nothing: the pictures are the user's."""

    def _listing(self, spec: ClassSpec, progress: Progress) -> pd.DataFrame:
        if self.root.is_file():
            return self._listed_in_csv(spec, progress)
        tables = []
        for folder in self._folders(spec):
            # One cache a folder: the listing drops what it did not see.
            cache = self._cache / f"{class_folder(folder.name)}.parquet"
            table = list_images(self._images, folder, cache, progress)
            table["path"] = [str(folder / path) for path in table["path"]]
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _listed_in_csv(self, spec: ClassSpec, progress: Progress) -> pd.DataFrame:
        rows = class_table(self.root, "path", spec)
        folder = self.root.parent
        paths = (folder / with_slashes(local_path(path), str(folder)) for path in rows["path"])
        files = [(str(path), path) for path in paths]
        cache = self._cache / f"{class_folder(spec.name)}.csv.parquet"
        return list_files(self._images, files, cache, progress)

    def _folders(self, spec: ClassSpec) -> list[Path]:
        wanted = {normalize_name(word) for word in (spec.name, *spec.synonyms)}
        present = sorted(path for path in self.root.iterdir() if path.is_dir())
        found = [path for path in present if normalize_name(path.name) in wanted]
        if not found:
            raise InputError(
                f"{self.root}: no folder named {spec.name!r} (nor a synonym); expected one folder "
                f"of pictures per class, found {[path.name for path in present]}. Rename a folder, "
                "or list its name under the class's synonyms"
            )
        return found
