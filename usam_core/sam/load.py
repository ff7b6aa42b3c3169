"""Load a SAM: the bundled nano model, an official checkpoint, or a local file.

What identifies a SAM is known without `segment_anything`, whose import takes seconds.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from usam_core.config.schema import SamConfig
from usam_core.errors import InputError, StoreError
from usam_core.files.digest import remembered_digest
from usam_core.progress import SILENT, Progress
from usam_core.sam.download import NANO_WEIGHTS, OFFICIAL, cache_folder, download
from usam_core.sam.embedder import SamEmbedder, embedder_spec

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

NANO = "nano"


@dataclass(frozen=True, slots=True)
class LoadedSam:
    """A model with what identifies it.

    Attributes:
        sam: the model on the CPU, in evaluation mode.
        name: `nano`, `vit_b`, `vit_l` or `vit_h`.
        checkpoint_sha256: digest of the weights file.
    """

    sam: "Sam"
    name: str
    checkpoint_sha256: str


def choose_device(wanted: str, setting: str = "sam.device") -> str:
    """Return the device to use; `auto` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        InputError: the wanted device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(device for device, present in there.items() if present)
    if not there[wanted]:
        found = [device for device, present in there.items() if present]
        raise InputError(f"{setting}: {wanted!r} is not on this machine; expected one of {found}")
    return wanted


def checkpoint_file(
    config: SamConfig, checkpoint: Path | None, progress: Progress = SILENT
) -> Path:
    """Return the weights file of a SAM, downloading an official one if it is not there.

    Args:
        config: which model.
        checkpoint: absolute path of a local file, or None.
        progress: told of the download.
    """
    if checkpoint is not None:
        return checkpoint
    if config.model == NANO:
        return NANO_WEIGHTS
    return download(OFFICIAL[config.model], cache_folder(), progress)


def encoder_spec(config: SamConfig, checkpoint: Path | None) -> dict[str, Any]:
    """Return what identifies the embeddings of a SAM, without loading it.

    An official checkpoint's digest is known before it is downloaded.
    """
    if checkpoint is None and config.model in OFFICIAL:
        digest = OFFICIAL[config.model].sha256
    else:
        digest = _checkpoint_digest(checkpoint_file(config, checkpoint))
    return embedder_spec(config.model, digest, config.points_per_side, config.dtype)


def load_sam(
    config: SamConfig, checkpoint: Path | None = None, progress: Progress = SILENT
) -> LoadedSam:
    """Load the model of a project.

    Raises:
        InputError: the file is no checkpoint of that model; the message names both.
        TransientError: a download failed in a way that may heal.
    """
    path = checkpoint_file(config, checkpoint, progress)
    digest = _checkpoint_digest(path)
    if config.model == NANO:
        return LoadedSam(_load_nano(path, given=checkpoint is not None), NANO, digest)
    if checkpoint is None and digest != OFFICIAL[config.model].sha256:
        raise StoreError(
            f"{path}: expected SHA-256 {OFFICIAL[config.model].sha256}, got {digest}; delete the "
            "file, and it is downloaded again"
        )
    from segment_anything import sam_model_registry

    sam = sam_model_registry[config.model]()
    state = _read_state(path)
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{path}: expected a checkpoint of {config.model}, got {_guess(state)}; set sam.model "
            "to what the file holds, or name another file under sam.checkpoint"
        ) from error
    return LoadedSam(sam.eval(), config.model, digest)


def _load_nano(path: Path, *, given: bool) -> "Sam":
    from usam_core.sam.nano import build_nano_sam

    try:
        return build_nano_sam(path)
    except StoreError as error:
        if not given:
            raise
        raise InputError(
            f"sam.checkpoint: {path} holds no weights of this version's nano SAM; expected what "
            "scripts/train_nano_sam.py writes, or another sam.model"
        ) from error


def open_embedder(
    config: SamConfig, checkpoint: Path | None = None, progress: Progress = SILENT
) -> SamEmbedder:
    """Return the project's embedder; a process loads each model once.

    Args:
        config: which SAM, and how its grid asks.
        checkpoint: absolute path of a local checkpoint, or None.
        progress: told of a download.
    """
    path = checkpoint_file(config, checkpoint, progress)
    return _open_embedder(config, str(path), _checkpoint_digest(path))


@functools.lru_cache(maxsize=1)
def _open_embedder(config: SamConfig, path: str, digest: str) -> SamEmbedder:
    loaded = load_sam(config, Path(path))
    return SamEmbedder(
        loaded.sam,
        loaded.name,
        digest,
        config.points_per_side,
        config.points_per_batch,
        choose_device(config.device),
        config.dtype,
        config.compile,
    )


def _checkpoint_digest(path: Path) -> str:
    try:
        return remembered_digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint: {error.strerror}") from error


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except Exception as error:  # damaged files raise anything
        raise InputError(
            f"{path}: cannot read it as a SAM checkpoint ({error}); expected a .pth file of "
            "tensors or .safetensors"
        ) from error


def _guess(state: Any) -> str:
    widths = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    position = state.get("image_encoder.pos_embed") if isinstance(state, dict) else None
    if isinstance(position, torch.Tensor) and position.shape[-1] in widths:
        return widths[position.shape[-1]]
    return "something that is no SAM checkpoint"
