"""What steps leave behind for later ones, their records, and a person's log of decisions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from usam_core.config.project import Project
from usam_core.errors import InputError, MissingStepError, StoreError
from usam_core.files.digest import file_digest, read_sealed, value_digest, write_sealed
from usam_core.files.paths import inside
from usam_core.images.listing.content import mismatch
from usam_core.lineage.document import LINEAGE, RECORD, portable
from usam_core.review.decisions import Decision, read_all, read_log, standing
from usam_core.steps.base import Input, Inputs, StepResult, find_step, step_folder

_RECORD = TypeAdapter(StepResult)
_MIN_DIGITS = 8


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file by its path relative to `folder`."""
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def finished(
    step: str, key: str, path: Path, summary: dict[str, Any], files: Iterable[Path]
) -> StepResult:
    """Result of a step that has run: `path` is its main file, beside the other `files`."""
    return StepResult(step, key, False, str(path), summary, digests(path.parent, files))


def made_digest(result: StepResult) -> str:
    """One digest of a step's outputs; its lineage, which holds the time, is left out."""
    return value_digest({k: v for k, v in result.outputs.items() if k != LINEAGE})


def write_record(folder: Path, result: StepResult) -> None:
    """Write the record last of all: without it, the step has not happened."""
    write_sealed(folder / RECORD, result.to_json())


def read_record(folder: Path) -> StepResult | None:
    """Record of a finished step; None if it is missing or not as it was written.

    Paths follow a project that was moved or copied.
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
    # The store need not lie in the step's folder; the step itself knows where it is now.
    return record if step and step.stored else replace(record, path=str(folder))


def summary_of(project: Project, step: str) -> dict[str, Any]:
    """Summary of a finished step; empty where it has not run."""
    record = read_record(step_folder(project, step))
    return record.summary if record else {}


def whole_output(folder: Path, name: str) -> Path:
    """Path of the recorded output `name` in a step's folder, to be read by another step.

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
    """The record of a step that another one reads from; `what` and `file` are for the message.

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
    """The record, marked as reused, if its key holds and its outputs are undamaged."""
    record = read_record(folder)
    if record is None or record.key != key or LINEAGE not in record.outputs:
        return None
    sound = not any(mismatch(folder / name, sha256) for name, sha256 in record.outputs.items())
    return replace(record, reused=True) if sound else None


def check_manifest(step: str, parents: Mapping[str, Path], manifest: str) -> None:
    """Refuse to build on anything but the chosen outputs of an earlier step.

    Args:
        step: the step that is about to run.
        parents: folders of the steps that it reads, by their names.
        manifest: the `lineage.json` that a step before wrote: its path, or the beginning of its
            SHA-256 as run pages and `usam lineage` show it. Empty accepts whatever is there.

    Raises:
        InputError: it is neither, or the project has other outputs by now.
    """
    if not manifest:
        return
    chosen = _manifest_digest(manifest)
    files = {parent: folder / LINEAGE for parent, folder in parents.items()}
    now = {parent: file_digest(file) for parent, file in files.items() if file.exists()}
    if not any(digest.startswith(chosen) for digest in now.values()):
        there = ", ".join(f"{parent} {digest[:12]}" for parent, digest in now.items()) or "nothing"
        raise InputError(
            f"manifest: got {manifest!r} ({chosen[:12]}), but {step} would build on {there}; run "
            "the step before again, or choose one of these, or leave it empty"
        )


def _manifest_digest(manifest: str) -> str:
    digits = manifest.lower()
    if re.fullmatch(rf"[0-9a-f]{{{_MIN_DIGITS},64}}", digits):
        return digits
    file = Path(manifest)
    file = file / LINEAGE if file.is_dir() else file
    if not file.is_file():
        raise InputError(
            f"manifest: got {manifest!r}, which is no file; expected the path of a {LINEAGE}, or "
            f"at least {_MIN_DIGITS} digits of its SHA-256"
        )
    return file_digest(file)


def decisions_file(out: Path) -> Path:
    """Where decisions are kept below a project's results: one log for classes and parents."""
    return out / "review" / "decisions.jsonl"


def decided(out: Path) -> dict[str, list[Decision]]:
    """The decisions that stand, by the digest of their image, oldest first."""
    by_image: dict[str, list[Decision]] = {}
    for decision in standing(read_all(decisions_file(out))):
        by_image.setdefault(decision.sha256, []).append(decision)
    return by_image


def decision_inputs(out: Path, root: Path) -> Inputs:
    """A person's decisions as an input of a step; nothing where there are none.

    Args:
        out: the folder of the project's results.
    """
    decisions = [one for of_image in decided(out).values() for one in of_image]
    if not decisions:
        return {}
    log, sha256 = decisions_file(out), decisions_digest(decisions)

    def lineage() -> dict[str, Any]:
        return {
            "path": portable(log, root),
            "count": len(decisions),
            "sha256": sha256,
            # Lines are only ever added: so far the log must stay as it is.
            "log_bytes": log.stat().st_size,
            "log_sha256": file_digest(log),
        }

    return {"decisions": Input(sha256, lineage)}


def notes_on_decisions(out: Path) -> list[str]:
    """Which lines of the log hold no decision, if there are any."""
    file = decisions_file(out)
    _, bad = read_log(file)
    if not bad:
        return []
    listed = ", ".join(map(str, bad[:10])) + (" and more" if len(bad) > 10 else "")
    return [
        f"{file}: {len(bad)} lines hold no decision and are left out, they stay in the file: line "
        f"{listed}"
    ]


def decisions_digest(decisions: Iterable[Decision]) -> str:
    """Digest of what decisions say, whenever it was said."""
    return value_digest(
        sorted(
            [
                *(d.sha256, d.prompt, d.mask["counts"], d.head_class or ""),
                *(d.label or "", d.label is None),
                *([] if d.drawn is None else [d.drawn["counts"]]),
            ]
            for d in decisions
        )
    )
