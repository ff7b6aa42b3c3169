"""Which encoder a folder holds, how its input is normalised, and what a wrong folder is told."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.feature_models import PUBLISHED, TINY, save_model
from usam_core.config.model import FeatureConfig
from usam_core.errors import InputError
from usam_core.features.encoder import encoder_spec, open_encoder
from usam_core.features.model import read_kind

FAMILY = {
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "clip": "clip",
    "siglip": "siglip2",
    "siglip2": "siglip2",
    "tipsv2": "tipsv2",
    "metaclip_2": "clip",
    "radio": "radio",
}
BILINEAR = ("dinov3_vit", "siglip", "siglip2", "tipsv2", "radio")
CONFIG = FeatureConfig(model="model")


@pytest.fixture
def dino(tmp_path):
    return save_model(tmp_path / "model", "dinov2")


@pytest.mark.parametrize("model_type", TINY)
def test_the_family_patch_and_size_are_read_from_the_folder(tmp_path, model_type):
    kind = read_kind(save_model(tmp_path / "model", model_type), CONFIG)
    assert kind.family.name == FAMILY[model_type]
    assert kind.patch == TINY[model_type]["patch_size"]
    assert kind.trained_size == 4 * kind.patch


@pytest.mark.parametrize("model_type", TINY)
def test_without_a_file_the_published_normalization_holds(tmp_path, model_type):
    folder = save_model(tmp_path / "model", model_type)
    (folder / "preprocessor_config.json").unlink()
    found = read_kind(folder, CONFIG).normalization
    assert (list(found.mean), list(found.std)) == PUBLISHED[model_type]
    assert found.resample == (2 if model_type in BILINEAR else 3)


@pytest.mark.parametrize("model_type", ["tipsv2", "radio"])
def test_what_the_model_does_by_itself_is_not_done_before_it(tmp_path, model_type):
    folder = save_model(tmp_path / "model", model_type)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert read_kind(folder, CONFIG).normalization.mean == (0, 0, 0)


def test_the_models_own_normalization_comes_first(dino):
    settings = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.2, 0.2, 0.2], "resample": 2}
    (dino / "preprocessor_config.json").write_text(json.dumps(settings))
    found = read_kind(dino, CONFIG).normalization
    assert (found.mean, found.std, found.resample) == ((0.43, 0.411, 0.296), (0.2, 0.2, 0.2), 2)
    # As transformers 5 writes it for a processor of pictures and texts.
    (dino / "preprocessor_config.json").unlink()
    (dino / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert read_kind(dino, CONFIG).normalization == found


def test_the_spec_is_the_same_without_the_weights_in_memory_and_is_plain_json(dino, tmp_path):
    spec = encoder_spec(CONFIG, tmp_path)
    assert open_encoder(CONFIG, "cpu", tmp_path).spec == spec
    assert json.loads(json.dumps(spec)) == spec


def test_the_spec_tells_apart_what_changes_numbers_and_nothing_else(dino, tmp_path):
    base = encoder_spec(CONFIG, tmp_path)

    def spec(**changes):
        return encoder_spec(CONFIG.model_copy(update=changes), tmp_path)

    assert spec(batch_size=7) == spec(family="dinov2") == spec(dtype="float32") == base
    assert spec(image_size=56) == base  # what it was trained with, said
    assert spec(pooling="crop", crop_below=0.1) == spec(pooling="crop")
    others = [spec(image_size=112), spec(pooling="crop"), spec(crop_below=0.1)]
    assert all(other != base for other in others)
    state = load_file(dino / "model.safetensors")
    state["layernorm.bias"] += 1
    save_file(state, dino / "model.safetensors", {"format": "pt"})
    assert spec() != base


def test_another_folder_of_the_same_bytes_has_the_same_spec(dino, tmp_path):
    shutil.copytree(dino, tmp_path / "copy")
    assert encoder_spec(FeatureConfig(model="copy"), tmp_path) == encoder_spec(CONFIG, tmp_path)


def opened(tmp_path, **changes):
    with pytest.raises(InputError) as caught:
        open_encoder(CONFIG.model_copy(update=changes), "cpu", tmp_path)
    return str(caught.value)


def test_a_family_that_the_folder_is_not_is_named(dino, tmp_path):
    message = opened(tmp_path, family="clip")
    for part in ("got 'clip'", "'dinov2'", "config.json", "set family: auto"):
        assert part in message


def test_an_unknown_architecture_is_told_the_known_ones(dino, tmp_path):
    (dino / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = opened(tmp_path)
    assert "'bert'" in message
    assert "'dinov2_with_registers'" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "dinov2", "patch_size": "big"}'])
def test_a_damaged_config_is_named(dino, tmp_path, text):
    (dino / "config.json").write_text(text)
    assert "config.json" in opened(tmp_path)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path):
    (tmp_path / "model").mkdir()
    assert "has no config.json" in opened(tmp_path)


def test_a_damaged_normalization_is_named(dino, tmp_path):
    (dino / "preprocessor_config.json").write_text('{"image_mean": [1, 2], "image_std": [1, 2]}')
    message = opened(tmp_path)
    assert "preprocessor_config.json" in message
    assert "three numbers" in message


def test_cut_weights_are_refused(dino, tmp_path):
    file = dino / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "cannot be loaded as a dinov2 model" in opened(tmp_path)


def test_weights_in_pickle_alone_are_refused(dino, tmp_path):
    import torch

    torch.save(load_file(dino / "model.safetensors"), dino / "pytorch_model.bin")
    (dino / "model.safetensors").unlink()
    assert "safetensors" in opened(tmp_path)


def test_weights_of_another_model_are_not_filled_up_at_random(dino, tmp_path):
    state = load_file(dino / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, dino / "model.safetensors", {"format": "pt"})
    message = opened(tmp_path)
    assert "lack 1 tensors" in message
    assert "'layernorm.weight'" in message


def test_weights_of_another_size_are_refused(dino, tmp_path):
    config = json.loads((dino / "config.json").read_text())
    (dino / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert "cannot be loaded" in opened(tmp_path)
