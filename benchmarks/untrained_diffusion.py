"""Real Stable Diffusion pipelines with random weights: the v1 architecture, or one of toy size.

What they draw is noise; loading, time and memory are those of the real thing. The tests use the
toy, `stable_diffusion.py` beside this file the whole.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOY_SIZE = 32
"""Side of the toy's pictures, pixels."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz,"
_TOY: dict[str, dict[str, Any]] = {
    "text": {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "projection_dim": 32,
    },
    "unet": {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "sample_size": TOY_SIZE // 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
    },
    "vae": {"block_out_channels": [32, 64]},
}
_V1: dict[str, dict[str, Any]] = {
    "text": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    "unet": {
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "sample_size": 64,
        "down_block_types": (*3 * ("CrossAttnDownBlock2D",), "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *3 * ("CrossAttnUpBlock2D",)),
        "cross_attention_dim": 768,
    },
    "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
}


def save_untrained(
    folder: Path, *, toy: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a pipeline as `save_pretrained` does, and return its folder.

    Args:
        folder: where to; the pipeline lies in a folder of its own below.
        toy: the toy, or Stable Diffusion v1's whole architecture (2.1 GB in float16).
        seed: of the weights.
        dtype: of the weights.
    """
    sizes = _TOY if toy else _V1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(folder / "vocabulary")
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text = CLIPTextConfig(vocab_size=len(tokenizer), **ends, **sizes["text"])
        vae_blocks = len(sizes["vae"]["block_out_channels"])
        pipeline = StableDiffusionPipeline(
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                in_channels=4, out_channels=4, attention_head_dim=8, **sizes["unet"]
            ),
            vae=AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * vae_blocks,
                up_block_types=["UpDecoderBlock2D"] * vae_blocks,
                latent_channels=4,
                **sizes["vae"],
            ),
            scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    target = folder / ("tiny-sd" if toy else "untrained-sd-v1")
    pipeline.to(dtype=dtype).save_pretrained(target)
    return target


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Return CLIP's tokenizer with letters for words: prompts become longer, 77 tokens at most."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*_LETTERS, *(letter + "</w>" for letter in _LETTERS)]
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate([*words, *special])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77
    )
