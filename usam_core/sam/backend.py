"""What the embedder asks of a SAM, and the first SAM as `segment_anything` builds it.

Every SAM that usam knows decodes points by the two-way transformer of the first one: a back-end
gives its parts as modules of `segment_anything`, and `decoder.GridDecoder` runs them all. What
they differ in stands here: how an image becomes a frame, what the encoder gives, further tokens.

    back-end            input frame                   embedding            masks
    SAM 1               longer side 1024, padded      256 x 64 x 64        256 x 256
    nano                longer side 320, padded       256 x 20 x 20         80 x  80
    SAM 2.1, EdgeTAM    stretched to 1024 x 1024      256 x 64 x 64        256 x 256
    SAM 3's tracker     stretched to 1008 x 1008      256 x 72 x 72        288 x 288
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor, nn

from usam_core.sam.composed import fuse_attention

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam


class Asked(NamedTuple):
    """k prompts on one image, in pixels of the frame.

    Attributes:
        points_xy: float32 (k, n, 2), n points of each; None without.
        kinds: int32 (k, n), 1 where a point belongs to the object, 0 where it does not.
        box_xyxy: float32 (k, 4).
        mask: float32 (k, 1, u, v), logits over the frame to start from.
        several: three masks for each prompt and not one.
    """

    points_xy: Tensor | None = None
    kinds: Tensor | None = None
    box_xyxy: Tensor | None = None
    mask: Tensor | None = None
    several: bool = False


class Backend(nn.Module):
    """A SAM, in evaluation mode.

    Attributes:
        side: of the square input frame, pixels.
        stretches: each side of an image fills the frame; else the longer one does, and the rest
            lies at the bottom or at the right.
        mask_threshold: logits above it are mask.
        prompt_encoder, mask_decoder: what `decoder.GridDecoder` runs.
        further_tokens: float32 (k, 256), what the transformer sees beside IoU, masks and prompt.
    """

    side: int
    stretches: bool
    mask_threshold: float
    prompt_encoder: "PromptEncoder"
    mask_decoder: "MaskDecoder"
    further_tokens: Tensor

    def image_position(self) -> Tensor:
        """What tells the decoder where on the image each pixel is, float32 (1, 256, rows, columns).

        Of the embedding's grid.
        """
        return self.prompt_encoder.get_dense_pe()

    def resized(self, image: np.ndarray) -> np.ndarray:
        """An image, uint8 (h, w, 3), RGB, as large as the frame takes it, (rows, columns, 3)."""
        raise NotImplementedError

    def frame(self, pixels: Tensor) -> Tensor:
        """A frame, float32 (3, side, side), of resized pixels, float32 (3, rows, columns)."""
        raise NotImplementedError

    def encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Encode frames (n, 3, side, side).

        Returns:
            The embedding (n, 256, rows, columns), dense features of the whole frame (n, f, any,
            any), and what the decoder adds while it upscales, if it does (`GridDecoder.share`).
        """
        raise NotImplementedError

    def prompted(self, encoded: Sequence[Tensor], asked: Asked) -> tuple[Tensor, Tensor]:
        """Answer the prompts of a person as the model's own code does.

        `encoded` is what `encode` gave for one image.

        Returns:
            Logits (k, m, u, v) over the frame, and predicted IoUs (k, m).
        """
        raise NotImplementedError

    def enlarged(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Logits (k, m, u, v) over the frame, at the size of the image: (k, m, h, w)."""
        raise NotImplementedError


class SegmentAnything(Backend):
    """SAM 1, and the nano SAM. The image encoder's attention is replaced by a faster one that
    gives the same."""

    stretches = False

    def __init__(self, sam: "Sam") -> None:
        # Two seconds (it brings all of torchvision), for which runs with nothing new do not wait.
        from segment_anything.utils.transforms import ResizeLongestSide

        super().__init__()
        fuse_attention(sam.image_encoder)
        self.sam = sam.eval()
        self.prompt_encoder, self.mask_decoder = sam.prompt_encoder, sam.mask_decoder
        self.further_tokens = sam.mask_decoder.iou_token.weight.detach()[:0]
        self.mask_threshold = sam.mask_threshold
        self.side = sam.image_encoder.img_size
        self._resize = ResizeLongestSide(self.side)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return self._resize.apply_image(image)

    def frame(self, pixels: Tensor) -> Tensor:
        """See `Backend`."""
        return self.sam.preprocess(pixels)

    def encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """See `Backend`."""
        encoder = self.sam.image_encoder
        if hasattr(encoder, "embed_with_features"):
            return encoder.embed_with_features(frames)
        return (encoder(frames),) * 2

    def prompted(self, encoded: Sequence[Tensor], asked: Asked) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        points = None if asked.points_xy is None else (asked.points_xy, asked.kinds)
        sparse, dense = self.prompt_encoder(points, asked.box_xyxy, asked.mask)
        return self.mask_decoder(
            image_embeddings=encoded[0],
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=asked.several,
        )

    def enlarged(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See `Backend`."""
        inner = self._resize.get_preprocess_shape(*size_hw, self.side)
        return self.sam.postprocess_masks(logits, inner, size_hw)
