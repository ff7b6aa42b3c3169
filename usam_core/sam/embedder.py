"""SAM's automatic mode as one call: images in, mask sets out."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from usam_core.masks import valid_hw
from usam_core.sam.grid import grid_points
from usam_core.sam.pooling import pool_in_masks
from usam_core.sam.tokens import decode
from usam_core.types import MASKS_PER_PROMPT, MaskSet

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

EMBED_REVISION = 1
"""Part of the store's fingerprint; raised when the same SAM and image give other numbers."""

ENCODER_BLOCK = "encoder"
STABILITY_OFFSET = 1.0
"""Stability is the IoU of the masks at logits above +1 and above -1."""

_POINTS_PER_BATCH = {"cpu": 10, "cuda": 100, "mps": 50}
_IMAGES_PER_BATCH = {"cpu": 4, "cuda": 8, "mps": 4}

_log = logging.getLogger(__name__)


class SamEmbedder:
    """Runs a SAM over a grid of points, in batches that never change the result.

    Args:
        sam: the model, in evaluation mode.
        name: its name, for the fingerprint.
        checkpoint_sha256: digest of its weights file.
        points_per_side: side of the grid.
        points_per_batch: prompts decoded at a time; None picks by device (on a CPU small batches
            stay in the cache: 10 is 30 % faster than 50, docs/decisions/0003-nano-sam.md).
        device: where the model runs.
    """

    def __init__(
        self,
        sam: "Sam",
        name: str,
        checkpoint_sha256: str,
        points_per_side: int = 10,
        points_per_batch: int | None = None,
        device: str = "cpu",
    ) -> None:
        # Two seconds (it brings all of torchvision), for which runs with nothing new do not wait.
        from segment_anything.utils.transforms import ResizeLongestSide

        self.sam = sam.to(device).eval()
        self.spec = embedder_spec(name, checkpoint_sha256, points_per_side)
        self.batch_size = _IMAGES_PER_BATCH[device]
        self._device = torch.device(device)
        self._points = grid_points(points_per_side)
        self._points_per_batch = points_per_batch or _POINTS_PER_BATCH[device]
        self._side = sam.image_encoder.img_size
        self._resize = ResizeLongestSide(self._side)

    @torch.inference_mode()
    def embed(self, images: Sequence[np.ndarray]) -> list[MaskSet]:
        """Return the mask set of each image.

        Args:
            images: uint8 (h, w, 3) each, RGB, of any sizes.
        """
        resized = [self._resize.apply_image(image) for image in images]
        frames = torch.stack([self._frame(image) for image in resized])
        embeddings, dense = self._encode(frames)
        return [
            self._masks(embeddings[i : i + 1], dense[i], image.shape[:2], resized[i].shape[:2])
            for i, image in enumerate(images)
        ]

    def _frame(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return self.sam.preprocess(pixels.to(self._device).float())

    def _encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        encoder = self.sam.image_encoder
        if hasattr(encoder, "embed_with_features"):
            return encoder.embed_with_features(frames)
        embeddings = encoder(frames)
        return embeddings, embeddings

    def _masks(
        self,
        embedding: Tensor,
        dense: Tensor,
        size_hw: tuple[int, int],
        input_hw: tuple[int, int],
    ) -> MaskSet:
        input_wh = np.array([input_hw[1], input_hw[0]], np.float32)
        points = torch.from_numpy(self._points * input_wh).to(self._device)
        size = self._points_per_batch
        pieces = [
            self._decode_some(embedding, dense, points[i : i + size], size_hw)
            for i in range(0, len(points), size)
        ]
        columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return MaskSet(
            points_xy=self._points.copy(),
            size_hw=(int(size_hw[0]), int(size_hw[1])),
            features={ENCODER_BLOCK: columns.pop(ENCODER_BLOCK)},
            **columns,
        )

    def _decode_some(
        self,
        embedding: Tensor,
        dense: Tensor,
        points: Tensor,
        size_hw: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        try:
            return self._columns(embedding, dense, points, size_hw)
        except torch.OutOfMemoryError:
            if len(points) == 1:
                raise
            half = (len(points) + 1) // 2
            self._points_per_batch = min(self._points_per_batch, half)
            _log.warning("out of memory on the device: decoding %d prompts at a time", half)
            torch.cuda.empty_cache()
        parts = [
            self._decode_some(embedding, dense, part, size_hw)
            for part in (points[:half], points[half:])
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _columns(
        self,
        embedding: Tensor,
        dense: Tensor,
        points: Tensor,
        size_hw: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        decoded = decode(self.sam, embedding, points)
        logits = decoded.logits
        rows, columns = valid_hw(size_hw, logits.shape[-1])
        logits[..., rows:, :] = -torch.inf
        logits[..., :, columns:] = -torch.inf
        masks = logits > self.sam.mask_threshold
        sure = (logits > self.sam.mask_threshold + STABILITY_OFFSET).sum((2, 3))
        possible = (logits > self.sam.mask_threshold - STABILITY_OFFSET).sum((2, 3))
        pooled = pool_in_masks(dense, masks, points / self._side)
        return {
            "tokens": decoded.tokens.flatten(1).cpu().numpy().astype(np.float16),
            "packed_masks": np.packbits(masks.cpu().numpy(), axis=-1),
            "predicted_iou": decoded.predicted_iou.cpu().numpy().astype(np.float32),
            "stability": (sure / possible.clamp(min=1)).cpu().numpy().astype(np.float32),
            ENCODER_BLOCK: pooled.cpu().numpy().astype(np.float16),
        }


def embedder_spec(name: str, checkpoint_sha256: str, points_per_side: int) -> dict[str, Any]:
    """Return what identifies an embedder's results, without loading it."""
    return {
        "model": name,
        "checkpoint_sha256": checkpoint_sha256,
        "points_per_side": points_per_side,
        "masks_per_prompt": MASKS_PER_PROMPT,
        "revision": EMBED_REVISION,
    }
