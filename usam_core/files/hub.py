"""A model hub's files: what a failed download means, and what identifies those that are here."""

import functools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from usam_core.errors import InputError, TransientError, UsamError
from usam_core.files.digest import remembered_digest, value_digest

SETTINGS = ("*.json", "*.txt", "*.model")
"""A model's small files: settings and tokenizers."""
WEIGHTS = ("*.safetensors",)
OF_TEXTS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
)
"""Files that say nothing of pictures: a tokenizer that comes later makes no other features."""
_PATIENCE = 3.0  # seconds
_OF_PICTURES = ("preprocessor_config.json", "processor_config.json")


@functools.cache
def download(
    model: str,
    revision: str | None,
    patterns: tuple[str, ...],
    *,
    setting: str,
    expected: str,
    size: str,
) -> Path:
    """Return the folder of the hub's files of a model; what is not cached is downloaded.

    Arguments and errors are those of `explained`; the hub is asked once a process, because its
    newest may change while a run goes on.
    """
    from huggingface_hub import snapshot_download

    try:
        # Folders inside a repository hold exports to other formats.
        folder = snapshot_download(
            model, revision=revision, allow_patterns=[*patterns], ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:
        raise explained(
            error, setting=setting, model=model, revision=revision, expected=expected, size=size
        ) from error
    return Path(folder)


def is_cached(model: str) -> bool:
    """Whether the hub's cache on this disk has weights of a model; no hub is asked."""
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(model, name), str) for name in names)


def hub_answers() -> bool:
    """Whether the hub can be reached within seconds."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=_PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def read_settings(file: Path, setting: str) -> dict[str, Any]:
    """Read a JSON file of a model's folder.

    Raises:
        InputError: it is not there, or no JSON object; `setting` is where the model was named.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{setting}: {file.parent} has no {file.name}; expected the folder of a transformers "
            "model, as its save_pretrained or `hf download` writes"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); expected JSON. Download the file again"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: holds a {type(value).__name__}; expected a JSON object")
    return value


def of_pictures(folder: Path, setting: str) -> tuple[dict[str, Any], Path] | None:
    """How a model wants its pictures, if a file beside it says so, and that file."""
    for name in _OF_PICTURES:
        if (folder / name).is_file():
            settings = read_settings(folder / name, setting)
            settings = settings.get("image_processor", settings)
            if "image_mean" in settings:
                return settings, folder / name
    return None


def mean_and_std(
    settings: dict[str, Any], file: Path
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of red, green and blue from 0 to 1.

    Raises:
        InputError: they are no three numbers each.
    """
    try:
        mean, std = (tuple(float(v) for v in settings[key]) for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean {mean}, standard deviation {std}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: cannot read the normalisation ({error}); expected image_mean and "
            "image_std, three numbers each. Download the file again"
        ) from error
    return mean, std


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
