"""A model of `transformers`: its files, a folder of the user's or the hub's, its kind, its weights.

What the families differ in before any weight is read:

    model_type in config.json          family    published at
    dinov2, dinov2_with_registers      dinov2    arXiv 2304.07193, registers arXiv 2309.16588
    dinov3_vit                         dinov3    arXiv 2508.10104
    clip, metaclip_2                   clip      arXiv 2103.00020; MetaCLIP, LAION's, DFN's too
    siglip (fixed size), siglip2       siglip2   arXiv 2502.14786; `siglip2` is NaFlex
    tipsv2                             tipsv2    TIPSv2 of Google, CVPR 2026; takes plain 0 to 1
    radio                              radio     C-RADIOv4 of NVIDIA; normalizes 0 to 1 by itself

The normalization is the model's own if a file beside it says so, else what its makers published.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from usam_core.config.model import FAMILY_OF, FeatureConfig
from usam_core.errors import InputError, need
from usam_core.files.hub import (
    OF_TEXTS,
    SETTINGS,
    WEIGHTS,
    commit_of,
    download,
    mean_and_std,
    of_pictures,
    read_settings,
    weights_digest,
)

SETTING = "features.model"
"""Where a person names the model, for messages."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_BILINEAR, _BICUBIC = 2, 3  # as Pillow numbers them
_NEVER_LOADED = ("mask_token",)  # pretraining's; some checkpoints leave it out


@dataclass(frozen=True, slots=True)
class Normalization:
    """Mean and deviation of red, green and blue from 0 to 1; Pillow's number of a filter."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int


@dataclass(frozen=True, slots=True)
class Family:
    """Name as in `FeatureConfig.family`, published normalization, and whether it knows texts."""

    name: str
    normalization: Normalization
    has_text: bool


DINOV2 = Family("dinov2", Normalization(*_IMAGENET, _BICUBIC), False)
DINOV3 = Family("dinov3", Normalization(*_IMAGENET, _BILINEAR), False)
CLIP = Family("clip", Normalization(*_OPENAI, _BICUBIC), True)
SIGLIP2 = Family("siglip2", Normalization(*_HALF, _BILINEAR), True)
TIPSV2 = Family("tipsv2", Normalization(*_PLAIN, _BILINEAR), True)
RADIO = Family("radio", Normalization(*_PLAIN, _BILINEAR), False)

_BY_NAME = {family.name: family for family in (DINOV2, DINOV3, CLIP, SIGLIP2, TIPSV2, RADIO)}
FAMILIES = {model_type: _BY_NAME[name] for model_type, name in FAMILY_OF.items()}
NAFLEX = "siglip2"
"""The model type whose encoder takes patches instead of pictures."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the small files of a model say.

    `model_type` is the architecture, as `transformers` names it; `patch` and `trained_size` are
    the sides of a patch and of the pictures it was trained with, pixels.
    """

    family: Family
    model_type: str
    patch: int
    trained_size: int
    normalization: Normalization

    def patches_along(self, image_size: int | None) -> int:
        """The longer side of the grid, in patches."""
        return max(1, round((image_size or self.trained_size) / self.patch))

    def as_json(self) -> dict[str, Any]:
        """What of it identifies a block's numbers, beside the weights."""
        return {
            "family": self.family.name,
            "model_type": self.model_type,
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
            "resample": self.normalization.resample,
        }


def read_kind(folder: Path, config: FeatureConfig) -> Kind:
    """Read a model's kind from its folder.

    Raises:
        InputError: it is no model of a known family, or not of the family that was asked for.
    """
    model_type = read_settings(folder / "config.json", SETTING).get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise InputError(
            f"{SETTING}: {folder / 'config.json'} says model_type {model_type!r}; expected one of "
            f"{sorted(FAMILIES)}. Name the whole model, such as facebook/dinov2-base or "
            "openai/clip-vit-base-patch16"
        )
    if config.family not in ("auto", family.name):
        raise InputError(
            f"features.family: got {config.family!r}, but {folder / 'config.json'} says "
            f"model_type {model_type!r}, of the family {family.name!r}; set family: auto"
        )
    vision = _vision_settings(folder, str(model_type))
    patch = int(vision.patch_size)
    naflex = model_type == NAFLEX
    trained = math.isqrt(vision.num_patches) * patch if naflex else int(vision.image_size)
    return Kind(family, str(model_type), patch, trained, _normalization(folder, family))


def _vision_settings(folder: Path, model_type: str) -> Any:
    from transformers import AutoConfig

    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a value out of place raises anything
        raise InputError(
            f"{folder / 'config.json'}: cannot be read as a {model_type} model ({error}); expected "
            "what save_pretrained writes, and a version of transformers that knows it "
            "(dinov3 needs 4.56, radio 5.13, tipsv2 5.14)"
        ) from error
    return getattr(whole, "vision_config", whole)


def _normalization(folder: Path, family: Family) -> Normalization:
    published, found = family.normalization, of_pictures(folder, SETTING)
    if found is None:
        return published
    settings, file = found
    if settings.get("do_normalize") is False or family is RADIO:
        return published
    mean, std = mean_and_std(settings, file)
    try:
        return Normalization(mean, std, int(settings.get("resample", published.resample)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{file}: cannot read the normalisation ({error}); expected Pillow's number of a "
            "filter as resample. Download the file again"
        ) from error


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this disk; `weights` is the digest of a folder, or the hub's name and commit."""

    folder: Path
    weights: str
    kind: Kind


def find_model(config: FeatureConfig, root: Path, *, with_weights: bool = True) -> ModelFiles:
    """Find a model's files; what the hub has and is not cached is downloaded.

    A folder counts from `root`. Without weights the settings alone are downloaded.

    Raises:
        InputError: there is no such model, or it is of no known family.
        MissingExtraError: the packages of encoders are not installed.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    need("features", f"{SETTING}: {config.model}")
    folder = root / config.model
    if folder.is_dir():
        return ModelFiles(folder, weights_digest(folder, OF_TEXTS), read_kind(folder, config))
    if is_path(config.model):
        raise InputError(
            f"{SETTING}: got {config.model!r}, but there is no folder {folder}; put it there, or "
            "name a model of the hub such as facebook/dinov2-base"
        )
    folder = _download(config.model, config.revision, SETTINGS)
    commit = commit_of(folder)
    if with_weights:
        folder = _download(config.model, commit, SETTINGS + WEIGHTS)
    return ModelFiles(folder, f"{config.model}@{commit}", read_kind(folder, config))


def is_commit(weights: str) -> bool:
    """Whether `ModelFiles.weights` speaks of the hub, and not of a folder's content."""
    return "@" in weights


def is_path(model: str) -> bool:
    """Whether a model can only be meant as a folder.

    >>> [is_path(model) for model in ("/m/clip", "./clip", "~/clip", "m/n/clip", "m/clip", "clip")]
    [True, True, True, True, False, False]
    """
    return model.startswith(("/", ".", "~")) or Path(model).is_absolute() or model.count("/") > 1


def _download(model: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    return download(
        model,
        revision,
        patterns,
        setting=SETTING,
        expected="a transformers model, such as facebook/dinov2-base",
        size="0.1 GB (small) to 5 GB (giant)",
    )


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
            files.folder, use_safetensors=True, local_files_only=True, output_loading_info=True
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
