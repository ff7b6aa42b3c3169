"""SAM's own mask decoder with its tokens: what the shared one is measured and tested against."""

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from usam_core.sam.decoder import FOREGROUND, MASK_TOKENS, Decoded


@torch.inference_mode()
def decode(sam: Sam, embedding: Tensor, points_xy: Tensor) -> Decoded:
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
