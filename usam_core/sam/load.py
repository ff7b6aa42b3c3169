"""Load a SAM: the bundled nano model, an official checkpoint (downloaded once), or a local file.

What identifies a SAM is known without `segment_anything`, whose import takes seconds, and
`cache_folder` without torch and pydantic: commands and servers that ask for it alone do not wait.
"""

import functools
import os
import pickle
import zipfile
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usam_core.config import OF_THE_HUB
from usam_core.errors import InputError, StoreError, TransientError
from usam_core.files.digest import file_digest, remembered_digest
from usam_core.progress import SILENT, Progress
from usam_core.sam import NANO_WEIGHTS
from usam_core.sam.hub_models import find_hub_sam, load_hub_sam

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

    from usam_core.config.model import SamConfig
    from usam_core.sam.backend import Backend
    from usam_core.sam.embedder import SamEmbedder

NANO = "nano"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published checkpoint: its model, where its publisher serves it, size and digest."""

    model: str
    url: str
    bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The official file name."""
        return self.url.rsplit("/", 1)[1]


_HOME = "https://dl.fbaipublicfiles.com/segment_anything"

OFFICIAL = {
    model: Checkpoint(model, f"{_HOME}/sam_{model}_{name}.pth", size, sha256)
    for model, name, size, sha256 in (
        (
            "vit_b",
            "01ec64",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        (
            "vit_l",
            "0b3195",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        (
            "vit_h",
            "4b8939",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    )
}
"""The three sizes, by model name."""


def cache_folder() -> Path:
    """Where checkpoints are kept: $USAM_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("USAM_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usam"


def download(checkpoint: Checkpoint, folder: Path, progress: Progress = SILENT) -> Path:
    """Return the checkpoint's file in `folder`, fetching what of it is not there yet.

    Bytes arrive in `<name>.part`; the file gets its name only when size and SHA-256 are right. A
    broken transfer leaves the part, and the next call goes on from there.

    Raises:
        TransientError: the network failed; call again.
        InputError: the server has no such file, or what it sent is not the checkpoint.
    """
    target = folder / checkpoint.file_name
    # The digest is looked at when the file is loaded, where it is needed anyway.
    if target.exists() and target.stat().st_size == checkpoint.bytes:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if not part.exists() or part.stat().st_size != checkpoint.bytes:
        _fetch(checkpoint, part, progress)
    size = part.stat().st_size
    if size < checkpoint.bytes:
        raise TransientError(
            f"{checkpoint.url}: got {size} of {checkpoint.bytes} bytes; run again to go on"
        )
    digest = file_digest(part)
    if digest != checkpoint.sha256:
        part.unlink()
        raise InputError(
            f"{checkpoint.url}: expected {checkpoint.bytes} bytes with SHA-256 "
            f"{checkpoint.sha256}, got {size} bytes with {digest}; the download was dropped. "
            "Fetch the file by hand and name it under sam.checkpoint"
        )
    os.replace(part, target)
    return target


def _fetch(checkpoint: Checkpoint, part: Path, progress: Progress) -> None:
    import httpx

    have = part.stat().st_size if part.exists() else 0
    if have > checkpoint.bytes:
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    limits = httpx.Timeout(30.0, read=60.0)
    try:
        with httpx.stream(
            "GET", checkpoint.url, headers=headers, timeout=limits, follow_redirects=True
        ) as response:
            if not response.is_success:
                message = f"{checkpoint.url}: the server answered {response.status_code}"
                if response.status_code == HTTPStatus.TOO_MANY_REQUESTS or response.is_server_error:
                    raise TransientError(f"{message}; try again later")
                raise InputError(
                    f"{message}; fetch the file by hand and name it under sam.checkpoint"
                )
            # A server that ignores the range answers 200 and starts from the beginning.
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            label = f"Downloading {checkpoint.file_name}"
            with (
                open(part, "ab" if resumed else "wb") as file,
                progress.bar(label, checkpoint.bytes) as bar,
            ):
                bar.advance(have if resumed else 0)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    bar.advance(len(chunk))
    except httpx.TransportError as error:
        raise TransientError(
            f"{checkpoint.url}: the transfer broke ({error!r}); run again to go on, or fetch the "
            f"file elsewhere and name it under sam.checkpoint"
        ) from error


def choose_device(wanted: str, setting: str = "sam.device") -> str:
    """The device to use; `auto` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        InputError: the wanted device is not there.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    present = [device for device, is_there in there.items() if is_there]
    if wanted == "auto":
        return present[0]
    if wanted not in present:
        raise InputError(f"{setting}: {wanted!r} is not on this machine; expected one of {present}")
    return wanted


def checkpoint_file(
    config: "SamConfig", checkpoint: Path | None, progress: Progress = SILENT
) -> Path:
    """The weights file of a SAM; an official one is downloaded if it is not there.

    `checkpoint` is the absolute path of a local file, or None.
    """
    if checkpoint is not None:
        return checkpoint
    if config.model == NANO:
        return NANO_WEIGHTS
    return download(OFFICIAL[config.model], cache_folder(), progress)


def encoder_spec(config: "SamConfig", checkpoint: Path | None) -> dict[str, Any]:
    """What identifies the embeddings of a SAM, without loading it.

    An official checkpoint's digest is known before it is downloaded.
    """
    from usam_core.sam.embedder import embedder_spec

    if config.model in OF_THE_HUB:
        digest = find_hub_sam(config, checkpoint, with_weights=False).weights
    elif checkpoint is None and config.model in OFFICIAL:
        digest = OFFICIAL[config.model].sha256
    else:
        digest = _checkpoint_digest(checkpoint_file(config, checkpoint), config.sha256)
    return embedder_spec(config.model, digest, config.points_per_side, config.dtype)


def load_sam(
    config: "SamConfig", checkpoint: Path | None = None, progress: Progress = SILENT
) -> "Sam":
    """Load the SAM 1 of a project on the CPU, in evaluation mode, also of another training.

    Raises:
        InputError: the file is no checkpoint of that model; the message names both.
        StoreError: an official file is not the published one, or the nano weights are damaged.
        TransientError: a download failed in a way that may heal.
    """
    path = checkpoint_file(config, checkpoint, progress)
    if config.model == NANO:
        from usam_core.sam.nano import build_nano_sam

        try:
            return build_nano_sam(path)
        except StoreError as error:
            if checkpoint is None:
                raise
            raise InputError(
                f"sam.checkpoint: {path} holds no weights of this version's nano SAM; expected "
                "what scripts/train_nano_sam.py writes, or another sam.model"
            ) from error
    digest, official = _checkpoint_digest(path), OFFICIAL[config.model].sha256
    if checkpoint is None and digest != official:
        raise StoreError(
            f"{path}: expected SHA-256 {official}, got {digest}; delete the file, and it is "
            "downloaded again"
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
    return sam.eval()


def load_backend(config: "SamConfig", checkpoint: Path | None) -> "Backend":
    """Load the SAM of a project on the CPU; errors are those of `load_sam` and `load_hub_sam`."""
    if config.model in OF_THE_HUB:
        from usam_core.sam.translated import TranslatedSam

        return TranslatedSam(*load_hub_sam(find_hub_sam(config, checkpoint)))
    from usam_core.sam.backend import SegmentAnything

    return SegmentAnything(load_sam(config, checkpoint))


def open_embedder(
    config: "SamConfig", checkpoint: Path | None = None, progress: Progress = SILENT
) -> "SamEmbedder":
    """Return the project's embedder; a process loads each model once. See `checkpoint_file`."""
    if config.model in OF_THE_HUB:
        digest = find_hub_sam(config, checkpoint).weights
    else:
        digest = _checkpoint_digest(checkpoint_file(config, checkpoint, progress), config.sha256)
    return _open_embedder(config, checkpoint, digest)


@functools.lru_cache(maxsize=1)
def _open_embedder(config: "SamConfig", checkpoint: Path | None, digest: str) -> "SamEmbedder":
    from usam_core.sam.embedder import SamEmbedder

    return SamEmbedder(
        load_backend(config, checkpoint),
        config.model,
        digest,
        config.points_per_side,
        config.points_per_batch,
        choose_device(config.device),
        config.dtype,
        config.compile,
    )


def _checkpoint_digest(path: Path, wanted: str | None = None) -> str:
    try:
        digest = remembered_digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint: {error.strerror}") from error
    if wanted and digest != wanted.lower():
        raise InputError(
            f"{path}: sam.sha256: expected {wanted}, got {digest}; name the file that has it, or "
            "take the setting out"
        )
    return digest


def _read_state(path: Path) -> dict[str, "Tensor"]:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return _state_of_training(state)
    except Exception as error:  # damaged files raise anything
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise InputError(
                f"{path}: holds more than tensors, as trainers' own checkpoints do, and reading "
                "that would run it; write the tensors alone where it was made: torch.save("
                'torch.load(FILE, weights_only=False)["model_state"], "tensors.pt")'
            ) from error
        raise InputError(
            f"{path}: cannot read it as a SAM checkpoint ({error}); expected a .pth file of "
            "tensors or .safetensors"
        ) from error


def _state_of_training(state: dict[str, Any]) -> dict[str, "Tensor"]:
    """The SAM's own tensors of a checkpoint, as trainers write it around them.

    micro-sam: the state alone, or `model_state` with names that begin with `sam.` beside a
    `decoder_state` of its own; MedSAM: the state alone, or `model` beside the optimizer's. Both
    may carry the `module.` of several GPUs.
    """
    for wrapper in ("model_state", "model", "state_dict"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    for prefix in ("module.", "sam."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _guess(state: dict[str, "Tensor"]) -> str:
    widths = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    position = getattr(state.get("image_encoder.pos_embed"), "shape", [0])
    return widths.get(position[-1], "something that is no SAM checkpoint")
