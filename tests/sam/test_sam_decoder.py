"""The decoder that shares the image side says what the official one says, whatever the batches."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from benchmarks.official_decoder import decode
from usam_core.rng import generator
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.decoder import GridDecoder
from usam_core.sam.embedder import grid_points
from usam_core.sam.nano import build_nano_sam
from usam_core.sources.scenes import SHAPES, TRAINING_LOOK, scene

SIDE = 320


def random_sam(seed):
    """The decoder of the big models on a smaller grid; every weight, bias and norm at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = Sam(
            image_encoder=torch.nn.Identity(),
            prompt_encoder=PromptEncoder(256, (12, 12), (SIDE, SIDE), 16),
            mask_decoder=MaskDecoder(
                transformer_dim=256,
                transformer=TwoWayTransformer(2, 256, 8, 2048),
            ),
        ).eval()
        sam.image_encoder.img_size = SIDE
        for value in sam.parameters():
            value.data += 0.05 * torch.randn_like(value)
    return sam


def nano_case():
    sam = build_nano_sam()
    images = [
        scene(generator(3, n), list(SHAPES), (SIDE, SIDE), TRAINING_LOOK).image for n in range(2)
    ]
    frames = torch.stack([torch.from_numpy(x).permute(2, 0, 1).float() for x in images])
    with torch.inference_mode():
        return sam, sam.image_encoder(sam.preprocess(frames))


def random_case():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return random_sam(4), torch.randn(2, 256, 12, 12)


def faint_case():
    """An image side so faint that the norms' epsilon is most of their variance."""
    sam, embeddings = random_case()
    first, second = sam.mask_decoder.transformer.layers
    for faint in (
        sam.prompt_encoder.no_mask_embed,
        first.norm4,
        first.cross_attn_image_to_token.out_proj,
        second.cross_attn_image_to_token.out_proj,
    ):
        for value in faint.parameters():
            value.data *= 1e-3
    return sam, embeddings * 1e-3


@pytest.fixture(scope="module", params=[nano_case, random_case, faint_case])
def case(request):
    sam, embeddings = request.param()
    points = torch.from_numpy(grid_points(4)) * SIDE
    return sam, embeddings, torch.stack([points, points.flip(0) * 0.9])


@torch.inference_mode()
def ours(sam, embeddings, points):
    decoder = GridDecoder(SegmentAnything(sam))
    return decoder(decoder.share(embeddings), points)


def test_tokens_masks_and_ious_are_the_official_decoders(case):
    sam, embeddings, points = case
    found = ours(sam, embeddings, points)
    for i in range(len(embeddings)):
        official = decode(sam, embeddings[i : i + 1], points[i])
        for name in ("tokens", "logits", "predicted_iou"):
            a, b = getattr(found, name)[i], getattr(official, name)
            # Five orders below the values' own size: float32 sums in another order.
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()))


def test_the_batches_change_nothing(case):
    sam, embeddings, points = case
    whole = ours(sam, embeddings, points)
    for size in (1, 3, 16):
        parts = [ours(sam, embeddings, points[:, i : i + size]) for i in range(0, 16, size)]
        logits = torch.cat([part.logits for part in parts], dim=1)
        torch.testing.assert_close(logits, whole.logits, rtol=0, atol=1e-4)
    alone = ours(sam, embeddings[1:], points[1:])
    torch.testing.assert_close(alone.tokens[0], whole.tokens[1], rtol=0, atol=1e-4)


def test_in_bfloat16_masks_are_nearly_the_same():
    sam, embeddings, points = (*nano_case(), torch.from_numpy(grid_points(4))[None] * SIDE)
    exact = ours(sam, embeddings[:1], points).logits > 0
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(sam, embeddings[:1], points)
    masks = rounded.logits > 0
    union = (exact | masks).sum((3, 4))
    iou = ((exact & masks).sum((3, 4)) / union.clamp(min=1))[union > 20]
    assert iou.mean() > 0.95
    assert rounded.logits.dtype == torch.bfloat16
