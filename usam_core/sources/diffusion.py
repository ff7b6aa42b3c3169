"""Text to pictures through `diffusers`: any pipeline, in batches that fit in memory."""

import functools
import inspect
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usam_core.config.training import SyntheticConfig
from usam_core.errors import InputError
from usam_core.files.hub import explained, weights_digest
from usam_core.sam.load import choose_device

KNOWN_GB = {"CompVis/stable-diffusion-v1-4": 5.5}
"""Sizes of downloads; the hub would tell others, but may be out of reach."""

_OFFLOAD_BELOW = 6e9  # bytes free; Stable Diffusion v1 in float16 with its activations needs 5 GB
_SLICE_BELOW = 10e9
_TRIAL_STEPS = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to be drawn; its noise follows from the seed, and nothing else does."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture, uint8 (h, w, 3); `flagged`: the model's own safety filter made it black."""

    rgb: np.ndarray
    flagged: bool


class Painter:
    """A loaded text-to-image pipeline.

    Each picture's noise comes from its own seed, on the CPU: the batch it is drawn in and the
    device change it by rounding only.
    """

    def __init__(self, config: SyntheticConfig, folder: Path) -> None:
        self._config = config
        self._device = choose_device(config.device, "training.synthetic.device")
        self.compute_dtype: str = config.dtype
        if config.dtype == "auto":
            self.compute_dtype = "float32" if self._device == "cpu" else "float16"
        self._pipe = _load(config, folder, getattr(torch, self.compute_dtype))
        self._accepted = set(inspect.signature(self._pipe.__call__).parameters)
        self._check_accepted()
        self._pipe.set_progress_bar_config(disable=True)
        try:
            self._place()
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            raise InputError(
                f"training.synthetic.model: {config.model!r} does not fit in the memory of "
                f"{self._device}; set low_memory: offload, or device: cpu"
            ) from error
        self.batch_size = config.batch_size
        self.scheduler = type(self._pipe.scheduler).__name__

    def draw(self, orders: Sequence[Order], steps: int | None = None) -> list[Drawn]:
        """Draw pictures; when memory runs out the batch halves, for the rest of the run too.

        `steps` are denoising steps; None takes the configured number.

        Raises:
            InputError: a single picture does not fit in memory.
        """
        done: list[Drawn] = []
        while len(done) < len(orders):
            batch = orders[len(done) : len(done) + self.batch_size]
            try:
                done += self._draw(batch, steps or self._config.steps)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                if self._device == "cuda":
                    torch.cuda.empty_cache()
                if len(batch) == 1:
                    raise InputError(
                        f"training.synthetic: one picture of {self._config.size} pixels does not "
                        f"fit in the memory of {self._device}; set low_memory: offload, a "
                        "smaller size, or device: cpu"
                    ) from error
                self.batch_size = len(batch) // 2
                _log.warning("out of memory: going on with %d pictures a batch", self.batch_size)
        return done

    @functools.cached_property
    def seconds_a_picture(self) -> float:
        """An estimate, from one picture drawn with two steps; on the high side for short runs."""
        steps = min(_TRIAL_STEPS, self._config.steps)
        start = time.monotonic()
        self.draw([Order("a trial", 0)], steps)
        return (time.monotonic() - start) * self._config.steps / steps

    @property
    def is_slow(self) -> bool:
        """Whether an estimate should be given before the work begins."""
        return self._device == "cpu"

    def _draw(self, orders: Sequence[Order], steps: int) -> list[Drawn]:
        config = self._config
        wanted = {
            "prompt": [order.prompt for order in orders],
            "negative_prompt": [config.negative_prompt] * len(orders),
            "num_inference_steps": steps,
            "guidance_scale": config.guidance,
            "height": config.size,
            "width": config.size,
            "generator": [torch.Generator("cpu").manual_seed(order.seed) for order in orders],
            "output_type": "np",
        }
        accepted = self._accepted - (set() if config.negative_prompt else {"negative_prompt"})
        try:
            with torch.inference_mode():
                result = self._pipe(**{k: v for k, v in wanted.items() if k in accepted})
        except (TypeError, ValueError) as error:
            raise InputError(
                f"training.synthetic.model: {self._config.model!r}, a "
                f"{type(self._pipe).__name__}, does not draw from a prompt alone ({error}); "
                "expected a text-to-image pipeline"
            ) from error
        flags = getattr(result, "nsfw_content_detected", None) or [False] * len(orders)
        return [
            Drawn((np.nan_to_num(image) * 255).round().astype(np.uint8), bool(flag))
            for image, flag in zip(result.images, flags, strict=True)
        ]

    def _check_accepted(self) -> None:
        name = type(self._pipe).__name__
        if "prompt" not in self._accepted:
            raise InputError(
                f"training.synthetic.model: {self._config.model!r} is a {name}, which takes no "
                "prompt; expected a text-to-image pipeline"
            )
        if self._config.negative_prompt and "negative_prompt" not in self._accepted:
            raise InputError(
                f"training.synthetic.negative_prompt: {name} takes none; leave it empty"
            )

    def _place(self) -> None:
        mode = self._config.low_memory
        if mode == "auto":
            free = torch.cuda.mem_get_info()[0] if self._device == "cuda" else _SLICE_BELOW
            mode = "slicing" if free < _SLICE_BELOW else "off"
            mode = "offload" if free < _OFFLOAD_BELOW else mode
        if mode in ("slicing", "offload") and hasattr(self._pipe, "enable_attention_slicing"):
            self._pipe.enable_attention_slicing()
        if mode == "offload" and self._device != "cpu":
            self._pipe.enable_model_cpu_offload(device=self._device)
        else:
            self._pipe.to(self._device)


def model_folder(config: SyntheticConfig, root: Path) -> Path:
    """The folder with the model's files; a hub model is downloaded if it is not cached.

    Raises:
        InputError: there is no such model.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    local = local_folder(config, root)
    if local is not None:
        return local
    from diffusers import DiffusionPipeline

    try:
        folder = DiffusionPipeline.download(
            config.model, revision=config.revision, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        size = KNOWN_GB.get(config.model)
        raise explained(
            error,
            setting="training.synthetic.model",
            model=config.model,
            revision=config.revision,
            expected="a diffusers pipeline, such as CompVis/stable-diffusion-v1-4",
            size=f"about {size} GB" if size else "some GB",
        ) from error
    return Path(folder)


def local_folder(config: SyntheticConfig, root: Path) -> Path | None:
    """The model's folder if the project names one, by `root`, or None for a hub id.

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


def open_painter(config: SyntheticConfig, folder: Path) -> Painter:
    """Return the painter of these settings; a process loads each model once."""
    return _open_painter(config.model_dump_json(), folder, weights_digest(folder))


@functools.lru_cache(maxsize=1)
def _open_painter(config: str, folder: Path, _weights: str) -> Painter:
    return Painter(SyntheticConfig.model_validate_json(config), folder)


def _load(config: SyntheticConfig, folder: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # loading takes seconds; ours shows the pictures
    # Some repositories hold half-precision weights under names of their own, and only those.
    half = any(folder.rglob("*.fp16.safetensors"))
    whole = any(not p.stem.endswith(".fp16") for p in (folder / "unet").glob("*.safetensors"))
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant="fp16" if half and not whole else None,
        )
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder}: cannot be loaded as a diffusers pipeline ({error}); expected complete "
            "safetensors weights. Download it again"
        ) from error
    if (name := config.scheduler) is not None:
        compatible = {kind.__name__: kind for kind in pipe.scheduler.compatibles}
        if name not in compatible:
            raise InputError(
                f"training.synthetic.scheduler: got {name!r}; expected one of {sorted(compatible)}"
            )
        pipe.scheduler = compatible[name].from_config(pipe.scheduler.config)
    return pipe


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    signs = ("out of memory", "alloc_failed", "can't allocate", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
