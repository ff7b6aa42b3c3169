"""What differs between the families of encoders before any weight is read.

    model_type in config.json          family    published at
    dinov2, dinov2_with_registers      dinov2    arXiv 2304.07193, registers arXiv 2309.16588
    dinov3_vit                         dinov3    arXiv 2508.10104
    clip                               clip      arXiv 2103.00020; MetaCLIP, LAION's, DFN's too
    siglip (fixed size), siglip2       siglip2   arXiv 2502.14786; `siglip2` is NaFlex

The normalisation is the model's own if a file beside it says so, else what its makers published.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usam_core.config.model import FAMILY_OF, FeatureConfig
from usam_core.errors import InputError

SETTING = "features.model"
"""Where a person names the model, for messages."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BILINEAR, _BICUBIC = 2, 3  # as Pillow numbers them


@dataclass(frozen=True, slots=True)
class Normalization:
    """How pixels become a model's input.

    Attributes:
        mean, std: of the channels red, green, blue, with pixels from 0 to 1.
        resample: Pillow's number of the filter that scales pictures.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int


@dataclass(frozen=True, slots=True)
class Family:
    """What a model's kind decides.

    Attributes:
        name: as `FeatureConfig.family` says it.
        normalization: the published one.
        has_text: whether names can be compared with pictures.
    """

    name: str
    normalization: Normalization
    has_text: bool


DINOV2 = Family("dinov2", Normalization(*_IMAGENET, _BICUBIC), False)
DINOV3 = Family("dinov3", Normalization(*_IMAGENET, _BILINEAR), False)
CLIP = Family("clip", Normalization(*_OPENAI, _BICUBIC), True)
SIGLIP2 = Family("siglip2", Normalization(*_HALF, _BILINEAR), True)

_BY_NAME = {family.name: family for family in (DINOV2, DINOV3, CLIP, SIGLIP2)}
FAMILIES = {model_type: _BY_NAME[name] for model_type, name in FAMILY_OF.items()}
NAFLEX = "siglip2"
"""The model type whose encoder takes patches instead of pictures."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the small files of a model say.

    Attributes:
        family: its kind.
        model_type: the architecture, as `transformers` names it.
        patch: side of a patch, pixels.
        trained_size: side of the pictures it was trained with, pixels.
        normalization: of its input.
    """

    family: Family
    model_type: str
    patch: int
    trained_size: int
    normalization: Normalization

    def patches_along(self, image_size: int | None) -> int:
        """Return the longer side of the grid, in patches."""
        return max(1, round((image_size or self.trained_size) / self.patch))

    def as_json(self) -> dict[str, Any]:
        """Return what of it identifies a block's numbers, beside the weights."""
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
    settings = _read(folder / "config.json")
    model_type = settings.get("model_type")
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
    if model_type == NAFLEX:
        trained = math.isqrt(vision.num_patches) * patch
    else:
        trained = int(vision.image_size)
    return Kind(family, str(model_type), patch, trained, _normalization(folder, family))


def _vision_settings(folder: Path, model_type: str) -> Any:
    from transformers import AutoConfig

    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a value out of place raises anything
        raise InputError(
            f"{folder / 'config.json'}: cannot be read as a {model_type} model ({error}); expected "
            "what save_pretrained writes, and a version of transformers that knows it "
            "(dinov3 needs 4.56)"
        ) from error
    return getattr(whole, "vision_config", whole)


def _normalization(folder: Path, family: Family) -> Normalization:
    published = family.normalization
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = _read(folder / name)
            found = found.get("image_processor", found)
            if "image_mean" in found:
                break
    else:
        return published
    try:
        mean, std = (tuple(float(v) for v in found[key]) for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean {mean}, standard deviation {std}")
        return Normalization(mean, std, int(found.get("resample", published.resample)))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / name}: cannot read the normalisation ({error}); expected image_mean and "
            "image_std, three numbers each. Download the file again"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{SETTING}: {file.parent} has no {file.name}; expected the folder of a transformers "
            "model, as its save_pretrained or `hf download` writes"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); expected JSON. Download the file again"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: holds a {type(value).__name__}; expected a JSON object")
    return value
