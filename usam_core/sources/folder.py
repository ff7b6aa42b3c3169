"""Training pictures that the user has, nothing copied: a sub-folder per class, or a CSV file."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.config.classes import ClassSpec
from usam_core.config.images import ImagesConfig
from usam_core.errors import InputError
from usam_core.files.text import normalize_name
from usam_core.images.listing.scan import list_files, list_images
from usam_core.images.listing.spelling import local_path, with_slashes
from usam_core.progress import SILENT, Progress
from usam_core.sources.base import Collected, Rejected, TrainingPicture, class_folder
from usam_core.sources.table import class_table


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
