"""Dense region features: against direct calls of the models, on grids of any shape."""

import numpy as np
import pytest
import torch

from tests.feature_models import TINY, mask_set, picture, random_model, save_model
from usam_core.config.model import FeatureConfig
from usam_core.errors import InputError
from usam_core.features.encoder import build_tower, open_encoder
from usam_core.features.model import find_model, load_model, read_kind
from usam_core.features.regions import grid_of, in_batches, normalized_pixels

CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # float16 keeps three digits
DINO_LIKE = ["dinov2", "dinov2_with_registers", "dinov3_vit"]
SIZES = [(48, 64), (64, 64), (64, 24), (8, 64)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for model_type in TINY:
        save_model(root / model_type, model_type)
    return root


def encoder(root, model_type, **settings):
    return open_encoder(FeatureConfig(model=model_type, **settings), "cpu", root)


def tower(root, model_type):
    files = find_model(FeatureConfig(model=model_type), root)
    return build_tower(files.kind, load_model(files)), files.kind


@pytest.mark.parametrize("model", ["/gone/clip", "./clip", "~/clip", "models/of/clip"])
def test_a_folder_that_is_not_there_is_named_and_no_hub_is_asked(tmp_path, monkeypatch, model):
    monkeypatch.setattr("usam_core.features.model._download", pytest.fail)
    with pytest.raises(InputError, match=f"got '{model}', but there is no folder .*clip; put it"):
        find_model(FeatureConfig(model=model), tmp_path)


def pixels_of(root, model_type, grid, seed=0):
    kind = read_kind(root / model_type, FeatureConfig(model=model_type))
    image = picture((grid[0] * kind.patch, grid[1] * kind.patch), seed)
    return image, normalized_pixels([image], kind.normalization)


def single_patches(grid, cells=4):
    """One mask a patch of the grid, as SAM would give them."""
    rows, columns = grid
    masks = np.zeros((rows * columns, 4, rows * cells, columns * cells), bool)
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        masks[i, :, row * cells : (row + 1) * cells, column * cells : (column + 1) * cells] = True
    return masks


@pytest.mark.parametrize("grid", [(4, 4), (4, 3), (2, 4)])
@pytest.mark.parametrize("model_type", [*DINO_LIKE, "tipsv2"])
def test_a_masks_vector_is_its_patchs_token_and_no_other_token(models, model_type, grid):
    image, pixels = pixels_of(models, model_type, grid)
    model = random_model(model_type)
    with torch.no_grad():
        tokens = getattr(model, "vision_model", model)(pixel_values=pixels).last_hidden_state[0]
    others = len(tokens) - grid[0] * grid[1]
    assert others == 1 + TINY[model_type].get("num_register_tokens", 0)
    found = encoder(models, model_type).describe(
        [image], [mask_set(single_patches(grid), image.shape[:2])]
    )[0]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found[:, 0], tokens[others:].numpy(), **CLOSE)


@pytest.mark.parametrize("grid", [(4, 4), (3, 4)])
@pytest.mark.parametrize("model_type", ["clip", "metaclip_2"])
def test_clips_patches_are_the_last_layers_values_among_the_texts(models, model_type, grid):
    image, pixels = pixels_of(models, model_type, grid)
    model = random_model(model_type)
    vision = model.vision_model
    with torch.no_grad():
        states = vision.embeddings(pixels, interpolate_pos_encoding=True)
        states = vision.pre_layrnorm(states)
        *before, last = vision.encoder.layers
        for layer in before:
            states = layer(states, None)
        values = last.self_attn.v_proj(last.layer_norm1(states))
        values = vision.post_layernorm(last.self_attn.out_proj(values))
        expected = model.visual_projection(values)[0, 1:]
    found = encoder(models, model_type).describe(
        [image], [mask_set(single_patches(grid), image.shape[:2])]
    )[0]
    np.testing.assert_allclose(found[:, 0], expected.numpy(), **CLOSE)


@pytest.mark.parametrize("grid", [(4, 4), (4, 3)])
def test_radios_patches_are_its_dense_features_of_plain_pixels(models, grid):
    image, _ = pixels_of(models, "radio", grid)
    plain = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = random_model("radio")(pixel_values=plain).features[0]
    assert len(expected) == grid[0] * grid[1]  # neither class nor register tokens
    masks = mask_set(single_patches(grid), image.shape[:2])
    found = encoder(models, "radio").describe([image], [masks])[0]
    np.testing.assert_allclose(found[:, 0], expected.numpy(), **CLOSE)


@pytest.mark.parametrize("model_type", [*DINO_LIKE, "clip", "tipsv2", "metaclip_2", "radio"])
def test_a_mask_of_everything_is_the_mean_of_all_patches(models, model_type):
    image, pixels = pixels_of(models, model_type, (4, 3))
    picture_side, _ = tower(models, model_type)
    with torch.no_grad():
        expected = picture_side.patches(pixels)[0].mean(0)
    everything = mask_set(np.ones((1, 4, 16, 12), bool), image.shape[:2])
    found = encoder(models, model_type).describe([image], [everything])[0]
    np.testing.assert_allclose(found[0, 0], expected.numpy(), **CLOSE)


@pytest.mark.parametrize("model_type", ["siglip", "siglip2"])
def test_siglips_mask_of_everything_is_the_models_own_embedding(models, model_type):
    image, pixels = pixels_of(models, model_type, (4, 4))
    model = random_model(model_type)
    given = {"pixel_values": pixels}
    if model_type == "siglip2":
        from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

        given = {
            "pixel_values": convert_image_to_patches(pixels[0], 16)[None],
            "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
            "spatial_shapes": torch.tensor([[4, 4]]),
        }
    with torch.no_grad():
        expected = model.get_image_features(**given).pooler_output[0]
    everything = mask_set(np.ones((1, 4, 16, 16), bool), image.shape[:2])
    found = encoder(models, model_type).describe([image], [everything])[0]
    np.testing.assert_allclose(found[0, 0], expected.numpy(), **CLOSE)


def test_siglips_head_sees_only_the_patches_of_the_mask(models):
    # The pooling head over the mask's own patches, cut out of the sequence, says the same.
    image, pixels = pixels_of(models, "siglip", (3, 4))
    model = random_model("siglip").vision_model
    half = np.zeros((1, 4, 12, 16), bool)
    half[..., :8] = True
    with torch.no_grad():
        patches = model(pixels, interpolate_pos_encoding=True).last_hidden_state
        inside = patches.view(1, 3, 4, -1)[:, :, :2].flatten(1, 2)
        expected = model.head(inside)[0]
    found = encoder(models, "siglip").describe([image], [mask_set(half, image.shape[:2])])[0]
    np.testing.assert_allclose(found[0, 0], expected.numpy(), **CLOSE)


@pytest.mark.parametrize("model_type", TINY)
def test_batches_do_not_change_the_vectors(models, model_type):
    images = [picture(size, seed) for seed, size in enumerate(SIZES + SIZES[:2])]
    rng = np.random.default_rng(0)
    masks = [
        mask_set(rng.random((2, 4, *image.shape[:2])) < 0.3, image.shape[:2]) for image in images
    ]
    settings = {"crop_below": 0.9} if model_type == "dinov2" else {}
    together = encoder(models, model_type, batch_size=4, **settings).describe(images, masks)
    alone = encoder(models, model_type, batch_size=1, **settings)
    for image, mask, vectors in zip(images, masks, together, strict=True):
        assert vectors.shape == (2, 4, alone.width)
        np.testing.assert_allclose(vectors, alone.describe([image], [mask])[0], **CLOSE)


def test_the_frames_padding_is_not_part_of_the_image(models):
    # The lower half of SAM's frame is padding: a mask of the whole image reads all of the grid.
    image, pixels = pixels_of(models, "dinov2", (2, 4))
    picture_side, _ = tower(models, "dinov2")
    with torch.no_grad():
        patches = picture_side.patches(pixels)[0].view(2, 4, -1)
    lower = np.zeros((1, 4, 8, 16), bool)
    lower[..., 4:, :] = True
    found = encoder(models, "dinov2").describe([image], [mask_set(lower, image.shape[:2])])[0]
    np.testing.assert_allclose(found[0, 0], patches[1].mean(0).numpy(), **CLOSE)


def test_an_empty_mask_takes_the_vector_at_its_point(models):
    image, pixels = pixels_of(models, "dinov2", (3, 4))
    picture_side, _ = tower(models, "dinov2")
    with torch.no_grad():
        patches = picture_side.patches(pixels)[0].view(3, 4, -1)
    empty = np.zeros((2, 4, 12, 16), bool)
    points = np.array([[0.9, 0.1], [1.0, 1.0]])
    found = encoder(models, "dinov2").describe([image], [mask_set(empty, image.shape[:2], points)])[
        0
    ]
    np.testing.assert_allclose(found[0, 2], patches[0, 3].numpy(), **CLOSE)
    np.testing.assert_allclose(found[1, 0], patches[2, 3].numpy(), **CLOSE)


def test_a_mask_smaller_than_a_patch_reads_its_patch(models):
    image, pixels = pixels_of(models, "dinov2", (4, 4))
    picture_side, _ = tower(models, "dinov2")
    with torch.no_grad():
        patches = picture_side.patches(pixels)[0].view(4, 4, -1)
    small = np.zeros((1, 4, 32, 32), bool)
    small[..., 10:12, 26:28] = True
    found = encoder(models, "dinov2").describe([image], [mask_set(small, image.shape[:2])])[0]
    np.testing.assert_allclose(found[0, 0], patches[1, 3].numpy(), **CLOSE)


def test_no_prompt_gives_no_vector(models):
    none = mask_set(np.zeros((0, 4, 64, 64), bool), (64, 64))
    for pooling in ("dense", "crop", "masked_image"):
        found = encoder(models, "clip", pooling=pooling).describe([picture((64, 64))], [none])[0]
        assert found.shape == (0, 4, 20)


def test_bfloat16_changes_the_vectors_by_rounding_only(models):
    image = picture((48, 64))
    masks = mask_set(np.ones((1, 4, 48, 64), bool), (48, 64))
    exact = encoder(models, "dinov2").describe([image], [masks])[0]
    rounded = encoder(models, "dinov2", dtype="bfloat16").describe([image], [masks])[0]
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("size", [*SIZES, (1, 500), (375, 500)])
def test_the_grid_keeps_the_pictures_shape_to_half_a_patch(size):
    rows, columns = grid_of(size, 37)
    assert max(rows, columns) == 37
    for side, cells in zip(size, (rows, columns), strict=True):
        assert abs(cells - side / max(size) * 37) <= 0.5 or cells == 1


def test_a_batch_that_does_not_fit_is_halved():
    tried = []

    def call(some):
        tried.append(len(some))
        if len(some) > 2:
            raise torch.OutOfMemoryError
        return torch.tensor(some)

    assert torch.stack(list(in_batches(call, range(7), 6))).tolist() == list(range(7))
    assert tried == [4, 2, 2, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "changes", "grid", "width"),
    [
        ("dinov2", {"image_size": 518}, (28, 37), 768),
        ("clip", {"image_size": 224}, (10, 14), 512),
    ],
)
def test_a_model_of_real_size_describes_a_picture(tmp_path, model_type, changes, grid, width):
    from transformers import AutoConfig, AutoModel

    body = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, **changes}
    if model_type == "clip":
        vision = {**body, "patch_size": 16, "intermediate_size": 3072}
        config = AutoConfig.for_model("clip", vision_config=vision)
    else:
        config = AutoConfig.for_model("dinov2", patch_size=14, **body)
    AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    base = open_encoder(FeatureConfig(model="model"), "cpu", tmp_path)
    assert base.width == width
    size_hw = (375, 500)
    assert grid_of(size_hw, max(grid)) == grid
    masks = np.zeros((2, 4, 192, 256), bool)
    masks[0, :, :90, :120] = True
    masks[1, :, 100:] = True
    found = base.describe([picture(size_hw)], [mask_set(masks, size_hw)])[0]
    assert found.shape == (2, 4, width)
    assert np.isfinite(found).all()
    assert np.abs(found[0, 0] - found[1, 0]).max() > 0.01
