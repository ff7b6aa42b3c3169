"""SAM's mask tokens: the one file that knows their order.

The decoder's transformer sees, for every prompt, the tokens [IoU, mask 0, mask 1, mask 2, mask 3,
prompt...]. Mask token 0 makes the single-mask output, 1 to 3 the multi-mask outputs. The public
API returns the masks but not the tokens, and with `multimask_output=True` drops mask 0: here all
four are kept, masks, IoUs and tokens in the same order.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from usam_core.types import MASKS_PER_PROMPT

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

MASK_TOKENS = slice(1, 1 + MASKS_PER_PROMPT)
FOREGROUND = 1


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the mask decoder says of some prompts.

    Attributes:
        tokens: float32 (d, 4, 256), mask tokens after the two-way transformer.
        logits: float32 (d, 4, u, v), low-resolution mask logits.
        predicted_iou: float32 (d, 4).
    """

    tokens: Tensor
    logits: Tensor
    predicted_iou: Tensor


@torch.inference_mode()
def decode(sam: "Sam", embedding: Tensor, points_xy: Tensor) -> Decoded:
    """Decode single-point foreground prompts of one image, all at once.

    Args:
        sam: the model.
        embedding: float32 (1, 256, rows, columns), one image's embedding.
        points_xy: float32 (d, 2), pixels of the model's input frame.
    """
    labels = torch.full((len(points_xy), 1), FOREGROUND, device=points_xy.device)
    sparse, dense = sam.prompt_encoder(points=(points_xy[:, None], labels), boxes=None, masks=None)
    seen: list[Tensor] = []
    # The decoder keeps its tokens to itself; its transformer's output is where they pass.
    hook = sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0])
    )
    try:
        logits, predicted_iou = sam.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    finally:
        hook.remove()
    return Decoded(seen[0][:, MASK_TOKENS], logits, predicted_iou)
