"""SAM 1 of other trainings, from the files that micro-sam and MedSAM write."""

import pytest
import torch
from pydantic import ValidationError
from segment_anything import sam_model_registry

from usam_core.config.model import SamConfig
from usam_core.errors import InputError
from usam_core.sam import load
from usam_core.sam.load import encoder_spec, load_sam

VIT_B = SamConfig(model="vit_b")


@pytest.fixture(scope="module")
def small_sam():
    """A model of few and small tensors in the place of a ViT-B, which reads half a gigabyte."""
    from usam_core.sam.nano import untrained_nano_sam

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return untrained_nano_sam()


@pytest.fixture
def registry(small_sam, monkeypatch):
    from usam_core.sam.nano import untrained_nano_sam

    monkeypatch.setitem(sam_model_registry, "vit_b", untrained_nano_sam)
    return small_sam.state_dict()


def named(state, prefix):
    return {prefix + name: value for name, value in state.items()}


FORMS = {
    "micro-sam with its decoder": lambda s: {"model_state": s, "decoder_state": {}},
    "the state alone (micro-sam's exports, MedSAM)": lambda s: s,
    "micro-sam's trainer": lambda s: {"model_state": named(s, "sam."), "epoch": 3},
    "MedSAM's trainer": lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 3},
    "several GPUs": lambda s: {"model": named(s, "module.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_checkpoint_gives_the_same_model(registry, tmp_path, form):
    file = tmp_path / "trained.pt"
    torch.save(FORMS[form](dict(registry)), file)
    found = load_sam(VIT_B, file).state_dict()
    assert found.keys() == registry.keys()
    assert all(torch.equal(found[name], registry[name]) for name in registry)


def test_a_training_has_a_fingerprint_of_its_own(registry, tmp_path):
    file = tmp_path / "vit_b_lm.pt"
    torch.save(registry, file)
    spec, official = encoder_spec(VIT_B, file), encoder_spec(VIT_B, None)
    assert spec["checkpoint_sha256"] != official["checkpoint_sha256"]
    assert {**spec, "checkpoint_sha256": ""} == {**official, "checkpoint_sha256": ""}


class Plan:
    """What a trainer keeps beside the weights."""


def test_a_trainers_objects_are_not_read_and_the_way_out_is_named(tmp_path):
    file = tmp_path / "best.pt"
    torch.save({"model_state": {"x": torch.zeros(1)}, "plan": Plan()}, file)
    with pytest.raises(InputError, match=r"holds more than tensors.*weights_only=False"):
        load_sam(VIT_B, file)


def test_a_digest_in_the_project_refuses_another_file(registry, tmp_path):
    file = tmp_path / "vit_b_lm.pt"
    torch.save(registry, file)
    digest = encoder_spec(VIT_B, file)["checkpoint_sha256"]
    right = SamConfig(model="vit_b", checkpoint=file, sha256=digest)
    assert encoder_spec(right, file)["checkpoint_sha256"] == digest
    wrong = SamConfig(model="vit_b", checkpoint=file, sha256="0" * 64)
    with pytest.raises(InputError, match=rf"sam.sha256: expected {'0' * 64}, got {digest}"):
        load.open_embedder(wrong, file)
    with pytest.raises(InputError, match=r"sam\.sha256"):
        encoder_spec(wrong, file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vit_b", "sha256": "0" * 64}, "expected it beside a checkpoint that is a file"),
        ({"model": "sam3", "checkpoint": "x", "sha256": "0" * 64}, "that is a file"),
        ({"model": "vit_b", "sha256": "abc"}, "64 digits"),
        ({"model": "vit_b", "revision": "abc"}, "expected it with one of sam2.1_tiny"),
        ({"model": "sam3", "checkpoint": "x", "revision": "abc"}, "from the hub"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SamConfig.model_validate(settings)
