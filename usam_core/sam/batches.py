"""How much a device takes at a time, and what happens when that was too much."""

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")

_SHARE_OF_FREE = 0.5
"""Of the device's free memory; the rest is for what lies between the allocations."""
_PROMPT_BYTES_PER_PIXEL = 9 * 1024
"""Of one prompt in the decoder for each pixel of the embedding, in float32: measured 8.3 KB."""
_IMAGE_BYTES_PER_PIXEL = 1024**2
"""Of one image in a ViT-H encoder: its global attention's scores and mask are the largest part."""
_MAX_PROMPTS, _MAX_IMAGES = 800, 8  # larger batches fill no device better
_IMAGES = {"cpu": 1, "mps": 4}  # a CPU is quickest with what stays in its cache
_CPU_BYTES = 40 * 1024**2
"""More is slower: each large tensor then comes from the system anew (docs/speed.md)."""

_log = logging.getLogger(__name__)


def images_per_batch(device: torch.device, pixels: int) -> int:
    """Return how many images to encode at a time.

    Args:
        device: where.
        pixels: of one image's embedding.
    """
    if device.type != "cuda":
        return _IMAGES[device.type]
    free = _SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    return max(1, min(_MAX_IMAGES, int(free / (_IMAGE_BYTES_PER_PIXEL * pixels))))


def prompts_per_batch(device: torch.device, pixels: int) -> int:
    """Return how many prompts to decode at a time."""
    free = _CPU_BYTES if device.type == "cpu" else 2 * 1024**3
    if device.type == "cuda":
        free = int(_SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    return max(1, min(_MAX_PROMPTS, free // (_PROMPT_BYTES_PER_PIXEL * pixels)))


def next_batch(left: int, most: int) -> int:
    """Return how many of `left` to take at a time for batches that differ by one at most.

    A small last batch fills no device, and bfloat16 gives other numbers there (docs/speed.md).
    """
    return math.ceil(left / math.ceil(left / most))


class Limit:
    """A batch size that halves when the device's memory does not hold a batch.

    A failure is remembered for the runs to come, unless it was of a run much smaller than what has
    fitted: memory was short for a moment then.

    Args:
        what: what is counted, for the message.
        most: where it starts.
        padded: each batch is filled up to `most`, and takes as much memory.
    """

    def __init__(self, what: str, most: int, padded: bool = False) -> None:
        self._what = what
        self.most = most
        self.padded = padded
        self._fitted = 0
        self._told = False

    def run(self, work: Callable[[int, int], Made], count: int, each: int = 1) -> list[Made]:
        """Return what `work(start, stop)` gives for equal batches of `count` steps, in order.

        Args:
            work: called with the first step of a batch and the one behind its last.
            count: how many steps there are.
            each: how many of what is counted one step is; 1 if padded.

        Raises:
            torch.OutOfMemoryError: a single step is too much.
        """
        made: list[Made] = []
        start, most = 0, self.most
        while start < count:
            stop = start + next_batch(count - start, max(1, most // each))
            tried = self.most if self.padded else (stop - start) * each
            try:
                made.append(work(start, stop))
                self._fitted = max(self._fitted, tried)
                start = stop
                continue
            except torch.OutOfMemoryError:
                if tried <= each:
                    raise
            # Outside of the handler: the error's frames hold the tensors that must go.
            most = (tried + 1) // 2
            self._failed(tried, self.most if self.padded else min(self.most, count * each))
        return made

    def _failed(self, tried: int, full: int) -> None:
        """Remember that `tried` did not fit, in a run that takes `full` at a time where it may."""
        if 2 * full > min(self._fitted, self.most):
            self.most = (full + 1) // 2
        if not self._told:
            _log.warning(
                "out of memory on the device at %d %s at a time: halving that until they fit",
                tried,
                self._what,
            )
        self._told = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
