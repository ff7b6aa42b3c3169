"""The student: it learns, its ONNX computes the same, its weights begin where they are said to."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_large

from usam_core.config.results import DistillConfig
from usam_core.distill.model import (
    Student,
    begin_with,
    fit_side,
    load_student,
    predict,
    save_student,
)
from usam_core.distill.train import VOID, Samples, crop_pair, train_student
from usam_core.errors import InputError, StoreError
from usam_core.progress import SILENT
from usam_core.rng import generator


def discs(number, side=64):
    """A picture of a red or a green disc on gray, and its labels 1 and 2."""
    rng = generator(3, number)
    y, x = np.mgrid[:side, :side]
    at = rng.uniform(20, side - 20, 2)
    inside = (y - at[0]) ** 2 + (x - at[1]) ** 2 < rng.uniform(10, 18) ** 2
    label = 1 + number % 2
    rgb = np.full((side, side, 3), 120, np.uint8)
    rgb[inside] = [(220, 30, 30), (30, 200, 40)][label - 1]
    return rgb, np.where(inside, label, 0)


def test_a_crop_shows_the_same_place_in_picture_and_labels():
    rgb, labels = discs(0)
    rgb[labels == 1] = (255, 0, 0)
    seen = rgb.transpose(2, 0, 1), labels.astype(np.int16)
    for number in range(20):
        crop, taught = crop_pair(seen, 48, generator(number, "crop"))
        assert crop.shape == (3, 48, 48)
        assert crop.dtype == np.float32
        red = crop[0] - crop[1] > 0.3
        assert (red == (taught == 1))[taught != VOID].all()


def test_some_crops_are_mirrored_and_others_not():
    ramp = np.broadcast_to(np.arange(0, 128, 2, dtype=np.uint8), (3, 64, 64))
    pair = ramp, np.zeros((64, 64), np.int16)
    rises = {
        bool(np.diff(crop_pair(pair, 32, generator(number, "crop"))[0][0].mean(0)).sum() > 0)
        for number in range(20)
    }
    assert rises == {True, False}


def test_a_picture_smaller_than_the_crop_has_void_around_it():
    pair = np.zeros((3, 8, 8), np.uint8), np.ones((8, 8), np.int16)
    _, taught = crop_pair(pair, 32, generator(0, "crop"))
    assert set(np.unique(taught)) == {VOID, 1}


def test_the_longer_side_is_as_asked_and_numbers_are_shares():
    seen = fit_side(np.full((50, 100, 3), 255, np.uint8), 64)
    assert seen.shape == (3, 32, 64)
    assert torch.allclose(seen, torch.ones(()))


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(5)
    return mobilenet_v3_large(weights=None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_of_a_backbone_and_of_a_student_are_taken(backbone, tmp_path, kind):
    file = tmp_path / f"w.{kind}"
    state = backbone.state_dict()
    if kind == "pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    student = Student(3)
    begin_with(student, file)
    first = student.net.backbone["0"][0].weight
    assert torch.equal(first, state["features.0.0.weight"])
    other = Student(3)
    begin_with(other, save_student(tmp_path / "s.safetensors", student))
    for name, value in student.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_weights_of_something_else_are_a_sentence(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors lacks \d+ of the backbone's parts"):
        begin_with(Student(3), tmp_path / "a.safetensors")
    (tmp_path / "b.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"b\.pth cannot be read"):
        begin_with(Student(3), tmp_path / "b.pth")


def test_a_student_without_its_card_is_a_sentence(tmp_path):
    save_student(tmp_path / "student.safetensors", Student(3))
    with pytest.raises(StoreError, match=r"run `usam distill` again"):
        load_student(tmp_path / "student.safetensors")
    (tmp_path / "student.json").write_text(json.dumps({"labels": ["background", "a"]}))
    with pytest.raises(StoreError, match=r"student\.safetensors"):
        load_student(tmp_path / "student.safetensors")


@pytest.mark.slow
def test_it_learns_and_the_best_on_val_stays():
    pairs = [discs(n) for n in range(12)]
    config = DistillConfig(size=64, steps=30, batch_size=4, learning_rate=0.003)
    told = []

    def right(student):
        return np.mean(
            [(predict(student, pairs[n][0], 64) == pairs[n][1]).mean() for n in (10, 11)]
        )

    def score(student):
        told.append(right(student))
        return told[-1] if len(told) < 10 else 0.0  # the last one is judged bad

    samples = Samples(pairs.__getitem__, 64)
    before = torch.get_rng_state()
    pixels = np.bincount(np.concatenate([p[1].ravel() for p in pairs]), minlength=3).astype(float)
    student, history = train_student(
        samples, range(10), pixels, config, None, 0, "cpu", score, SILENT
    )
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert len(history) == 10
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert not student.training
    best = max(told[:9])
    assert right(student) == best
