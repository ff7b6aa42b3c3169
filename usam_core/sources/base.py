"""The seam for training pictures: what a source gives, whatever it is.

A source is asked for one class at a time, so that a class can be collected, retried and
refreshed alone. What comes out is filtered, recorded and shown by `usam_core.steps.collect`,
the same for all sources.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from usam_core.config.training import ClassSpec
from usam_core.files.digest import file_digest, value_digest
from usam_core.progress import Progress

_LONGEST_NAME = 160  # bytes: file systems take 255, and endings and marks come behind
CUT_FROM = "cut_from"
"""In a picture's provenance: the image that a person cut it out of, with `usam crop`."""
COLUMNS = ["class", "path", "sha256", "bytes", "source", "provenance"]


@dataclass(frozen=True, slots=True)
class TrainingPicture:
    """One single-object picture of a class: its file, by absolute path, digest and size.

    `provenance` says where it comes from, in the source's own JSON-like terms.
    """

    class_name: str
    path: str
    sha256: str
    bytes: int
    source: str
    provenance: dict[str, Any] = field(default_factory=dict)


def picture_of(
    path: Path, spec: ClassSpec, source: str, provenance: dict[str, Any]
) -> TrainingPicture:
    """The picture that a source made as a file."""
    size = path.stat().st_size
    return TrainingPicture(spec.name, str(path), file_digest(path), size, source, provenance)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something a source got, or tried to get, that does not teach.

    `origin` is a path or URL, `code` one short word for counting, such as "too_small" or
    "http_404", `reason` a sentence for people.
    """

    class_name: str
    origin: str
    code: str
    reason: str


@dataclass(slots=True)
class Collected:
    """What a source found for one class: usable pictures in an order that timing does not change.

    `notes` are sentences for the report. `complete`: asking again would give the same; off when a
    cap or a failure of the world ended it early.
    """

    pictures: list[TrainingPicture]
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """JSON-like mapping that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Collected":
        """Read what `to_json` wrote."""
        pictures = [TrainingPicture(**picture) for picture in value["pictures"]]
        rejected = [Rejected(**line) for line in value["rejected"]]
        return cls(pictures, rejected, value["notes"], value["complete"])


class PictureSource(Protocol):
    """Gives pictures of a class."""

    name: str

    filtered: bool
    """Whether the filters of `training.filters` look at its pictures."""

    @property
    def wanted(self) -> int | None:
        """Pictures that a class shall have after filtering; None takes all that there are."""

    def inputs(self, spec: ClassSpec) -> Any:
        """Everything that decides the pictures of a class, as a JSON-like value."""
        ...

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Return `wanted + spare` pictures of a class, getting only what is not there yet.

        Fewer come when there are no more. Killed at any point and called again, it repeats only
        what was in flight and ends with the same pictures.

        Raises:
            InputError: the source cannot give any, and why.
            TransientError: the world failed in a way that may heal.
        """
        ...

    def forget(self, spec: ClassSpec) -> None:
        """Drop what was made or fetched for a class, so that `collect` begins anew."""
        ...


def to_frame(pictures: Sequence[TrainingPicture]) -> pd.DataFrame:
    """The manifest's table: one row per picture, provenance as canonical JSON."""
    rows = [
        {
            **asdict(picture),
            "class": picture.class_name,
            "provenance": json.dumps(picture.provenance, sort_keys=True),
        }
        for picture in pictures
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def manifest_path(folder: Path) -> Path:
    """Where the collect step writes its manifest."""
    return folder / "manifest.parquet"


def class_folder(name: str) -> str:
    """A class's name as a folder name that every file system takes.

    >>> class_folder("potted plant"), class_folder("..")
    ('potted plant', '%2E%2E')
    """
    safe = "".join(f"%{ord(c):02X}" if c in '<>:"|?*%.' else c for c in name)
    if len(safe.encode()) <= _LONGEST_NAME:
        return safe
    return safe.encode()[: _LONGEST_NAME // 2].decode(errors="ignore") + value_digest(name)[:16]
