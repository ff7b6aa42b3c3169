"""What a step leaves behind so that the next run can tell whether it still holds."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from usam_core.config.project import Project
from usam_core.errors import MissingStepError, StoreError
from usam_core.files.digest import file_digest, read_sealed, value_digest, write_sealed
from usam_core.files.paths import inside
from usam_core.images.listing.content import mismatch
from usam_core.lineage.document import LINEAGE, portable
from usam_core.steps.base import Input, StepResult, find_step
from usam_core.steps.folders import step_folder

RECORD = "record.json"


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
        name = Path(record.path).name
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, StoreError):
        return None
    if name in record.outputs:
        return replace(record, path=str(folder / name))
    step = find_step(record.step)
    # The store need not lie in the step's folder; nothing reads this.
    return record if step and step.stored else replace(record, path=str(folder))


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


def needed_record(folder: Path, what: str, file: Path) -> StepResult:
    """The record of a step that another one reads from.

    Args:
        folder: of the step that must have run.
        what: what it makes, for the message.
        file: the project's, for the message.

    Raises:
        MissingStepError: it has not run.
    """
    record = read_record(folder)
    if record is None:
        raise MissingStepError(f"{folder}: no {what} yet; run `usam {folder.name} {file}` first")
    return record


def labels_record(project: Project) -> StepResult:
    """The record of the labels.

    Raises:
        MissingStepError: `annotate` has not run.
    """
    return needed_record(step_folder(project, "annotate"), "labels", project.file)


def made_input(project: Project, record: StepResult) -> Input:
    """All that a step made, as an input of another one."""
    sha256 = made_digest(record)
    path = portable(step_folder(project, record.step), project.root)
    return Input(sha256, lambda: {"path": path, "sha256": sha256}, record.step)


def intact_record(folder: Path, key: str) -> StepResult | None:
    """Return the record, marked as reused, if its key holds and its outputs are undamaged."""
    record = read_record(folder)
    if record is None or record.key != key or LINEAGE not in record.outputs:
        return None
    whole = not any(mismatch(folder / name, sha256) for name, sha256 in record.outputs.items())
    return replace(record, reused=True) if whole else None
