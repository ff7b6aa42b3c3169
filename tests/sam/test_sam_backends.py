"""SAM 2.1, EdgeTAM and SAM 3's tracker say what `transformers` says, on random weights."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.sams import build
from tests.feature_models import picture
from tests.sam_models import CLASSES, NAMES, SIDES, random_sam, save_sam, tiny_config
from usam_core.config.model import SamConfig
from usam_core.errors import InputError
from usam_core.masks.bits import unpack, valid_hw
from usam_core.sam.decoder import GridDecoder
from usam_core.sam.embedder import SamEmbedder, grid_points, pool_in_masks
from usam_core.sam.hub_models import HUB_SAMS
from usam_core.sam.load import encoder_spec, load_backend, open_embedder
from usam_core.sam.translated import TranslatedSam

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def needs(kind):
    if kind == "edgetam":
        pytest.importorskip("timm")
    return kind


@pytest.fixture(scope="module", params=[*SIDES])
def kind(request):
    return needs(request.param)


@torch.inference_mode()
def reference(model, pixels, points):
    """What the model itself gives, and its decoder's own four masks, IoUs and tokens.

    Mask 0 alone is asked for without the rule that may give another in its place.
    """
    seen = []
    hook = model.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0])
    )
    labels = torch.ones(*points.shape[:2], 1, dtype=torch.int)
    asked = {"pixel_values": pixels, "input_points": points[:, :, None], "input_labels": labels}
    three = model(**asked, multimask_output=True)
    dynamic = model.mask_decoder.dynamic_multimask_via_stability
    model.mask_decoder.dynamic_multimask_via_stability = False
    one = model(**asked, multimask_output=False)
    model.mask_decoder.dynamic_multimask_via_stability = dynamic
    hook.remove()
    return (
        seen[0][:, :, 2:6],  # object score, IoU, mask 0 to 3, the point, padding
        torch.cat([one.pred_masks, three.pred_masks], dim=2),
        torch.cat([one.iou_scores, three.iou_scores], dim=2),
    )


@torch.inference_mode()
def ours(model, pixels, points):
    sam = TranslatedSam(model, *HALF)
    decoder = GridDecoder(sam)
    embedding, _, *details = sam.encode(pixels)
    return decoder(decoder.share(embedding, details), points)


def grid(side, per_side=3):
    points = torch.from_numpy(grid_points(per_side)) * side
    return torch.stack([points, points.flip(0) * 0.9])


def close(found, expected):
    # Five orders below the values' own size: float32 sums in another order.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("images", [1, 2])
def test_tokens_masks_and_ious_are_those_of_transformers(kind, images):
    model, points = random_sam(kind), grid(SIDES[kind])[:images]
    pixels = torch.randn(images, 3, SIDES[kind], SIDES[kind], generator=torch.Generator())
    tokens, logits, iou = reference(model, pixels, points)
    found = ours(model, pixels, points)
    close(found.tokens, tokens)
    close(found.logits, logits)
    close(found.predicted_iou, iou)
    assert found.predicted_iou.min() >= 0
    assert found.predicted_iou.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2.1_tiny", "sam2.1_base_plus", "edgetam"])
def test_at_the_published_size_it_is_what_transformers_says(name):
    needs(name)
    model = build(name)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
        points, pixels = grid(1024, 2)[:1], torch.randn(1, 3, 1024, 1024)
    tokens, logits, iou = reference(model, pixels, points)
    found = ours(model, pixels, points)
    assert found.logits.shape == (1, 4, 4, 256, 256)
    close(found.tokens, tokens)
    close(found.logits, logits)
    close(found.predicted_iou, iou)


@pytest.mark.parametrize("size_hw", [(60, 100), (100, 60), (64, 64), (300, 41)])
def test_an_image_of_any_shape_gives_what_the_models_own_processor_gives(kind, size_hw):
    """From pixels to stored masks: stretched in, unstretched out, at the image's aspect."""
    from transformers import Sam2ImageProcessor

    model, image, side = random_sam(kind), picture(size_hw, seed=2), SIDES[kind]
    mean, std = HUB_SAMS[NAMES[kind]].architecture.mean_and_std
    processor = Sam2ImageProcessor(
        size={"height": side, "width": side}, image_mean=mean, image_std=std
    )
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    points = torch.from_numpy(grid_points(3))
    tokens, logits, iou = reference(model, pixels, side * points[None])

    embedder = SamEmbedder(TranslatedSam(model, mean, std), NAMES[kind], "0", points_per_side=3)
    frame = embedder.sam.frame(embedder.prepare(image).pixels.float())
    torch.testing.assert_close(frame, pixels[0], rtol=0, atol=1e-5)
    (found,) = embedder.embed([image])
    expected_tokens = tokens[0].flatten(1).numpy()
    np.testing.assert_allclose(found.tokens.astype(np.float32), expected_tokens, atol=4e-3)
    np.testing.assert_allclose(found.predicted_iou, iou[0].numpy(), atol=1e-5)

    rows, columns = valid_hw(size_hw, 64)
    scaled = functional.interpolate(logits[0], (rows, columns), mode="bilinear")
    masks = unpack(found.packed_masks)
    assert masks.shape == (9, 4, 64, 64)
    differ = masks[:, :, :rows, :columns] != (scaled > 0).numpy()
    assert not differ[(scaled.abs() > 1e-4).numpy()].any()
    assert not masks[:, :, rows:].any()
    assert not masks[:, :, :, columns:].any()

    # Stability and pooling are of the frame that the model sees.
    native, embedding = logits[0], model.get_image_embeddings(pixels)[-1][0]
    sure, possible = ((native > t).sum((2, 3)) for t in (1, -1))
    np.testing.assert_allclose(found.stability, sure / possible.clamp(min=1), atol=2e-3)
    pooled = pool_in_masks(embedding, native > 0, points).numpy()
    np.testing.assert_allclose(found.features["encoder"].astype(np.float32), pooled, atol=5e-3)


def test_batches_and_bfloat16_change_rounding_only(kind):
    images = [picture((50, 70), seed) for seed in range(3)]

    def embedded(**settings):
        sam = TranslatedSam(random_sam(kind), *HALF)
        return SamEmbedder(sam, NAMES[kind], "0", 3, **settings).embed(images)

    whole, parts = embedded(), embedded(points_per_batch=2)
    rounded = embedded(dtype="bfloat16")
    for one, other, third in zip(whole, parts, rounded, strict=True):
        np.testing.assert_allclose(one.predicted_iou, other.predicted_iou, atol=1e-5)
        assert (unpack(one.packed_masks) != unpack(other.packed_masks)).mean() < 1e-3
        assert (unpack(one.packed_masks) != unpack(third.packed_masks)).mean() < 0.1


def folder_config(kind, folder):
    return SamConfig(model=NAMES[kind], checkpoint=folder, points_per_side=2)


def test_a_folder_is_loaded_and_known_by_its_content(kind, tmp_path):
    first, second = (save_sam(tmp_path / str(seed), kind, seed) for seed in (3, 4))
    specs = [encoder_spec(folder_config(kind, folder), folder) for folder in (first, second)]
    assert specs[0]["checkpoint_sha256"] != specs[1]["checkpoint_sha256"]
    assert {spec["model"] for spec in specs} == {NAMES[kind]}
    (found,) = open_embedder(folder_config(kind, first), first).embed([picture((30, 40))])
    expected = SamEmbedder(
        TranslatedSam(random_sam(kind), *HUB_SAMS[NAMES[kind]].architecture.mean_and_std),
        NAMES[kind],
        "0",
        2,
    ).embed([picture((30, 40))])[0]
    np.testing.assert_allclose(found.tokens, expected.tokens, rtol=0, atol=4e-3)
    # The pictures' own mean and deviation, where a file says so.
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 4]}
    (first / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_backend(folder_config(kind, first), first)._std.ravel().tolist() == [255, 510, 1020]
    assert encoder_spec(folder_config(kind, first), first) != specs[0]


@pytest.mark.parametrize("kind", ["sam2", "sam3"])
def test_the_hubs_files_are_those_of_the_video_model(kind, tmp_path):
    """`facebook/sam2.1-hiera-*` and `facebook/sam3` say so in config.json."""
    folder = save_sam(tmp_path / "model", kind)
    config = json.loads((folder / "config.json").read_text())
    if kind == "sam2":
        config["model_type"] = "sam2_video"
    else:
        config = {"model_type": "sam3_video", "tracker_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    (found,) = open_embedder(folder_config(kind, folder), folder).embed([picture((30, 40))])
    save_sam(tmp_path / "plain", kind)
    plain = folder_config(kind, tmp_path / "plain")
    (expected,) = open_embedder(plain, plain.checkpoint).embed([picture((30, 40))])
    np.testing.assert_allclose(found.tokens, expected.tokens, rtol=0, atol=4e-3)


def test_weights_that_lack_a_tensor_are_refused_by_its_name(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_sam(tmp_path / "model", kind)
    file = folder / "model.safetensors"
    weights = load_file(file)
    lost = "mask_decoder.transformer.layers.1.layer_norm4.weight"
    del weights[f"tracker_model.{lost}" if kind == "sam3" else lost]  # as the hub's are named
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"lack 1 tensors of a {CLASSES[kind]}, such as '{lost}'"):
        load_backend(folder_config(kind, folder), folder)


def test_a_folder_of_another_model_is_refused(tmp_path):
    folder = save_sam(tmp_path / "model", "sam2")
    with pytest.raises(InputError, match=r"model_type 'sam2'; expected one of \['sam3_tracker'"):
        encoder_spec(folder_config("sam3", folder), folder)
    with pytest.raises(InputError, match=r"has no config.json; expected the folder"):
        encoder_spec(folder_config("sam2", tmp_path), tmp_path)


def test_a_decoder_of_another_make_is_refused():
    config = tiny_config("sam2")
    config.mask_decoder_config.num_multimask_outputs = 2
    with pytest.raises(InputError, match="3 masks a prompt; expected 2 and 4"):
        TranslatedSam(random_sam("sam2", config), *HALF)
