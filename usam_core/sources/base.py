"""The seam for training pictures: what a source gives, whatever it is.

A source is asked for one class at a time, so that a class can be collected, retried and
refreshed alone. Folder and renderer live beside this file; Stable Diffusion and the web follow
the same protocol.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from usam_core.config import ClassSpec
from usam_core.progress import Progress

COLUMNS = ["class", "path", "sha256", "bytes", "source", "provenance"]


@dataclass(frozen=True, slots=True)
class TrainingPicture:
    """One single-object picture of a class.

    Attributes:
        class_name: the class it shows.
        path: absolute path of the file.
        sha256: digest of the file's bytes.
        bytes: size of the file.
        source: which source gave it.
        provenance: where it comes from, in the source's own JSON-like terms.
    """

    class_name: str
    path: str
    sha256: str
    bytes: int
    source: str
    provenance: dict[str, Any] = field(default_factory=dict)


class PictureSource(Protocol):
    """Gives pictures of a class."""

    name: str

    def inputs(self, spec: ClassSpec) -> Any:
        """Return everything that decides the pictures of a class, as a JSON-like value."""
        ...

    def collect(self, spec: ClassSpec, progress: Progress) -> list[TrainingPicture]:
        """Return the pictures of a class, making or fetching only what is not there yet.

        Raises:
            InputError: the source cannot give any, and why.
        """
        ...


def to_frame(pictures: Sequence[TrainingPicture]) -> pd.DataFrame:
    """Return the manifest's table: one row a picture, provenance as canonical JSON."""
    rows = []
    for picture in pictures:
        row = asdict(picture)
        row["class"] = row.pop("class_name")
        row["provenance"] = json.dumps(row["provenance"], sort_keys=True)
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def manifest_path(folder: Path) -> Path:
    """Return where the collect step writes its manifest."""
    return folder / "manifest.parquet"
