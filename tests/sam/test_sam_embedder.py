"""The nano SAM and the embedder: what they find, what decides it, which weights are taken."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from segment_anything import SamPredictor
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide

from usam_core.config.schema import SamConfig
from usam_core.errors import InputError
from usam_core.masks.bits import unpack, valid_hw
from usam_core.rng import generator
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.embedder import SamEmbedder, grid_points, pool_in_masks
from usam_core.sam.load import choose_device, encoder_spec, load_sam, open_embedder
from usam_core.sam.nano import NANO_WEIGHTS, build_nano_sam, untrained_nano_sam
from usam_core.sources.scenes import SHAPES, TRAINING_LOOK, scene
from usam_core.store.layout import folder_name


@pytest.fixture(scope="module")
def nano():
    return build_nano_sam()


def drawn(number, size_hw=(96, 128)):
    return scene(generator(77, number), list(SHAPES), size_hw, TRAINING_LOOK, most=3)


def test_the_grid_finds_drawn_objects(nano):
    embedder = SamEmbedder(SegmentAnything(nano), "nano", "0", points_per_side=10)
    best = []
    for number in range(6):
        some = drawn(number, (160, 160))
        (found,) = embedder.embed([some.image])
        masks = unpack(found.packed_masks)[:, 1:]
        for value in range(1, len(some.names) + 1):
            truth = np.asarray(
                Image.fromarray((some.instances == value).astype(np.uint8)).resize((80, 80)), bool
            )
            shared = (masks & truth).sum((2, 3))
            best.append((shared / (masks | truth).sum((2, 3))).max())
    assert np.mean(best) > 0.65


@pytest.mark.parametrize("size_hw", [(96, 160), (200, 120)])
def test_an_embedding_is_what_the_official_predictor_says_of_the_image(nano, size_hw):
    """Colour order, resizing, the points' places, stability: nothing of ours in the way."""
    image = drawn(3, size_hw).image
    (found,) = SamEmbedder(SegmentAnything(nano), "nano", "0", points_per_side=4).embed([image])
    predictor = SamPredictor(nano)
    predictor.set_image(image)
    h, w = size_hw
    points = torch.from_numpy(grid_points(4) * np.array([w, h], np.float32))
    points = predictor.transform.apply_coords_torch(points, size_hw)
    labels = torch.ones(len(points), 1, dtype=torch.int)
    rows, columns = valid_hw(size_hw, 80)
    for multimask, ours in ((False, slice(0, 1)), (True, slice(1, 4))):
        _, iou, logits = predictor.predict_torch(
            points[:, None], labels, multimask_output=multimask, return_logits=True
        )
        np.testing.assert_allclose(found.predicted_iou[:, ours], iou, atol=1e-4)
        logits = logits[..., :rows, :columns]
        masks = unpack(found.packed_masks)[:, ours, :rows, :columns]
        assert (masks != (logits > 0).numpy()).mean() < 1e-3
        stability = calculate_stability_score(logits, 0.0, 1.0).numpy()
        large = (logits > -1).sum((2, 3)).numpy() > 20
        np.testing.assert_allclose(found.stability[:, ours][large], stability[large], atol=0.02)


def test_region_features_are_read_where_the_mask_is(nano):
    """Against a mean over whole feature cells, on an image whose sides differ."""
    some = drawn(5, (160, 160))
    image = some.image.copy()
    image[:, :80] = 0
    (found,) = SamEmbedder(SegmentAnything(nano), "nano", "0", points_per_side=4).embed([image])
    frame = nano.preprocess(
        torch.from_numpy(ResizeLongestSide(320).apply_image(image)).permute(2, 0, 1).float()
    )
    with torch.inference_mode():
        dense = nano.image_encoder.embed_with_features(frame[None])[1][0].numpy()
    masks = unpack(found.packed_masks)[:, 0].reshape(16, 20, 4, 20, 4).mean((2, 4))
    expected = np.einsum("dij,fij->df", masks, dense) / masks.sum((1, 2))[:, None].clip(1e-6)
    filled = masks.sum((1, 2)) > 1
    assert filled.sum() >= 8
    np.testing.assert_allclose(
        found.features["encoder"][filled, 0].astype(np.float32), expected[filled], atol=0.01
    )


def test_no_mask_reaches_into_the_padding(nano):
    (found,) = SamEmbedder(SegmentAnything(nano), "nano", "0", 3).embed([drawn(0, (60, 120)).image])
    masks = unpack(found.packed_masks)
    assert masks.shape[-2:] == (80, 80)
    assert not masks[..., 40:, :].any()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.timeout(1500)  # the C++ compiler works for minutes, on a busy machine for ten
def test_a_compiled_model_says_the_same_and_how_long_compiling_took(nano, caplog):
    caplog.set_level("INFO")
    images = [drawn(n).image for n in range(2)]
    expected = SamEmbedder(SegmentAnything(nano), "nano", "0", 2).embed(images)
    found = SamEmbedder(SegmentAnything(nano), "nano", "0", 2, compiled=True).embed(images)
    assert "compiled encoder and decoder in" in caplog.text
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.tokens, b.tokens, rtol=0, atol=0.02)
        np.testing.assert_allclose(a.predicted_iou, b.predicted_iou, rtol=0, atol=1e-4)
        assert np.bitwise_count(a.packed_masks ^ b.packed_masks).sum() <= 10


def test_bfloat16_is_another_store_and_nearly_the_same_masks(nano):
    image = drawn(3, (160, 160)).image
    exact = SamEmbedder(SegmentAnything(nano), "nano", "0", 4)
    rounded = SamEmbedder(SegmentAnything(nano), "nano", "0", 4, dtype="bfloat16")
    assert rounded.spec == {**exact.spec, "dtype": "bfloat16"}
    a, b = (unpack(one.embed([image])[0].packed_masks) for one in (exact, rounded))
    union = (a | b).sum((2, 3))
    iou = ((a & b).sum((2, 3)) / union.clip(1))[union > 20]
    assert iou.mean() > 0.95


def test_pooling_is_the_mean_inside_a_mask():
    dense = torch.arange(8.0).reshape(2, 2, 2)
    masks = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    masks[0, 0] = True  # everything
    masks[0, 1, :2, :2] = True  # one cell
    masks[0, 2, :2, :] = True
    masks[0, 2, 0, 2] = False  # a cell and three quarters of its neighbour
    pooled = pool_in_masks(dense, masks, torch.tensor([[0.75, 0.75]]))
    assert pooled[0, 0].tolist() == [1.5, 5.5]
    assert pooled[0, 1].tolist() == [0.0, 4.0]
    assert pooled[0, 2].tolist() == pytest.approx([0.75 / 1.75, 4 + 0.75 / 1.75])
    # An empty mask takes the feature under its point: the last cell.
    assert pooled[0, 3].tolist() == [3.0, 7.0]


def test_the_fingerprint_follows_model_grid_and_weights(tmp_path):
    base = encoder_spec(SamConfig(), None)
    assert encoder_spec(SamConfig(device="cpu", points_per_batch=3, compile=True), None) == base
    assert encoder_spec(SamConfig(points_per_side=9), None) != base
    assert encoder_spec(SamConfig(model="vit_b"), None) != base
    assert encoder_spec(SamConfig(dtype="bfloat16"), None) != base
    other = tmp_path / "other.safetensors"
    other.write_bytes(NANO_WEIGHTS.read_bytes() + b" ")
    assert encoder_spec(SamConfig(), other) != base


def test_an_embedder_is_loaded_once_a_process():
    assert open_embedder(SamConfig()) is open_embedder(SamConfig())


def test_shipped_weights_are_small_and_are_what_we_trained():
    assert NANO_WEIGHTS.stat().st_size <= 16e6
    # All that differs from the ImageNet backbone and from chance is in the file.
    whole, random = build_nano_sam().state_dict(), untrained_nano_sam().state_dict()
    shipped = load_file(NANO_WEIGHTS)
    differing = {name for name in whole if not torch.equal(whole[name], random[name])}
    assert differing <= set(shipped)
    assert len(differing) > 100
    assert not any(name.startswith("image_encoder.backbone") for name in differing)


@pytest.mark.parametrize(
    ("content", "config", "error", "message"),
    [
        (b"no checkpoint", SamConfig(model="vit_b"), InputError, "cannot read it as a SAM"),
        (b"no checkpoint", SamConfig(), InputError, "no weights of this version's nano SAM"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content, config, error, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        load_sam(config, path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_of_another_size_is_recognised(tmp_path):
    path = tmp_path / "sam.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1024)}, path)
    with pytest.raises(InputError, match="expected a checkpoint of vit_b, got vit_l"):
        load_sam(SamConfig(model="vit_b"), path)


class Evil:
    """Unpickling this would run code."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_pickle_that_runs_code_is_not_run(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"x": Evil()}, path)
    with pytest.raises(InputError):
        load_sam(SamConfig(model="vit_b"), path)
    assert "unpickled" not in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("auto") in {"cpu", "cuda", "mps"}
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"'cuda' is not on this machine.*'cpu'"):
            choose_device("cuda")


def test_the_fingerprints_of_old_stores_hold():
    """Stores of before the back-ends (2026-11-28) are found by these names."""
    names = [
        folder_name(encoder_spec(SamConfig(), None)),
        folder_name(encoder_spec(SamConfig(model="vit_b"), None)),
        folder_name(encoder_spec(SamConfig(dtype="bfloat16", points_per_side=7), None)),
    ]
    assert names == [
        "nano-35f5c7d351628f6e",
        "vit_b-751ccdb066f5dfe7",
        "nano-f8c0bdcdc9322dc3",
    ]
