"""SAM 2.1, EdgeTAM and SAM 3's tracker of `transformers`, their decoder in `segment_anything`.

The two-way transformer, the upscaling and the heads of these models are those of SAM 1 under other
names, so their weights are put into SAM 1's modules, which `decoder.GridDecoder` runs; nothing may
be left over or missing. What is theirs alone: a sigmoid behind the IoU, a token that scores the
object, and two maps that are added while the masks are upscaled. `transformers` returns three
masks of a prompt, or one that may be another (`dynamic_multimask_via_stability`); here all four
come from their tokens.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from usam_core.errors import InputError
from usam_core.sam.backend import Asked, Backend
from usam_core.types import MASKS_PER_PROMPT

_LAYERS = 2
"""Of the two-way transformer, for which `composed` is written."""
_NAMES = (
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.mlp\.proj_in\.", ".mlp.lin1."),
    (r"\.mlp\.proj_out\.", ".mlp.lin2."),
    (r"^upscale_conv1\.", "output_upscaling.0."),
    (r"^upscale_layer_norm\.", "output_upscaling.1."),
    (r"^upscale_conv2\.", "output_upscaling.3."),
)
_FURTHER = ("conv_s0.", "conv_s1.", "obj_score_token.", "pred_obj_score_head.")
"""Parts of their decoder that SAM 1 has not; the first two are run with the encoder."""
_HEADS = re.compile(r"^(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.(.+)\.(weight|bias)$")


class TranslatedSam(Backend):
    """A SAM of `transformers` whose decoder `GridDecoder` runs.

    Args:
        model: a `Sam2Model`, `EdgeTamModel` or `Sam3TrackerModel`, in evaluation mode.
        mean, std: of red, green and blue from 0 to 1.
    """

    stretches = True
    mask_threshold = 0.0
    _mean: Tensor
    _std: Tensor

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.side = int(model.prompt_encoder.input_image_size)
        self.prompt_encoder = _prompt_encoder(model)
        self.mask_decoder = _mask_decoder(model)
        self.register_buffer("_mean", 255 * torch.tensor(mean)[:, None, None])
        self.register_buffer("_std", 255 * torch.tensor(std)[:, None, None])
        self.register_buffer(
            "further_tokens", model.mask_decoder.obj_score_token.weight.detach().clone()
        )
        self.eval()

    def image_position(self) -> Tensor:
        """See `Backend`; their image side has an embedding of its own."""
        return self.model.get_image_wide_positional_embeddings()

    def resized(self, image: np.ndarray) -> np.ndarray:
        """See `Backend`; as the model's own processor does, to the bit."""
        from torchvision.transforms.v2.functional import resize

        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        sides = [self.side, self.side]
        return resize(pixels, sides, antialias=True).permute(1, 2, 0).numpy()

    def frame(self, pixels: Tensor) -> Tensor:
        """See `Backend`."""
        return (pixels - self._mean) / self._std

    def encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """See `Backend`."""
        fine, middle, embedding = self.model.get_image_embeddings(frames)
        return embedding, embedding, middle, fine

    def prompted(self, encoded: Sequence[Tensor], asked: Asked) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        embedding, _, middle, fine = encoded
        done = self.model(
            image_embeddings=[fine, middle, embedding],
            input_points=None if asked.points_xy is None else asked.points_xy[None],
            input_labels=None if asked.kinds is None else asked.kinds[None],
            input_boxes=None if asked.box_xyxy is None else asked.box_xyxy[None],
            input_masks=asked.mask,
            multimask_output=asked.several,
        )
        return done.pred_masks[0], done.iou_scores[0]

    def enlarged(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """See `Backend`."""
        return functional.interpolate(logits, size_hw, mode="bilinear", align_corners=False)


def _prompt_encoder(model: Any) -> PromptEncoder:
    theirs = model.prompt_encoder
    side = theirs.input_image_size
    ours = PromptEncoder(theirs.hidden_size, theirs.image_embedding_size, (side, side), 4)
    ours.mask_downscaling = nn.Identity()  # no mask is ever a prompt here
    points = theirs.shared_embedding.positional_embedding
    weights = {"pe_layer.positional_encoding_gaussian_matrix": points}
    for number, row in enumerate(theirs.point_embed.weight):
        weights[f"point_embeddings.{number}.weight"] = row[None]
    for name in ("not_a_point_embed", "no_mask_embed"):
        weights[f"{name}.weight"] = getattr(theirs, name).weight
    ours.load_state_dict(weights)
    return ours


def _mask_decoder(model: Any) -> MaskDecoder:
    theirs = model.mask_decoder
    config = theirs.config
    if (config.num_hidden_layers, theirs.num_mask_tokens) != (_LAYERS, MASKS_PER_PROMPT):
        raise InputError(
            f"sam.checkpoint: its decoder has {config.num_hidden_layers} layers and "
            f"{theirs.num_mask_tokens} masks a prompt; expected {_LAYERS} and {MASKS_PER_PROMPT}, "
            "as all published ones have"
        )
    ours = MaskDecoder(
        transformer_dim=config.hidden_size,
        transformer=TwoWayTransformer(
            depth=_LAYERS,
            embedding_dim=config.hidden_size,
            num_heads=config.num_attention_heads,
            mlp_dim=config.mlp_dim,
            attention_downsample_rate=config.attention_downsample_rate,
        ),
        num_multimask_outputs=config.num_multimask_outputs,
        iou_head_depth=config.iou_head_depth,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
    )
    ours.iou_prediction_head.sigmoid_output = True
    depth = {"iou_prediction_head": config.iou_head_depth}
    weights = {
        _translated(name, depth): weight
        for name, weight in theirs.state_dict().items()
        if not name.startswith(_FURTHER)
    }
    ours.load_state_dict(weights)
    return ours


def _translated(name: str, depth: dict[str, int]) -> str:
    """A weight's name in SAM 1's decoder.

    >>> _translated("iou_prediction_head.proj_out.bias", {"iou_prediction_head": 3})
    'iou_prediction_head.layers.2.bias'
    """
    if match := _HEADS.match(name):
        head, layer, kind = match.groups()
        last = depth.get(head, 3) - 1
        number = {"proj_in": 0, "proj_out": last}.get(layer)
        if number is None:
            number = int(layer.removeprefix("layers.")) + 1
        return f"{head}.layers.{number}.{kind}"
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name)
    return name
