"""Folders of real architectures with random weights, as `save_pretrained` writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from usam_core.masks.bits import pack, valid_hw
from usam_core.types import MaskSet

WORDS = ("a", "photo", "of", "the", "disc", "ring", "rod", "circle", ".", "is", "in", "scene")
TINY: dict[str, dict[str, Any]] = {
    "dinov2": {"patch_size": 14, "image_size": 56},
    "dinov2_with_registers": {"patch_size": 14, "image_size": 56, "num_register_tokens": 4},
    "dinov3_vit": {"patch_size": 16, "image_size": 64, "num_register_tokens": 4},
    "clip": {"patch_size": 16, "image_size": 64},
    "siglip": {"patch_size": 16, "image_size": 64},
    "siglip2": {"patch_size": 16, "num_patches": 16},
    "tipsv2": {"patch_size": 14, "image_size": 56, "num_register_tokens": 1},
    "metaclip_2": {"patch_size": 16, "image_size": 64},
    "radio": {"patch_size": 16, "image_size": 64, "max_img_size": 96},
}
WITH_TEXT = ("clip", "siglip", "siglip2", "tipsv2", "metaclip_2")
_BODY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
}
PUBLISHED = {
    "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "dinov2_with_registers": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "dinov3_vit": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "siglip": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "siglip2": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "tipsv2": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "metaclip_2": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "radio": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
}


def random_model(model_type: str, **changes: Any) -> Any:
    """Return a model of the architecture, every weight drawn at random, none zero or one."""
    from transformers import AutoConfig, AutoModel

    vision = {**_BODY, **TINY[model_type], **changes}
    if model_type in WITH_TEXT:
        text = {**_BODY, "vocab_size": 32, "max_position_embeddings": 16, "hidden_size": 24}
        text |= {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0, "projection_size": 32}
        if model_type in ("clip", "metaclip_2"):
            text.pop("projection_size")
            config = AutoConfig.for_model(
                model_type, vision_config=vision, text_config=text, projection_dim=20
            )
        else:
            if model_type == "tipsv2":  # one width, no projection
                text["hidden_size"] = text.pop("projection_size")
            config = AutoConfig.for_model(model_type, vision_config=vision, text_config=text)
    else:
        config = AutoConfig.for_model(model_type, **vision)
    torch.manual_seed(3)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def save_model(folder: Path, model_type: str, **changes: Any) -> Path:
    """Write a tiny model with what lies beside one on the hub, and return its folder."""
    random_model(model_type, **changes).save_pretrained(folder)
    mean, std = PUBLISHED[model_type]
    settings = {"image_mean": mean, "image_std": std, "resample": 3, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if model_type in WITH_TEXT:
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path, *, with_end: bool = True) -> None:
    from transformers import PreTrainedTokenizerFast

    numbers = {word: i for i, word in enumerate(("<pad>", "</s>", "<s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if with_end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    ).save_pretrained(folder)


def picture(size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return a picture of coarse coloured blocks, uint8 (h, w, 3)."""
    height, width = size_hw
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return blocks[np.arange(height) * 8 // height][:, np.arange(width) * 8 // width]


def mask_set(
    masks: np.ndarray, size_hw: tuple[int, int], points_xy: np.ndarray | None = None
) -> MaskSet:
    """Return masks, bool (d, 4, rows, columns) over the image, as SAM would give them."""
    d, _, rows, columns = masks.shape
    frame = max(rows, columns)
    assert valid_hw(size_hw, frame) == (rows, columns)
    framed = np.zeros((d, 4, frame, frame), bool)
    framed[:, :, :rows, :columns] = masks
    points = np.full((d, 2), 0.5, np.float32) if points_xy is None else points_xy
    return MaskSet(
        tokens=np.zeros((d, 1024), np.float16),
        packed_masks=pack(framed),
        predicted_iou=np.ones((d, 4), np.float32),
        stability=np.ones((d, 4), np.float32),
        points_xy=points.astype(np.float32),
        size_hw=size_hw,
    )
