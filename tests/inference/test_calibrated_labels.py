"""Calibration where images are labelled: probabilities, runner-up, thresholds, presence."""

import numpy as np
import pytest
import torch
from torch import nn

from usam_core.config.schema import InferenceConfig
from usam_core.inference.calibration import Calibration
from usam_core.inference.fit_calibration import NONE, SceneMasks, crossed, fit_calibration
from usam_core.inference.scoring import label_image, runner_up
from usam_core.inference.targets import shown_classes
from usam_core.masks.bits import pack
from usam_core.types import MaskSet

NAMES = ["a", "b"]
PLAIN = Calibration(2.0, 0.5, -0.5, thresholds={"a": 0.3, "b": 0.6})


def box(top, left, height, width, side=16):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def mask_set(logits):
    """Return an image whose masks lie apart, and a head that gives them these logits."""
    d = len(logits)
    masks = np.stack([box(0, 5 * number, 4, 4) for number in range(d)])
    values = np.array(logits, np.float32)
    image = MaskSet(
        tokens=np.zeros((d, 1024), np.float16),
        packed_masks=np.repeat(pack(masks)[:, None], 4, axis=1),
        predicted_iou=np.full((d, 4), 0.8, np.float32),
        stability=np.ones((d, 4), np.float32),
        points_xy=np.zeros((d, 2), np.float32),
        size_hw=(16, 16),
        features={"encoder": np.repeat(np.eye(d, dtype=np.float16)[:, None], 4, axis=1)},
    )
    head = nn.Linear(d, values.shape[1], bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(values.T))
    return image, head


def label(logits, calibration=PLAIN, **settings):
    image, head = mask_set(logits)
    config = InferenceConfig(**{"min_area": 0, "threshold": 0.0, **settings})
    return label_image(head, image, ["encoder"], config, NAMES, calibration)[0]


def test_every_mask_states_its_calibrated_probability():
    found = label([[3, 0], [0, 1]])
    expected = PLAIN.probabilities(np.array([[3, 0], [0, 1]], np.float32), np.full(2, 0.8))
    assert found.classes.tolist() == [0, 1]
    assert found.probability == pytest.approx([expected[0, 0], expected[1, 1]])
    # What orders masks stays the head's own.
    assert found.scores == pytest.approx(
        0.8 * np.array([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))])
    )


def test_without_a_calibration_the_softmax_is_stated():
    found = label([[3, 0]], calibration=None)
    assert found.probability == pytest.approx([1 / (1 + np.exp(-3))])


def test_calibrated_thresholds_ask_the_calibrated_probability_of_each_class():
    logits = [[2.0, 0], [0, 2.0]]
    stated = label(logits).probability
    assert 0.3 < stated[0] == pytest.approx(stated[1])
    assert stated[1] < 0.6
    assert label(logits, thresholds="calibrated").classes.tolist() == [0]
    assert label(logits, thresholds="calibrated", class_thresholds={"b": 0.1}).classes.tolist() == [
        0,
        1,
    ]
    assert label(logits, threshold=0.5).classes.tolist() == [0, 1], "fixed ones ask the head"


def test_the_presence_gate_drops_all_masks_of_a_class_that_is_not_there():
    # Class b has two weak masks: neither its surest nor the other one stays.
    logits = [[6, 0], [0, 0.4], [0, 0.3]]
    assert label(logits).classes.tolist() == [0, 1, 1]
    assert label(logits, presence=0.5).classes.tolist() == [0]
    # With a sure mask of the class in the image, the weak one passes the gate too.
    assert label([[0, 6], [0, 0.3]], presence=0.5).classes.tolist() == [1, 1]


def test_the_runner_up_is_the_best_of_the_others():
    probability = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.2]])
    assert runner_up(probability, np.array([0, 1])).tolist() == [2, 2]
    assert runner_up(probability[:, :1], np.array([0, 0])).tolist() == [-1, -1]


def test_a_mask_shows_the_class_that_half_of_it_lies_on():
    truth = np.zeros((16, 16), np.uint8)
    truth[:8, :8] = 1
    truth[8:, 8:] = 2
    truth[8:, :8] = 3
    packed = pack(
        np.stack(
            [
                box(0, 0, 8, 8),  # the first object
                box(2, 2, 2, 2),  # a part of it
                box(8, 6, 4, 6),  # two thirds on the second object
                box(0, 6, 4, 6),  # one third on the first, the rest on background
                box(0, 8, 8, 8),  # background
                box(8, 2, 2, 12),  # half on the second, half on the third object
                np.zeros((16, 16), bool),
            ]
        )
    )
    values = np.array([-1, 1, 0, 0])  # second and third object are of one class
    assert shown_classes(packed, truth, values).tolist() == [1, 1, 0, NONE, NONE, 0, NONE]
    apart = np.array([-1, 1, 0, 2])
    assert shown_classes(packed, truth, apart).tolist()[:5] == [1, 1, 0, NONE, NONE]


@pytest.mark.slow
def test_presence_is_fitted_and_not_only_passed_on():
    """A best mask of even odds is of a present class nine times in ten."""
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(200):
        there = rng.uniform() < 0.9
        logits = np.array([[0.0, -20.0]], np.float32)
        target = np.array([0 if rng.uniform() < 0.5 else NONE])
        scenes.append(SceneMasks(logits, np.ones(1), target, np.array([there, False])))
    found = fit_calibration(scenes, NAMES)
    probability = found.probabilities(np.array([[0.0, -20.0]], np.float32), np.ones(1))
    assert probability[0, 0] == pytest.approx(0.5, abs=0.1)
    assert found.presence(probability)[0] == pytest.approx(0.9, abs=0.05)


def test_outputs_beyond_the_classes_speak_for_none_while_fitting():
    """Where another output is large, no class is meant: the fit has nothing to add to it."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 3)).astype(np.float32) * 0.1
    logits[:200] += np.array([8, 0, 12], np.float32)
    logits[200:, 0] += 12
    targets = np.where(np.arange(400) < 200, NONE, 0)
    found = fit_calibration(
        [SceneMasks(logits, np.ones(400), targets, np.array([True, False]))], NAMES
    )
    stated = found.probabilities(logits, np.ones(400))
    assert stated[200:, 0].min() > 0.97
    assert found.none_offset + found.none_slope < 1


def test_the_reported_error_is_of_scenes_that_were_not_fitted_to(monkeypatch):
    scenes = [
        SceneMasks(np.zeros((1, 2), np.float32), np.ones(1), np.array([n]), np.ones(2, bool))
        for n in range(20)
    ]
    fitted = []

    def note(some, names):
        fitted.append({int(scene.targets[0]) for scene in some})
        return PLAIN

    def look(some, found, classes):
        seen = {int(scene.targets[0]) for scene in some}
        assert not seen & fitted[-1]
        assert seen | fitted[-1] == set(range(20))
        n = len(some)
        return np.zeros(n, int), np.full(n, 0.5), np.ones(n, bool)

    monkeypatch.setattr("usam_core.inference.fit_calibration.fit_calibration", note)
    monkeypatch.setattr("usam_core.inference.fit_calibration.judged", look)
    sure, right = crossed(scenes, NAMES)
    assert len(fitted) == 5
    assert len(sure) == len(right) == 20
