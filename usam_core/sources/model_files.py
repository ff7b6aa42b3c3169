"""The files of a diffusers pipeline: a folder of the user's, or downloaded from the hub."""

from pathlib import Path

from usam_core.config.training import SyntheticConfig
from usam_core.errors import InputError, UsamError
from usam_core.files.hub import explained

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
    size = KNOWN_GB.get(config.model)
    return explained(
        error,
        setting="training.synthetic.model",
        model=config.model,
        revision=config.revision,
        expected="a diffusers pipeline, such as CompVis/stable-diffusion-v1-4",
        size=f"about {size} GB" if size else "some GB",
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
