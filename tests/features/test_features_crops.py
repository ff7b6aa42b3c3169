"""Masks seen from near: crops and masked pictures against direct calls of the models."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.feature_models import PUBLISHED, mask_set, picture, random_model, save_model
from usam_core.config.model import FeatureConfig
from usam_core.features.encoder import open_encoder
from usam_core.features.model import CLIP
from usam_core.features.regions import Crop, crop_mask, crop_of, crop_pixels, find_regions

CLOSE = {"rtol": 2e-3, "atol": 2e-3}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for model_type in ("clip", "siglip", "dinov2"):
        save_model(root / model_type, model_type)
    return root


def encoder(root, model_type="clip", **settings):
    return open_encoder(FeatureConfig(model=model_type, **settings), "cpu", root)


def own_embedding(model_type, image):
    """The model's own vector of a picture of its size, normalised by hand."""
    mean, std = (np.array(values, np.float32) for values in PUBLISHED[model_type])
    pixels = ((image / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    model = random_model(model_type)
    with torch.no_grad():
        if model_type == "dinov2":
            return model(torch.from_numpy(pixels)).pooler_output[0].numpy()
        found = model.get_image_features(torch.from_numpy(pixels), interpolate_pos_encoding=True)
    return found.pooler_output[0].numpy()


def one_mask(size_hw, rows, columns):
    masks = np.zeros((1, 4, *size_hw), bool)
    masks[:, :, rows, columns] = True
    return mask_set(masks, size_hw)


@pytest.mark.parametrize("model_type", ["clip", "siglip", "dinov2"])
def test_a_crop_is_what_the_model_says_of_that_crop(models, model_type):
    side = 56 if model_type == "dinov2" else 64
    image = picture((96, 128))
    # The mask's box is 20 by 30: a square of 36 around its middle, which is row 50, column 65.
    masks = one_mask((96, 128), slice(40, 60), slice(50, 80))
    crop = Image.fromarray(image).crop((47, 32, 83, 68)).resize((side, side), 3)
    found = encoder(models, model_type, pooling="crop").describe([image], [masks])[0]
    np.testing.assert_allclose(
        found[0, 0], own_embedding(model_type, np.asarray(crop)), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("model_type", ["clip", "siglip", "dinov2"])
@pytest.mark.parametrize("patches", [(4, 4), (3, 4)])
def test_a_masked_picture_is_what_the_model_says_of_it(models, model_type, patches):
    patch = 14 if model_type == "dinov2" else 16
    size_hw = (patches[0] * patch, patches[1] * patch)
    image = picture(size_hw)
    masks = one_mask(size_hw, slice(5, 30), slice(10, 41)) if patch == 16 else None
    if masks is None:  # a frame's width is whole bytes
        low = np.zeros((1, 4, size_hw[0] // 7 * 4, size_hw[1] // 7 * 4), bool)
        low[..., :8, 4:20] = True
        masks = mask_set(low, size_hw)
        black = image.copy()
        black[14:], black[:, :7], black[:, 35:] = 0, 0, 0
    else:
        black = np.zeros_like(image)
        black[5:30, 10:41] = image[5:30, 10:41]
    found = encoder(models, model_type, pooling="masked_image").describe([image], [masks])[0]
    np.testing.assert_allclose(found[0, 0], own_embedding(model_type, black), **CLOSE)


@pytest.mark.parametrize("pooling", ["crop", "masked_image"])
def test_batches_do_not_change_the_vectors(models, pooling):
    image = picture((48, 64))
    masks = mask_set(np.random.default_rng(1).random((3, 4, 48, 64)) < 0.002, (48, 64))
    seven = encoder(models, pooling=pooling, batch_size=7).describe([image], [masks])[0]
    one = encoder(models, pooling=pooling, batch_size=1).describe([image], [masks])[0]
    np.testing.assert_allclose(seven, one, **CLOSE)
    assert len(np.unique(seven.reshape(12, -1), axis=0)) == 12


@pytest.mark.parametrize("pooling", ["crop", "masked_image", "dense"])
def test_equal_masks_are_encoded_once(models, pooling, monkeypatch):
    masks = np.zeros((5, 4, 48, 64), bool)
    masks[:, :2, :20, :20] = True
    masks[:, 2:, 30:, 40:] = True
    # Dense pooling adds a crop of each small mask, which must not be encoded twice either.
    small = {"crop_below": 0.5} if pooling == "dense" else {}
    found = encoder(models, pooling=pooling, batch_size=50, **small)
    seen = []
    tower = found._tower
    for name in ("whole", "patches"):
        real = getattr(tower, name)
        monkeypatch.setattr(
            tower, name, lambda pixels, real=real: (seen.append(len(pixels)), real(pixels))[1]
        )
    vectors = found.describe([picture((48, 64))], [mask_set(masks, (48, 64))])[0]
    assert seen == ([1, 2] if pooling == "dense" else [2])
    np.testing.assert_array_equal(vectors[0, 0], vectors[4, 1])
    assert not np.array_equal(vectors[0, 0], vectors[0, 2])


def test_small_masks_average_the_picture_with_their_crop(models):
    image = picture((64, 64))
    masks = np.zeros((2, 4, 64, 64), bool)
    masks[0, :, 20:32, 20:40] = True
    masks[1, :, :48] = True
    both = mask_set(masks, (64, 64))
    far = encoder(models, "dinov2").describe([image], [both])[0]
    near = encoder(models, "dinov2", crop_below=0.2).describe([image], [both])[0]
    np.testing.assert_array_equal(near[1], far[1])  # three quarters of the picture is not small
    # The square of 24 around row 26, column 30 shows the mask on its rows 12 to 48 of 56.
    crop = Image.fromarray(image).crop((18, 14, 42, 38)).resize((56, 56), 3)
    inside = np.zeros((1, 4, 24, 24), bool)
    inside[..., 6:18, 2:22] = True
    closer = encoder(models, "dinov2").describe([np.asarray(crop)], [mask_set(inside, (56, 56))])[0]
    np.testing.assert_allclose(near[0, 0], (far[0, 0] + closer[0, 0]) / 2, rtol=0.05, atol=0.05)
    assert np.abs(near[0, 0] - far[0, 0]).max() > 0.1


def regions(size_hw, rows, columns, frame_hw=None):
    masks = np.zeros((1, 4, *(frame_hw or size_hw)), bool)
    masks[:, :, rows, columns] = True
    return find_regions(mask_set(masks, size_hw))


def test_a_crop_near_the_border_is_moved_into_the_picture():
    crop = crop_of(regions((96, 128), slice(0, 20), slice(100, 128)), 0)
    assert crop.side == pytest.approx(28 * 1.2)
    assert crop.box == pytest.approx((128 - 33.6, 0, 128, 33.6))


def test_a_crop_larger_than_the_picture_is_filled_up_on_both_sides():
    found = regions((32, 128), slice(0, 32), slice(20, 60))
    crop = crop_of(found, 0)
    assert crop == Crop((16, 0, 64, 32), 48)
    pixels = crop_pixels(np.full((32, 128, 3), 255, np.uint8), crop, 48, CLIP.normalization)
    assert (pixels[:, 8:40] > 1).all()
    assert (pixels[:, :8] == 0).all()
    assert (pixels[:, 40:] == 0).all()
    covered = crop_mask(found, 0, crop, 48)
    assert covered[8:40, 4:44].min() == 1
    assert covered.sum() == 32 * 40


def test_the_smallest_crop_is_a_share_of_the_picture():
    crop = crop_of(regions((96, 128), slice(50, 51), slice(60, 61)), 0)
    assert crop.side == 128 / 16
    assert crop.box == (56.5, 46.5, 64.5, 54.5)


def test_boxes_are_in_the_pictures_pixels_not_in_the_frames():
    crop = crop_of(regions((480, 640), slice(10, 20), slice(20, 40), (48, 64)), 0)
    assert crop == Crop((180, 30, 420, 270), 240)


def test_a_mask_at_a_rounded_border_has_weight_in_its_crop():
    # 101 rows of 200 are 32.3 of the frame's 64, rounded to 32; the last row hangs over.
    for height in range(97, 105):
        rows = round(height * 64 / 200)
        found = regions((height, 200), slice(rows - 1, rows), slice(63, 64), (rows, 64))
        assert crop_mask(found, 0, crop_of(found, 0), 32).sum() > 0
