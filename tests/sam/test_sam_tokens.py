"""SAM's token order, proven on a ViT-B of random weights against the official predictor."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from benchmarks.official_decoder import decode
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.embedder import SamEmbedder, grid_points

POINTS = torch.tensor([[100.0, 200.0], [700.0, 300.0], [512.0, 700.0]])


@torch.inference_mode()
def masks_from_tokens(sam, tokens, upscaled):
    """Recompute mask logits, float32 (d, 4, u, v), through the model's own hypernetworks."""
    networks = sam.mask_decoder.output_hypernetworks_mlps
    weights = torch.stack([net(tokens[:, i]) for i, net in enumerate(networks)], dim=1)
    return torch.einsum("dmk,dkuv->dmuv", weights, upscaled)


@pytest.fixture(scope="module")
def vit_b():
    """A ViT-B whose weights are random: the numbers mean nothing, their order everything."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sam_model_registry["vit_b"]().eval()


@pytest.fixture(scope="module")
def predictor(vit_b):
    predictor = SamPredictor(vit_b)
    image = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    predictor.set_image(image)
    return predictor


def official(predictor, multimask):
    labels = torch.ones(len(POINTS), 1, dtype=torch.int)
    _, iou, logits = predictor.predict_torch(
        POINTS[:, None], labels, multimask_output=multimask, return_logits=True
    )
    return iou, logits


@pytest.mark.slow
@pytest.mark.parametrize(("multimask", "ours"), [(False, slice(0, 1)), (True, slice(1, 4))])
def test_masks_and_ious_equal_the_official_predictors(vit_b, predictor, multimask, ours):
    iou, logits = official(predictor, multimask)
    decoded = decode(vit_b, predictor.get_image_embedding(), POINTS)
    assert torch.equal(decoded.logits[:, ours], logits)
    assert torch.equal(decoded.predicted_iou[:, ours], iou)


@pytest.mark.slow
def test_masks_recomputed_from_the_tokens_equal_the_models(vit_b, predictor):
    embedding = predictor.get_image_embedding()
    seen = []
    hook = vit_b.mask_decoder.output_upscaling.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    decoded = decode(vit_b, embedding, POINTS)
    hook.remove()
    assert decoded.tokens.shape == (3, 4, 256)
    again = masks_from_tokens(vit_b, decoded.tokens, seen[0])
    torch.testing.assert_close(again, decoded.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_stored_float16_tokens_make_the_same_masks_up_to_rounding(vit_b, predictor):
    seen = []
    hook = vit_b.mask_decoder.output_upscaling.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    decoded = decode(vit_b, predictor.get_image_embedding(), POINTS)
    hook.remove()
    stored = decoded.tokens.half().flatten(1).float().unflatten(1, (4, 256))
    again = masks_from_tokens(vit_b, stored, seen[0])
    assert ((again > 0) == (decoded.logits > 0)).float().mean() > 0.995


@pytest.mark.slow
def test_the_embedder_runs_the_real_architecture(vit_b):
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    (found,) = SamEmbedder(SegmentAnything(vit_b), "vit_b", "0" * 64, points_per_side=2).embed(
        [image]
    )
    assert found.tokens.shape == (4, 1024)
    assert found.packed_masks.shape == (4, 4, 256, 32)
    assert found.features["encoder"].shape == (4, 4, 256)
    assert found.size_hw == (40, 60)
    # The padding below a wide image holds no mask.
    assert not found.packed_masks[:, :, 171:].any()


def test_the_grid_lies_at_cell_centers():
    grid = grid_points(10)
    assert grid.shape == (100, 2)
    assert grid.min() == pytest.approx(0.05)
    assert grid.max() == pytest.approx(0.95)
    # Row by row: the column moves first.
    assert grid[1] == pytest.approx([0.15, 0.05])
