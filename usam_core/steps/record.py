"""What a step leaves behind so that the next run can tell whether it still holds."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from usam_core.config.project import Project
from usam_core.errors import MissingStepError, StoreError
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.paths import inside
from usam_core.files.sealed import read_sealed, write_sealed
from usam_core.images.listing.content import mismatch
from usam_core.lineage.document import LINEAGE
from usam_core.steps.folders import step_folder

RECORD = "record.json"
_AT_THE_STORE = ("embed", "describe")
"""Steps whose path is the store's, which need not lie in the step's folder; nothing reads it."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outcome of one step; small, JSON-like, and what the Prefect tasks return.

    Attributes:
        step: name of the step.
        key: digest of everything the step depended on.
        reused: an earlier run's outputs still held, nothing was done.
        path: the step's folder, or the main file in it.
        summary: numbers for people and for the next steps.
        outputs: files in the step's folder with their SHA-256.
    """

    step: str
    key: str
    reused: bool
    path: str
    summary: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-like mapping that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "StepResult":
        """Return the result that `to_json` wrote."""
        return cls(**value)


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file under its path relative to `folder`."""
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def made_digest(result: StepResult) -> str:
    """Return one digest of what a step made; its lineage, which holds the time, is left out."""
    return value_digest({k: v for k, v in result.outputs.items() if k != LINEAGE})


_RECORD = TypeAdapter(StepResult)


def write_record(folder: Path, result: StepResult) -> None:
    """Write the record last of all: without it, the step has not happened."""
    write_sealed(folder / RECORD, result.to_json())


def read_record(folder: Path) -> StepResult | None:
    """Return the record of a finished step, or None when there is none as it was written.

    A project that was moved or copied finds its files where they are now.
    """
    try:
        record = _RECORD.validate_python(read_sealed(folder / RECORD))
        for name in record.outputs:
            inside(folder, name)
        here = folder / Path(record.path).name
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, StoreError):
        return None
    if record.step in _AT_THE_STORE:
        return record
    return replace(record, path=str(here if here.name in record.outputs else folder))


def whole_output(folder: Path, name: str) -> Path:
    """Return a recorded output of a step, to be read by another one.

    Args:
        folder: the step's folder.
        name: the output as the record has it.

    Raises:
        StoreError: it is missing, or not as the step wrote it.
    """
    record, file = read_record(folder), folder / name
    if record is None or mismatch(file, record.outputs.get(name)):
        step = record.step if record else folder.name
        raise StoreError(
            f"{file}: missing or damaged since it was written; run `usam {step}` again"
        )
    return file


def needed_record(project: Project, step: str, what: str) -> StepResult:
    """Return the record of a step that another one reads from.

    Args:
        project: the project.
        step: the step that must have run.
        what: what it makes, for the message.

    Raises:
        MissingStepError: it has not run.
    """
    folder = step_folder(project, step)
    record = read_record(folder)
    if record is None:
        raise MissingStepError(f"{folder}: no {what} yet; run `usam {step} {project.file}` first")
    return record


def labels_record(project: Project) -> StepResult:
    """Return the record of the labels.

    Raises:
        MissingStepError: `annotate` has not run.
    """
    return needed_record(project, "annotate", "labels")


def intact_record(folder: Path, key: str) -> StepResult | None:
    """Return the record, marked as reused, if its key holds and its outputs are undamaged."""
    record = read_record(folder)
    if record is None or record.key != key or LINEAGE not in record.outputs:
        return None
    whole = not any(mismatch(folder / name, sha256) for name, sha256 in record.outputs.items())
    return replace(record, reused=True) if whole else None
