"""Names as vectors: against direct calls of the models' text side."""

import json

import numpy as np
import pytest
import torch

from tests.feature_models import random_model, save_model, save_tokenizer
from usam_core.config.model import FeatureConfig
from usam_core.errors import InputError
from usam_core.features.text import TEMPLATES, open_text

KINDS = ["clip", "siglip", "siglip2", "tipsv2", "metaclip_2"]
# As the tiny tokenizer numbers the words: beginning, words, end.
A_PHOTO_OF_PER_RING = [2, 4, 5, 6, 4, 9, 1]
THE_ROD = [2, 7, 10, 1]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for model_type in [*KINDS, "dinov2"]:
        save_model(root / model_type, model_type)
    return root


def text(root, model_type):
    return open_text(FeatureConfig(model=model_type), "cpu", root)


def direct(model_type, ids):
    if model_type.startswith("siglip"):  # it reads the last of 16 positions
        ids = ids + [0] * (16 - len(ids))
    with torch.no_grad():
        found = random_model(model_type).get_text_features(input_ids=torch.tensor([ids]))
    return unit(found.pooler_output[0].numpy())


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("model_type", KINDS)
def test_a_sentence_is_what_the_model_says_of_it(models, model_type):
    found = text(models, model_type)
    vectors = found.vectors({"ring": []}, ["a photo of a {}"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (1, found.width)
    np.testing.assert_allclose(
        vectors[0], direct(model_type, A_PHOTO_OF_PER_RING), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("model_type", KINDS)
def test_words_and_templates_are_averaged_at_unit_length(models, model_type):
    found = text(models, model_type).vectors({"x": ["ring", "rod"]}, ["a photo of a {}", "the {}"])
    four = [
        direct(model_type, ids)
        for ids in (A_PHOTO_OF_PER_RING, [2, 7, 9, 1], [2, 4, 5, 6, 4, 10, 1], THE_ROD)
    ]
    np.testing.assert_allclose(found[0], unit(np.mean(four, axis=0)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", KINDS)
def test_company_does_not_change_a_vector(models, model_type):
    found = text(models, model_type)
    alone = found.vectors({"ring": []})
    together = found.vectors({"disc": ["circle", "disc"], "ring": [], "rod": []})
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01
    assert found.vectors({}).shape == (0, found.width)


def test_siglips_texts_are_lower_case_and_clips_are_left_alone(models):
    siglip = text(models, "siglip2")
    one, other = (siglip.vectors({name: []}) for name in ("ring", "RING"))
    np.testing.assert_array_equal(one, other)
    clip = text(models, "clip")
    one, other = (clip.vectors({name: []}) for name in ("ring", "RING"))
    assert not np.array_equal(one, other)


def test_scale_and_bias_give_the_models_own_logits(models):
    ids = torch.tensor([A_PHOTO_OF_PER_RING + [0] * 9])
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = random_model("siglip")
    with torch.no_grad():
        whole = model(input_ids=ids, pixel_values=pixels)
    found = text(models, "siglip")
    cosine = (
        unit(whole.image_embeds[0].numpy()) @ found.vectors({"ring": []}, ["a photo of a {}"])[0]
    )
    assert found.scale * cosine + found.bias == pytest.approx(
        float(whole.logits_per_image), abs=1e-4
    )
    clip = text(models, "clip")
    assert clip.bias == 0
    assert clip.scale == pytest.approx(random_model("clip").logit_scale.exp().item())


def test_texts_and_pictures_have_one_width(models):
    from usam_core.features.encoder import open_encoder

    for model_type in KINDS:
        encoder = open_encoder(FeatureConfig(model=model_type), "cpu", models)
        assert text(models, model_type).width == encoder.width


def test_every_template_takes_the_name():
    assert len(set(TEMPLATES)) == len(TEMPLATES)
    assert all(part.format("cat").count("cat") == 1 for part in TEMPLATES)


def test_a_long_name_is_cut_not_refused(models):
    for model_type in KINDS:
        found = text(models, model_type).vectors({"ring " * 40: []})
        assert np.isfinite(found).all()


def test_a_family_without_text_says_which_have_one(models):
    with pytest.raises(InputError, match="clip, siglip2 and tipsv2"):
        text(models, "dinov2")


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path):
    folder = save_model(tmp_path / "clip", "clip")
    (folder / "tokenizer.json").write_text(json.dumps({"model": "none"}))
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        text(tmp_path, "clip")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        text(tmp_path, "clip")


def test_clips_texts_must_have_their_end(tmp_path):
    folder = save_model(tmp_path / "clip", "clip")
    save_tokenizer(folder, with_end=False)
    with pytest.raises(InputError, match="no end token"):
        text(tmp_path, "clip")


def test_tipsv2s_logit_of_a_picture_and_a_name_is_the_models_own(models):
    ids = torch.tensor([A_PHOTO_OF_PER_RING])
    pixels = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = random_model("tipsv2")(input_ids=ids, pixel_values=pixels)
    found = text(models, "tipsv2")
    vectors = found.vectors({"ring": []}, ["a photo of a {}"])
    cosine = unit(whole.image_embeds[0].numpy()) @ vectors[0]
    assert found.bias == 0
    assert found.scale * cosine == pytest.approx(float(whole.logits_per_image), rel=1e-4, abs=1e-4)
