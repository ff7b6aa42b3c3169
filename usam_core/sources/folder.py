"""Training pictures that the user has: one sub-folder per class, nothing copied."""

from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.config import ClassSpec, ImagesConfig
from usam_core.errors import InputError
from usam_core.listing import list_images
from usam_core.progress import SILENT, Progress
from usam_core.sources.base import Collected, Rejected, TrainingPicture


class FolderSource:
    """Reads `<root>/<class name or synonym>/**`.

    Args:
        root: folder that holds the class folders.
        images: which endings count as pictures.
        cache: folder for remembered digests, so that unchanged files are not read again.
    """

    name = "folder"

    def __init__(self, root: Path, images: ImagesConfig, cache: Path) -> None:
        self.root = root
        self._images = images
        self._cache = cache

    def inputs(self, spec: ClassSpec) -> Any:
        """Return the digests of the class's pictures, sorted."""
        return sorted(self._listing(spec, SILENT)["sha256"].dropna())

    def collect(self, spec: ClassSpec, progress: Progress) -> list[TrainingPicture]:
        """Return the class's pictures, each content once."""
        listing = self._listing(spec, progress)
        usable = listing[listing["status"] == "ok"].drop_duplicates("sha256")
        return [
            TrainingPicture(
                class_name=spec.name,
                path=row.path,
                sha256=row.sha256,
                bytes=int(row.bytes),
                source=self.name,
                provenance={"given_by": "user"},
            )
            for row in usable.itertuples()
        ]

    def _listing(self, spec: ClassSpec, progress: Progress) -> pd.DataFrame:
        folders = self._folders(spec)
        tables = []
        for folder in folders:
            # One cache a folder: the listing drops what it did not see.
            cache = self._cache / f"{folder.name}.parquet"
            table = list_images(self._images, folder, cache, progress)
            table["path"] = [str(folder / path) for path in table["path"]]
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _folders(self, spec: ClassSpec) -> list[Path]:
        wanted = {word.casefold() for word in (spec.name, *spec.synonyms)}
        present = sorted(path for path in self.root.iterdir() if path.is_dir())
        found = [path for path in present if path.name.casefold() in wanted]
        if not found:
            raise InputError(
                f"{self.root}: no folder named {spec.name!r} (nor a synonym); expected one folder "
                f"of pictures per class, found {[path.name for path in present]}. Rename a folder, "
                "or list its name under the class's synonyms"
            )
        return found
