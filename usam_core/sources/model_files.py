"""The files of a diffusers pipeline: a folder of the user's, or downloaded from the hub."""

from pathlib import Path

from usam_core.config_training import SyntheticConfig
from usam_core.digest import remembered_digest, value_digest
from usam_core.errors import InputError, TransientError, UsamError

KNOWN_GB = {"CompVis/stable-diffusion-v1-4": 5.5}
"""Sizes of downloads; the hub would tell others, but may be out of reach."""


def model_folder(config: SyntheticConfig, root: Path) -> Path:
    """Return the folder with the model's files, downloading a hub model if it is not cached.

    Args:
        config: which model; a folder counts from `root`.
        root: folder of the project file.

    Raises:
        InputError: there is no such model.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    local = local_folder(config, root)
    if local is not None:
        return local
    from diffusers import DiffusionPipeline

    try:
        found = DiffusionPipeline.download(
            config.model, revision=config.revision, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise _explained(config, error) from error
    return Path(found)


def _explained(config: SyntheticConfig, error: BaseException) -> UsamError:
    """Return what a failed download means; diffusers hides the hub's answer as a cause."""
    from huggingface_hub import errors

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    given = f"training.synthetic.model: got {config.model!r}"
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return InputError(
            f"{given}, whose owner asks for an agreement first; accept it on the hub and log in "
            "with `hf auth login`"
        )
    unknown = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    )
    if any(isinstance(cause, unknown) for cause in causes):
        return InputError(
            f"{given}, revision {config.revision or 'main'!r}, which is neither a folder nor on "
            "the hub; expected a diffusers pipeline, such as CompVis/stable-diffusion-v1-4"
        )
    size = KNOWN_GB.get(config.model)
    return TransientError(
        f"{given}, which is no folder beside the project file, and the hub cannot be reached; to "
        f"be downloaded: {f'about {size} GB' if size else 'some GB'}. Offline: fetch it where "
        f"there is internet (`hf download {config.model} --local-dir FOLDER`), copy the "
        "folder here and name it as training.synthetic.model"
    )


def local_folder(config: SyntheticConfig, root: Path) -> Path | None:
    """Return the model's folder if the project names one, or None for a hub id.

    Raises:
        InputError: the folder holds no pipeline.
    """
    folder = root / config.model
    if not folder.is_dir():
        return None
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"training.synthetic.model: {folder} has no model_index.json; expected the folder of "
            "a diffusers pipeline, as its save_pretrained or `hf download` writes"
        )
    return folder


def commit_of(folder: Path) -> str | None:
    """Return the hub's commit of a cached model, or None for a folder of the user's."""
    return folder.name if folder.parent.name == "snapshots" else None


def weights_digest(folder: Path) -> str:
    """Return a digest of all weights and settings of a pipeline."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt"))
    return value_digest({p.relative_to(folder).as_posix(): remembered_digest(p) for p in files})
