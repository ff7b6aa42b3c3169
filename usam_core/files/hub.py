"""A model hub's files: what a failed download means, and what identifies those that are here."""

from collections.abc import Collection
from pathlib import Path

from usam_core.errors import InputError, TransientError, UsamError
from usam_core.files.digest import remembered_digest, value_digest


def explained(
    error: BaseException,
    *,
    setting: str,
    model: str,
    revision: str | None,
    expected: str,
    size: str,
) -> UsamError:
    """Return what a failed download means; libraries hide the hub's answer as a cause.

    Args:
        error: what the library raised.
        setting: where the model was named, and a folder can be.
        model: hub id.
        revision: what was asked for, or None for the newest.
        expected: which kind of model, with an example.
        size: of the download.
    """
    from huggingface_hub import errors

    got = f"{setting}: got {model!r}"
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return InputError(
            f"{got}, whose owner asks for an agreement first; accept it on the hub and log in "
            "with `hf auth login`"
        )
    unknown = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    )
    if any(isinstance(cause, unknown) for cause in causes):
        return InputError(
            f"{got}, revision {revision or 'main'!r}, which is neither a folder nor on "
            f"the hub; expected {expected}"
        )
    return TransientError(
        f"{got}, which is no folder beside the project file, and the hub cannot be reached; to "
        f"be downloaded: {size}. Offline: fetch it where "
        f"there is internet (`hf download {model} --local-dir FOLDER`), copy the "
        f"folder here and name it as {setting}"
    )


def commit_of(folder: Path) -> str | None:
    """Return the hub's commit of a cached model, or None for a folder of the user's."""
    return folder.name if folder.parent.name == "snapshots" else None


def weights_digest(folder: Path, leave_out: Collection[str] = ()) -> str:
    """Return a digest of a model's weights and settings, without the files to leave out."""
    kinds = (".safetensors", ".json", ".txt")
    files = sorted(p for p in folder.rglob("*") if p.suffix in kinds and p.name not in leave_out)
    return value_digest({p.relative_to(folder).as_posix(): remembered_digest(p) for p in files})
