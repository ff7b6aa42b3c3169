"""An encoder's files and weights: a folder of the user's, or a model of the hub."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from usam_core.config.model import FeatureConfig
from usam_core.errors import InputError, need
from usam_core.features.families import SETTING, Kind, read_kind
from usam_core.files.hub import commit_of, explained, weights_digest

_SMALL_FILES = ["*.json", "*.txt", "*.model"]  # settings and tokenizers
_WEIGHTS = ["*.safetensors"]
_AT = "@"
_OF_TEXTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
"""Files that say nothing of pictures: a tokenizer that comes later makes no other features."""
_NEVER_LOADED = ("mask_token",)  # pretraining's; some checkpoints leave it out


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this disk.

    Attributes:
        folder: where its files lie.
        weights: what identifies them: the digest of a folder, or the hub's name and commit.
        kind: what its settings say.
    """

    folder: Path
    weights: str
    kind: Kind


def find_model(config: FeatureConfig, root: Path, *, with_weights: bool = True) -> ModelFiles:
    """Return a model's files, downloading from the hub what is not cached.

    Args:
        config: which model; a folder counts from `root`.
        root: folder of the project file.
        with_weights: whether weights of the hub are wanted too, or the settings alone.

    Raises:
        InputError: there is no such model, or it is of no known family.
        MissingExtraError: the packages of encoders are not installed.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    need("features", f"{SETTING}: {config.model}")
    folder = root / config.model
    if folder.is_dir():
        return ModelFiles(folder, weights_digest(folder, _OF_TEXTS), read_kind(folder, config))
    if is_path(config.model):
        raise InputError(
            f"{SETTING}: got {config.model!r}, but there is no folder {folder}; put it there, or "
            "name a model of the hub such as facebook/dinov2-base"
        )
    folder = _small_files(config.model, config.revision)
    commit = commit_of(folder)
    if with_weights:
        folder = _all_files(config.model, commit)
    return ModelFiles(folder, f"{config.model}{_AT}{commit}", read_kind(folder, config))


def is_commit(weights: str) -> bool:
    """Return whether `ModelFiles.weights` speaks of the hub, and not of a folder's content."""
    return _AT in weights


def is_path(model: str) -> bool:
    """Return whether a model can only be meant as a folder.

    >>> [is_path(model) for model in ("/m/clip", "./clip", "~/clip", "m/n/clip", "m/clip", "clip")]
    [True, True, True, True, False, False]
    """
    return model.startswith(("/", ".", "~")) or Path(model).is_absolute() or model.count("/") > 1


@functools.cache
def _small_files(model: str, revision: str | None) -> Path:
    # Asked once a process: the hub's newest may change while a run goes on.
    return _download(model, revision, _SMALL_FILES)


@functools.cache
def _all_files(model: str, commit: str | None) -> Path:
    return _download(model, commit, _SMALL_FILES + _WEIGHTS)


def _download(model: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Folders inside a repository hold exports to other formats.
        found = snapshot_download(
            model, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:
        raise explained(
            error,
            setting=SETTING,
            model=model,
            revision=revision,
            expected="a transformers model, such as facebook/dinov2-base",
            size="0.1 GB (small) to 5 GB (giant)",
        ) from error
    return Path(found)


def load_model(files: ModelFiles) -> Any:
    """Load all of a model on the CPU, float32, in evaluation mode.

    Raises:
        InputError: the weights are missing, damaged, or of another model.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, report = AutoModel.from_pretrained(
            files.folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files raise anything
        raise InputError(
            f"{files.folder}: cannot be loaded as a {files.kind.model_type} model ({error}); "
            "expected complete safetensors weights of it. Download them again"
        ) from error
    # What the files lack, transformers draws at random, with a warning at most.
    missing = sorted(k for k in report["missing_keys"] if not k.endswith(_NEVER_LOADED))
    if missing:
        raise InputError(
            f"{files.folder}: the weights lack {len(missing)} tensors of a "
            f"{files.kind.model_type} model, such as {missing[0]!r}; expected the safetensors that "
            "belong to this config.json. Download the folder again"
        )
    return model.to(torch.float32).requires_grad_(False).eval()
