"""Fused attention with relative positions is the official attention of SAM's ViT."""

import copy

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from usam_core.sam.composed import FusedAttention, fuse_attention
from usam_core.sam.nano import untrained_nano_sam


@pytest.fixture(scope="module")
def encoder():
    """A ViT as SAM builds it, small: windows that need padding, and a global block."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ImageEncoderViT(
            img_size=96,
            patch_size=16,
            embed_dim=32,
            depth=2,
            num_heads=4,
            out_chans=16,
            use_rel_pos=True,
            rel_pos_zero_init=False,
            window_size=4,
            global_attn_indexes=(1,),
        ).eval()
        for value in encoder.parameters():
            value.data += 0.3 * torch.randn_like(value)
    return encoder


def test_a_fused_encoder_gives_the_official_embedding(encoder):
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    fused = copy.deepcopy(encoder)
    fuse_attention(fused)
    assert all(isinstance(block.attn, FusedAttention) for block in fused.blocks)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), encoder(images), rtol=0, atol=1e-4)


def test_fusing_keeps_the_checkpoints_names_and_happens_once(encoder):
    fused = copy.deepcopy(encoder)
    fuse_attention(fused)
    attention = fused.blocks[0].attn
    fuse_attention(fused)
    assert fused.blocks[0].attn is attention
    assert fused.state_dict().keys() == encoder.state_dict().keys()


def test_an_encoder_without_blocks_is_left_alone():
    nano = untrained_nano_sam().image_encoder
    before = [*nano.named_modules()]
    fuse_attention(nano)
    assert [*nano.named_modules()] == before
