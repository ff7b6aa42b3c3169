"""Folders of tiny SAM 2.1, EdgeTAM and SAM 3 of `transformers` with random weights."""

from pathlib import Path
from typing import Any

import torch

SIDES = {"sam2": 256, "edgetam": 256, "sam3": 224}
"""Of the input frame; masks are 64 x 64 in each."""
_DECODER = {"mlp_dim": 64, "hidden_size": 256, "num_attention_heads": 8}


def tiny_config(kind: str) -> Any:
    """A configuration of the architecture: encoder tiny, decoder of the real width."""
    import transformers

    prompt = {"image_size": SIDES[kind], "patch_size": SIDES[kind] // 16, "hidden_size": 256}
    parts: dict[str, Any] = {"prompt_encoder_config": prompt, "mask_decoder_config": _DECODER}
    sizes = [[64, 64], [32, 32], [16, 16]]
    if kind == "sam2":
        hiera = {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 16,
            "image_size": [256, 256],
            "blocks_per_stage": [1, 1, 2, 1],
            "embed_dim_per_stage": [16, 32, 48, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [8, 4, 14, 7],
            "global_attention_blocks": [3],
        }
        vision = {
            "model_type": "sam2_vision_model",
            "backbone_config": hiera,
            "backbone_channel_list": [64, 48, 32, 16],
            "backbone_feature_sizes": sizes,
        }
        return transformers.Sam2Config(vision_config=vision, **parts)
    if kind == "edgetam":
        backbone = {
            "model_type": "timm_wrapper",
            "architecture": "repvit_m1",
            "num_classes": 10,
            "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
        }
        vision = {
            "model_type": "edgetam_vision_model",
            "backbone_config": backbone,
            "backbone_feature_sizes": sizes,
        }
        return transformers.EdgeTamConfig(vision_config=vision, **parts)
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 224,
        "window_size": 8,
        "global_attn_indexes": [1],
        "pretrain_image_size": 112,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": vit,
        "backbone_feature_sizes": sizes,
    }
    return transformers.Sam3TrackerConfig(vision_config=vision, **parts)


CLASSES = {"sam2": "Sam2Model", "edgetam": "EdgeTamModel", "sam3": "Sam3TrackerModel"}
NAMES = {"sam2": "sam2.1_tiny", "edgetam": "edgetam", "sam3": "sam3"}
"""What `sam.model` calls them."""


def random_sam(kind: str, config: Any = None, seed: int = 3) -> Any:
    """A model whose every weight is drawn at random, none zero or one."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, CLASSES[kind])(config or tiny_config(kind))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def save_sam(folder: Path, kind: str, seed: int = 3) -> Path:
    """Write a tiny SAM as `save_pretrained` does, and return its folder."""
    random_sam(kind, seed=seed).save_pretrained(folder)
    return folder
