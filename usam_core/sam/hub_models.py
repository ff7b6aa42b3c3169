"""The SAMs of the model hub: what each is, what it costs to have, and where its files are.

The classes are those of `transformers`. Meta's own package is not on PyPI (what is called `sam2`
there is a private fork), and SAM-HQ of `transformers` gives wrong masks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from usam_core.config.model import SamConfig

SETTING = "sam.checkpoint"
"""Where a person names a folder, for messages."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_HQ = "sam_hq"
HQ_IS_WRONG = (
    "SAM-HQ of transformers is not taken: since 4.55 its decoder throws away what the image side "
    "learns from the prompts, and the masks are wrong; take sam.model: sam2.1_large or vit_h"
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of SAM in `transformers`.

    Attributes:
        name: of its class.
        since: the first version of `transformers` that has it.
        model_types: what `config.json` may say; the hub's files are those of the video models,
            which hold the same weights and more.
        mean_and_std: of the pictures, unless a file beside the weights says another.
        extra: what of usam has to be installed.
    """

    name: str
    since: str
    model_types: tuple[str, ...]
    mean_and_std: tuple[tuple[float, float, float], tuple[float, float, float]]
    extra: str = "features"


SAM2 = Architecture("Sam2Model", "4.56", ("sam2", "sam2_video"), _IMAGENET)
EDGETAM = Architecture("EdgeTamModel", "4.57", ("edgetam", "edgetam_video"), _IMAGENET, "edgetam")
SAM3 = Architecture(
    "Sam3TrackerModel", "5.0", ("sam3_tracker", "sam3_tracker_video", "sam3_video"), _HALF
)


@dataclass(frozen=True, slots=True)
class HubSam:
    """One published SAM: its architecture, hub id, size of the download, licence, agreement."""

    architecture: Architecture
    hub_id: str
    megabytes: int
    licence: str = "Apache-2.0"
    gated: bool = False


HUB_SAMS = {
    "sam2.1_tiny": HubSam(SAM2, "facebook/sam2.1-hiera-tiny", 156),
    "sam2.1_small": HubSam(SAM2, "facebook/sam2.1-hiera-small", 184),
    "sam2.1_base_plus": HubSam(SAM2, "facebook/sam2.1-hiera-base-plus", 324),
    "sam2.1_large": HubSam(SAM2, "facebook/sam2.1-hiera-large", 898),
    "edgetam": HubSam(EDGETAM, "yonigozlan/EdgeTAM-hf", 56),
    "sam3": HubSam(SAM3, "facebook/sam3", 3440, "SAM Licence", gated=True),
}
"""By the names of `sam.model`; sizes are about right, none was downloaded here."""


@dataclass(frozen=True, slots=True)
class HubFiles:
    """A SAM on this disk; `weights` is the digest of a folder, or the hub's name and commit."""

    folder: Path
    weights: str
    architecture: Architecture


def find_hub_sam(
    config: "SamConfig", checkpoint: Path | None, *, with_weights: bool = True
) -> HubFiles:
    """Find a SAM's files; what the hub has and is not cached is downloaded.

    `checkpoint` is the absolute path of a folder, or None for the hub. Without weights the
    settings alone are downloaded.

    Raises:
        InputError: there is no such folder, or it holds another model.
        MissingExtraError: the packages are not installed.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    known = HUB_SAMS[config.model]
    need(known.architecture.extra, f"sam.model: {config.model}")
    if checkpoint is not None:
        _check_type(checkpoint, config.model, known.architecture)
        return HubFiles(checkpoint, weights_digest(checkpoint, OF_TEXTS), known.architecture)
    asked: dict[str, Any] = {
        "setting": SETTING,
        "expected": f"the repository of {config.model}",
        "size": f"{known.megabytes} MB",
    }
    folder = download(known.hub_id, config.revision, SETTINGS, **asked)
    commit = commit_of(folder)
    _check_type(folder, config.model, known.architecture)
    if with_weights:
        folder = download(known.hub_id, commit, SETTINGS + WEIGHTS, **asked)
    return HubFiles(folder, f"{known.hub_id}@{commit}", known.architecture)


def _check_type(folder: Path, model: str, architecture: Architecture) -> None:
    model_type = read_settings(folder / "config.json", SETTING).get("model_type")
    if model_type == _HQ:
        raise InputError(f"{SETTING}: {folder} holds SAM-HQ. {HQ_IS_WRONG}")
    if model_type not in architecture.model_types:
        raise InputError(
            f"{SETTING}: {folder / 'config.json'} says model_type {model_type!r}; expected one of "
            f"{list(architecture.model_types)} for sam.model: {model}"
        )


def load_hub_sam(files: HubFiles) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """Load a SAM on the CPU, float32; mean and deviation of its pictures, from 0 to 1.

    Raises:
        InputError: the weights are missing, damaged, or of another model, or `transformers` is
            too old.
    """
    import transformers
    from transformers.utils import logging

    architecture = files.architecture
    kind = getattr(transformers, architecture.name, None)
    if kind is None:
        raise InputError(
            f"sam.model: {architecture.name} needs transformers {architecture.since} or newer, "
            f"here is {transformers.__version__}; run: pip install -U 'usam[{architecture.extra}]'"
        )
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of the video models' files, and of what is said below
    try:
        model, report = kind.from_pretrained(
            files.folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # damaged files raise anything
        raise InputError(
            f"{files.folder}: cannot be loaded as a {architecture.name} ({error}); expected "
            "complete safetensors weights of it. Download them again"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    # What the files lack, transformers draws at random, with a warning at most.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{files.folder}: the weights lack {len(missing)} tensors of a {architecture.name}, "
            f"such as {missing[0]!r}; expected the safetensors that belong to this config.json. "
            "Download the folder again"
        )
    found = of_pictures(files.folder, SETTING)
    mean, std = mean_and_std(*found) if found else architecture.mean_and_std
    return model.float().requires_grad_(False).eval(), mean, std
