"""SAM's automatic mode as one call: images in, mask sets out, in batches that fit the device."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from usam_core.masks.bits import valid_hw
from usam_core.sam.backend import Backend
from usam_core.sam.decoder import Decoded, GridDecoder
from usam_core.types import MASKS_PER_PROMPT, MaskSet

Made = TypeVar("Made")
Columns = dict[str, Tensor]
"""What becomes of some images' mask sets, by name: tensors whose first axis are the images."""

EMBED_REVISION = 1
"""Part of the store's fingerprint; raised when the same SAM and image give other numbers."""

ENCODER_BLOCK = "encoder"
STABILITY_OFFSET = 1.0
"""Stability is the IoU of the masks at logits above +1 and above -1."""
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


def grid_points(points_per_side: int) -> np.ndarray:
    """The grid's points as fractions of the image, float32 (d, 2), row by row.

    Points lie at the centers of equal cells of the image itself, not of SAM's padded square, so
    that a wide image wastes none on its padding (the papers leave this open).

    >>> grid_points(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    centers = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    columns, rows = np.meshgrid(centers, centers)
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


@torch.inference_mode()
def pool_in_masks(dense: Tensor, masks: Tensor, points_xy: Tensor) -> Tensor:
    """Average dense features inside every mask.

    Masks are averaged down to the features' grid and serve there as weights, so that a mask
    smaller than a cell still reads its own cell. An empty mask takes the feature at its point.

    Args:
        dense: float32 (f, rows, columns), features of one image over the model's input frame.
        masks: bool (d, m, u, v), over the same frame; padding must be False.
        points_xy: float32 (d, 2), the prompts as fractions of the frame.

    Returns:
        float32 (d, m, f).
    """
    f, rows, columns = dense.shape
    d, m = masks.shape[:2]
    weights = functional.adaptive_avg_pool2d(masks.float(), (rows, columns)).flatten(2)
    total = weights.sum(dim=2, keepdim=True)
    empty = total == 0
    cell = (points_xy * points_xy.new_tensor([columns, rows])).long()
    at = cell[:, 1].clamp(0, rows - 1) * columns + cell[:, 0].clamp(0, columns - 1)
    fallback = functional.one_hot(at, rows * columns).to(weights)[:, None].expand(d, m, -1)
    weights = torch.where(empty, fallback, weights / total.clamp(min=1e-12))
    return weights @ dense.reshape(f, -1).T


def without_padding(logits: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
    """Let no mask lie where frames are padded: logits (i, ..., u, v) of images of some sizes."""
    for one, size_hw in zip(logits, sizes, strict=True):
        rows, columns = valid_hw(size_hw, logits.shape[-1])
        one[..., rows:, :] = -torch.inf
        one[..., :, columns:] = -torch.inf


def unstretched(logits: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return logits (i, p, m, u, v) over stretched frames as they lie over padded ones.

    They are scaled as the model's own processor scales them to the image, but to its part of the
    padded frame: so every store holds masks in one kind of frame, and pixels are square.
    """
    framed = torch.full_like(logits, -torch.inf)
    for one, found, size_hw in zip(framed, logits, sizes, strict=True):
        rows, columns = valid_hw(size_hw, logits.shape[-1])
        one[..., :rows, :columns] = functional.interpolate(
            found, (rows, columns), mode="bilinear", align_corners=False
        )
    return framed


def pack(masks: Tensor) -> Tensor:
    """Return masks with 8 columns a byte as `numpy.packbits` does, uint8 (..., b) of (..., v).

    On a CPU they stay bool: `land` packs them there, behind the loop.
    """
    if masks.device.type == "cpu":
        return masks
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=masks.device)
    return (masks.unflatten(-1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)


def land(columns: Columns) -> Callable[[], list[dict[str, np.ndarray]]]:
    """Begin to copy columns to main memory.

    Returns:
        What waits for the copies and returns each image's values; any thread may call it.
    """
    first = next(iter(columns.values()))
    if first.device.type != "cuda":
        copies, arrived = {name: column.cpu() for name, column in columns.items()}, None
    else:
        copies = {
            name: torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(
                column, non_blocking=True
            )
            for name, column in columns.items()
        }
        arrived = torch.cuda.Event()
        arrived.record()

    def wait() -> list[dict[str, np.ndarray]]:
        if arrived is not None:
            arrived.synchronize()
        arrays = {name: copy.numpy() for name, copy in copies.items()}
        for name, array in arrays.items():
            if array.dtype == bool:
                arrays[name] = np.packbits(array, axis=-1)
        return [{name: array[i] for name, array in arrays.items()} for i in range(len(first))]

    return wait


def images_per_batch(device: torch.device, pixels: int) -> int:
    """How many images to encode at a time; `pixels` are those of one image's embedding."""
    if device.type != "cuda":
        return _IMAGES[device.type]
    free = _SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    return max(1, min(_MAX_IMAGES, int(free / (_IMAGE_BYTES_PER_PIXEL * pixels))))


def prompts_per_batch(device: torch.device, pixels: int) -> int:
    """How many prompts to decode at a time."""
    free = _CPU_BYTES if device.type == "cpu" else 2 * 1024**3
    if device.type == "cuda":
        free = int(_SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    return max(1, min(_MAX_PROMPTS, free // (_PROMPT_BYTES_PER_PIXEL * pixels)))


def next_batch(left: int, most: int) -> int:
    """How many of `left` to take now, at most `most`, for batches that differ by one at most.

    A small last batch fills no device, and bfloat16 gives other numbers there (docs/speed.md).
    """
    return math.ceil(left / math.ceil(left / most))


class Limit:
    """A batch size that halves when the device's memory does not hold a batch.

    A failure is remembered for the runs to come, unless it was of a run much smaller than what has
    fitted: memory was short for a moment then. A padded batch is filled up to `most`, and takes as
    much memory.
    """

    def __init__(self, what: str, most: int, padded: bool = False) -> None:
        self._what = what
        self.most = most
        self.padded = padded
        self._fitted = 0
        self._warned = False

    def run(self, work: Callable[[int, int], Made], count: int, each: int = 1) -> list[Made]:
        """Return what `work(start, stop)` gives for equal batches of `count` steps, in order.

        A step is `each` of what is counted (1 if padded). `torch.OutOfMemoryError`: a single step
        is too much.
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
        if not self._warned:
            message = "out of memory on the device at %d %s at a time: halving that until they fit"
            _log.warning(message, tried, self._what)
        self._warned = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the model wants it.

    Attributes:
        pixels: uint8 (3, rows, columns), as `Backend.resized` gives them.
        size_hw: rows and columns of the image itself.
    """

    pixels: Tensor
    size_hw: tuple[int, int]


class SamEmbedder:
    """Runs a SAM over a grid of points, in equal batches.

    Their size changes results by rounding, because kernels follow from it. Measured on a CPU:
    float32, 1 of 15 million mask bits and predicted IoUs by 2e-6 at most; bfloat16, masks with a
    mean IoU above 0.99, predicted IoUs by 0.04 at most (docs/speed.md, "Batches").

    Args:
        sam: the model.
        name, checkpoint_sha256: what the fingerprint says of it.
        points_per_side: side of the grid.
        points_per_batch: prompts decoded at a time, at most; None picks by device and free memory.
        dtype: of the matrix products, "float32" or "bfloat16".
        compiled: compile encoder and decoder at the first batch (`torch.compile`).
    """

    def __init__(
        self,
        sam: Backend,
        name: str,
        checkpoint_sha256: str,
        points_per_side: int = 10,
        points_per_batch: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        compiled: bool = False,
    ) -> None:
        self.sam = sam.to(device).eval()
        self.spec = embedder_spec(name, checkpoint_sha256, points_per_side, dtype)
        self.device = torch.device(device)
        self._dtype = getattr(torch, dtype)
        self._points = grid_points(points_per_side)
        self._decoder = GridDecoder(self.sam)
        pixels = math.prod(sam.prompt_encoder.image_embedding_size)
        # What is compiled is for one batch size, up to which each batch is filled.
        images = images_per_batch(self.device, pixels)
        self._images = Limit("images", images, padded=compiled)
        self._prompts = Limit("prompts", points_per_batch or prompts_per_batch(self.device, pixels))
        self._to_compile = compiled
        self._encode, self._decode = self.sam.encode, self._decoder.__call__

    @property
    def batch_size(self) -> int:
        """How many images to give `submit` at a time."""
        return self._images.most

    def embed(self, images: Sequence[np.ndarray]) -> list[MaskSet]:
        """Return the mask set of each image, uint8 (h, w, 3), RGB, of any sizes."""
        return self.submit([self.prepare(image) for image in images])()

    def prepare(self, image: np.ndarray) -> Prepared:
        """Resize an image, uint8 (h, w, 3), RGB, to the model's input; any thread may."""
        resized = np.ascontiguousarray(self.sam.resized(image).transpose(2, 0, 1))
        height, width = image.shape[:2]
        return Prepared(torch.from_numpy(resized), (int(height), int(width)))

    @torch.inference_mode()
    def submit(self, images: Sequence[Prepared]) -> Callable[[], list[MaskSet]]:
        """Have the device embed images; one thread at a time may.

        Returns:
            What waits for the device and returns the mask set of each image; any thread may call
            it, while the device goes on with the next images.
        """
        if self._to_compile and images:
            self._compile(images[:1])
        batches = self._images.run(lambda a, b: self._batch(images[a:b]), len(images))
        landed = [land(batch) for batch in batches]
        sizes = [image.size_hw for image in images]
        return lambda: [
            self._mask_set(row, size_hw)
            for row, size_hw in zip((r for wait in landed for r in wait()), sizes, strict=True)
        ]

    def _batch(self, images: Sequence[Prepared]) -> Columns:
        count = len(images)
        if self._images.padded:
            images = [*images, *[images[-1]] * (self._images.most - count)]
        pixels = [image.pixels.to(self.device, non_blocking=True).float() for image in images]
        frames = torch.stack([self.sam.frame(frame) for frame in pixels])
        # Columns before rows, as points are.
        sides = [np.array(image.pixels.shape[:0:-1], np.float32) for image in images]
        points = torch.from_numpy(np.stack([self._points * side for side in sides]))
        points = points.to(self.device)
        with self._precision():
            encoded = self._encode(frames)
        embeddings, dense, *details = (one.float() for one in encoded)
        shared = self._decoder.share(embeddings, details)

        def columns(start: int, stop: int) -> Columns:
            some = points[:, start:stop]
            with self._precision():
                decoded = self._decode(shared, some)
            return self._columns(decoded, dense, some, images)

        parts = self._prompts.run(columns, points.shape[1], each=len(images))
        return {name: torch.cat([part[name] for part in parts], dim=1)[:count] for name in parts[0]}

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def _columns(
        self, decoded: Decoded, dense: Tensor, points: Tensor, images: Sequence[Prepared]
    ) -> Columns:
        logits = decoded.logits
        threshold, sizes = self.sam.mask_threshold, [image.size_hw for image in images]
        if not self.sam.stretches:
            without_padding(logits, sizes)
        masks = logits > threshold
        sure = (logits > threshold + STABILITY_OFFSET).sum((3, 4))
        possible = (logits > threshold - STABILITY_OFFSET).sum((3, 4))
        pooled = [
            pool_in_masks(*one) for one in zip(dense, masks, points / self.sam.side, strict=True)
        ]
        if self.sam.stretches:
            masks = unstretched(logits, sizes) > threshold
        return {
            "tokens": decoded.tokens.flatten(2).half(),
            "packed_masks": pack(masks),
            "predicted_iou": decoded.predicted_iou.float(),
            "stability": (sure / possible.clamp(min=1)).float(),
            ENCODER_BLOCK: torch.stack(pooled).half(),
        }

    def _mask_set(self, row: dict[str, np.ndarray], size_hw: tuple[int, int]) -> MaskSet:
        features = {ENCODER_BLOCK: row.pop(ENCODER_BLOCK)}
        return MaskSet(points_xy=self._points.copy(), size_hw=size_hw, features=features, **row)

    def _compile(self, images: Sequence[Prepared]) -> None:
        """Compile encoder and decoder for full batches, and say how long it took."""
        self._to_compile = False
        self._encode = torch.compile(self._encode, dynamic=False)
        self._decode = torch.compile(self._decode, dynamic=False)
        started = time.perf_counter()
        for batch in self._images.run(lambda a, b: self._batch(images[a:b]), len(images)):
            land(batch)()
        _log.info("compiled encoder and decoder in %.0f s", time.perf_counter() - started)


def embedder_spec(
    name: str, checkpoint_sha256: str, points_per_side: int, dtype: str = "float32"
) -> dict[str, Any]:
    """What identifies an embedder's results, without loading it."""
    spec = {
        "model": name,
        "checkpoint_sha256": checkpoint_sha256,
        "points_per_side": points_per_side,
        "masks_per_prompt": MASKS_PER_PROMPT,
        "revision": EMBED_REVISION,
    }
    return spec if dtype == "float32" else {**spec, "dtype": dtype}
