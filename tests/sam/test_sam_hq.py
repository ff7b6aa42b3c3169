"""Why SAM-HQ of `transformers` is refused: its masks are not those of its own tokens."""

import itertools

import pytest
import torch
from pydantic import ValidationError

from tests.sam_models import random_sam
from usam_core.config.model import SamConfig
from usam_core.errors import InputError
from usam_core.sam.load import encoder_spec


@torch.inference_mode()
def masks_and_masks_of_tokens(model, side, first):
    """Three masks of two points as returned, and as they follow from tokens and image side."""
    seen = []
    model.mask_decoder.transformer.register_forward_hook(lambda _m, _i, out: seen.append(out))
    details = []
    decoder = model.mask_decoder
    points = torch.tensor([[[[60.0, 90.0]], [[120.0, 30.0]]]])
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator())
    labels = torch.ones(1, 2, 1, dtype=torch.int)
    out = model(pixel_values=pixels, input_points=points, input_labels=labels)
    if hasattr(decoder, "conv_s0"):
        details = model.get_image_embeddings(pixels)[:2]
    tokens, image = seen[0]
    grid = round(image.shape[2] ** 0.5)
    image = image.transpose(2, 3).reshape(2, 256, grid, grid)
    up = decoder.upscale_conv1(image) + (details[1] if details else 0)
    up = decoder.activation(decoder.upscale_layer_norm(up))
    up = decoder.activation(decoder.upscale_conv2(up) + (details[0] if details else 0))
    networks = decoder.output_hypernetworks_mlps
    weights = [networks[i](tokens[:, :, first + i]) for i in range(4)]
    masks = torch.einsum("bpmk,pkuv->bpmuv", torch.stack(weights, dim=2), up)
    return out, masks[:, :, 1:]


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def tiny_hq():
    import transformers

    config = transformers.SamHQConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "image_size": 256,
            "output_channels": 256,
            "mlp_dim": 48,
        },
        prompt_encoder_config={"image_size": 256, "image_embedding_size": 16},
        mask_decoder_config={"mlp_dim": 64, "vit_dim": 32},
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.SamHQModel(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def test_masks_of_sam_hq_do_not_follow_from_its_tokens():
    """The day this fails, transformers is right again, and SAM-HQ may be offered."""
    out, expected = masks_and_masks_of_tokens(tiny_hq(), 256, first=1)
    # SAM-HQ sorts the three by predicted IoU: the best order counts for it.
    found = out.pred_masks
    for point in range(2):
        best = max(
            correlation(found[:, point], expected[:, point, list(order)])
            for order in itertools.permutations(range(3))
        )
        assert best < 0.9


def test_masks_of_sam_2_follow_from_its_tokens():
    out, expected = masks_and_masks_of_tokens(random_sam("sam2"), 256, first=2)
    torch.testing.assert_close(out.pred_masks, expected, rtol=0, atol=1e-5)


def test_sam_hq_is_refused_by_name_and_by_folder(tmp_path):
    with pytest.raises(ValidationError, match="SAM-HQ of transformers gives wrong masks"):
        SamConfig(model="sam_hq_large")
    tiny_hq().save_pretrained(tmp_path / "hq")
    config = SamConfig(model="sam2.1_large", checkpoint=tmp_path / "hq")
    with pytest.raises(InputError, match=r"holds SAM-HQ.*decoder throws away.*take sam.model"):
        encoder_spec(config, config.checkpoint)
