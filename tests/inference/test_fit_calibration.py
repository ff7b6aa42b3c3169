"""What a calibration is fitted to, part by part, against a plain way of writing the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.test_calibration import best_f1, scenes_of
from usam_core.inference import fit_calibration as fitting
from usam_core.inference.calibration import Calibration
from usam_core.inference.fit_calibration import NONE, SceneMasks

PLAIN = Calibration(1.0, -60.0, 0.0, classes=2)
"""Leaves a softmax as it is."""


def scene(p, target, present=(True, True)):
    """Return a scene of one mask to which `PLAIN` gives the probabilities p and 1 - p."""
    logits = np.log([[p, 1 - p]]).astype(np.float32)
    return SceneMasks(logits, np.zeros(1), np.array([target]), np.array(present))


@pytest.mark.parametrize(("offset", "slope"), [(-2.0, 0.7), (0.0, 1.5), (1.5, 0.5)])
def test_presence_has_the_curve_that_drew_it(offset, slope):
    rng = np.random.default_rng(0)
    evidence = rng.normal(0, 2, 3000)
    p = 1 / (1 + np.exp(-evidence))
    shown = rng.uniform(size=(3000, 2)) < 1 / (
        1 + np.exp(-offset - slope * np.stack([evidence, -evidence], 1))
    )
    scenes = [scene(*one) for one in zip(p, [0] * 3000, shown, strict=True)]
    found = fitting._fit_presence(scenes, PLAIN, 2)
    assert found == pytest.approx((offset, slope), abs=0.15)


def test_evidence_against_a_class_never_speaks_for_it():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, 500)
    scenes = [scene(one, 0, (one < 0.5, one > 0.5)) for one in p]
    assert fitting._fit_presence(scenes, PLAIN, 2)[1] == 0


def test_a_mask_is_right_where_its_best_class_is_the_one_it_shows():
    scenes = [scene(0.8, 0), scene(0.8, 1), scene(0.3, 0), scene(0.3, 1), scene(0.6, NONE)]
    chosen, sure, right = fitting.judged(scenes, PLAIN, 2)
    assert chosen.tolist() == [0, 0, 1, 1, 0]
    assert sure == pytest.approx([0.8, 0.8, 0.7, 0.7, 0.6])
    assert right.tolist() == [True, False, False, True, False]


def test_each_fifth_of_the_scenes_is_judged_by_the_others(monkeypatch):
    scenes = scenes_of(Calibration(1.0, 0.0, 0.0), 1, count=12, masks=3)
    fitted = []

    def remember(others, names):
        fitted.append({id(one) for one in others})
        return Calibration(1.0 if len(fitted) > 1 else 2.0, -60.0, 0.0)

    monkeypatch.setattr(fitting, "fit_calibration", remember)
    sure, right = fitting.crossed(scenes, ["a", "b", "c"])
    folds = [{id(one) for one in scenes[fold::5]} for fold in range(5)]
    assert fitted == [{id(one) for one in scenes} - fold for fold in folds]
    ordered = [scenes[number] for fold in range(5) for number in range(fold, 12, 5)]
    best = [one.logits.argmax(1) for one in ordered]
    expected = np.concatenate([b == one.targets for b, one in zip(best, ordered, strict=True)])
    assert right.tolist() == expected.tolist()
    assert ((sure > 0) & (sure <= 1)).all()
    first = fitting.judged(scenes[0::5], Calibration(2.0, -60.0, 0.0), 3)[1]
    assert sure[: len(first)] == pytest.approx(first)


@settings(max_examples=300, deadline=None)
@given(
    # On the grid of thresholds too, where a mask is kept.
    st.lists(
        st.tuples(st.floats(0, 1) | st.sampled_from(fitting._GRID.tolist()), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 40),
)
def test_the_best_f1_is_that_of_all_thresholds_tried(masks, more):
    sure, right = (np.array(column) for column in zip(*masks, strict=True))
    wanted = int(right.sum()) + more
    if wanted:
        assert fitting._best_f1(sure, right, wanted) == best_f1(sure, right, wanted)


def test_of_no_object_any_threshold_is_as_good():
    assert fitting._best_f1(np.array([0.0]), np.array([False]), 0) == pytest.approx(0.5)


@pytest.mark.parametrize("rare", [3, 12])
def test_a_class_counts_by_its_scenes_against_ten(rare):
    rng = np.random.default_rng(2)
    scenes = [
        scene(1 - p, 1 if p > 0.8 else NONE, (False, p > 0.8)) for p in rng.uniform(0.5, 1, 90)
    ]
    scenes += [scene(p, 0, (True, False)) for p in rng.uniform(0.5, 0.8, rare)]
    chosen, sure, right = fitting.judged(scenes, PLAIN, 2)
    shown = np.sum([one.present for one in scenes], axis=0)
    common = best_f1(sure, right, shown.sum())
    found = fitting._thresholds(scenes, PLAIN, ["a", "b"])
    for number, name in enumerate("ab"):
        own = best_f1(sure[chosen == number], right[chosen == number], shown[number])
        weight = shown[number] / (shown[number] + 10)
        assert found[name] == round(weight * own + (1 - weight) * common, 4)
        assert abs(own - common) > 0.02 or name == "b", "else the mixture would not be seen"


@pytest.mark.parametrize(("masks", "groups"), [(1, 1), (59, 1), (60, 2), (599, 19), (900, 20)])
def test_groups_have_thirty_masks_at_least_and_are_twenty_at_most(masks, groups):
    stated, rate = fitting._never_falling(np.linspace(0.1, 0.9, masks), np.arange(masks) % 2 == 0)
    assert len(stated) == len(rate) == groups + 2
