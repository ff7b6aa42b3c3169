"""Calibration on masks whose truth is made up, so that the right answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usam_core.inference.calibration import Calibration, log_odds
from usam_core.inference.fit_calibration import (
    NONE,
    SceneMasks,
    _best_f1,
    _never_falling,
    fit_calibration,
    judged,
)
from usam_core.inference.reliability import diagram, expected_calibration_error, reliability
from usam_core.inference.targets import shown_classes
from usam_core.labels.image import Instance
from usam_core.masks.bits import pack
from usam_core.masks.rle import mask_record
from usam_core.metrics.scores import StatedProbabilities
from usam_core.truth.base import VOID

NAMES = ["a", "b", "c"]


def scenes_of(truth: Calibration, scale: float, count: int = 60, masks: int = 60, seed: int = 0):
    """Return scenes whose masks are right as often as `truth` says; logits come `scale` times."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        logits = rng.normal(size=(masks, len(NAMES))) * rng.choice([0.5, 4], size=(masks, 1))
        iou = rng.uniform(0.3, 1, masks)
        p = truth.probabilities(logits, iou)
        drawn = rng.uniform(size=masks)
        targets = (np.cumsum(p, axis=1) < drawn[:, None]).sum(axis=1)
        targets[targets == len(NAMES)] = NONE
        present = np.array([(targets == c).any() for c in range(len(NAMES))])
        made.append(SceneMasks((logits * scale).astype(np.float32), iou, targets, present))
    return made


def ece(found, scenes):
    _, sure, right = judged(scenes, found, len(NAMES))
    return expected_calibration_error(reliability(sure, right))


@pytest.mark.parametrize("scale", [0.2, 1, 8])
def test_the_temperature_undoes_what_made_the_head_too_sure(scale):
    truth = Calibration(1.5, 1.0, -2.0)
    found = fit_calibration(scenes_of(truth, scale), NAMES)
    assert found.temperature == pytest.approx(1.5 * scale, rel=0.1)
    assert found.none_offset == pytest.approx(1.0, abs=0.4)
    assert found.none_slope == pytest.approx(-2.0, abs=0.5)
    fresh = scenes_of(truth, scale, seed=1)
    assert ece(found, fresh) < 0.03
    raw = Calibration(1.0, -40.0, 0.0)
    if scale != 1:
        assert ece(found, fresh) < ece(raw, fresh) / 2


def test_probabilities_by_hand():
    one = Calibration(temperature=2.0, none_offset=0.5, none_slope=-1.0)
    p = one.probabilities(np.array([[3.0, 1.0, -1.0]], np.float32), np.array([0.8]))
    weights = np.exp([1.0, 0.0, -1.0])
    assert p[0] == pytest.approx(weights / (weights.sum() + np.exp(-0.3)))


def test_what_all_outputs_share_changes_nothing():
    one = Calibration(2.0, 0.5, 0.0)
    logits = np.array([[3.0, 1.0, -1.0]], np.float32)
    iou = np.ones(1)
    assert np.allclose(one.probabilities(logits, iou), one.probabilities(logits + 100, iou))


def test_huge_logits_stay_finite():
    one = Calibration(0.01, 0.0, 0.0)
    p = one.probabilities(np.array([[1e4, -1e4], [0, 0]], np.float32), np.ones(2))
    assert np.isfinite(p).all()
    assert p[0] == pytest.approx([1, 0])


def test_outputs_beyond_the_classes_are_no_class():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 4)).astype(np.float32)
    logits[:150, 3] += 6
    targets = np.where(np.arange(300) < 150, NONE, logits[:, :3].argmax(axis=1))
    scene = SceneMasks(logits, np.ones(300), targets, np.ones(3, bool))
    found = fit_calibration([scene], NAMES)
    p = found.probabilities(logits, np.ones(300))[:, :3].sum(axis=1)
    assert p[:150].mean() < 0.2
    assert p[150:].mean() > 0.65


def test_a_class_whose_best_mask_is_unlikely_is_absent():
    truth = Calibration(1.0, 2.0, 0.0)
    found = fit_calibration(scenes_of(truth, 1, masks=4), NAMES)
    nothing = found.presence(np.zeros((0, 3)))
    assert (nothing < 0.2).all()
    seen = found.presence(np.array([[0.97, 0.01, 0.3], [0.2, 0.02, 0.1]]))
    assert seen[0] > 0.9
    assert seen[0] > seen[2] > seen[1]


def test_together_classes_have_no_more_than_1_and_the_best_keeps_its_own():
    one = Calibration(1.0, -60.0, 0.0, stated=(0.0, 0.3, 1.0), right=(0.0, 0.6, 1.0))
    found = one.probabilities(np.log([[0.4, 0.3, 0.3]]), np.zeros(1))
    best = 0.6 + 0.4 * (0.4 - 0.3) / 0.7
    assert found[0] == pytest.approx([best, (1 - best) / 2, (1 - best) / 2])


def test_presence_by_hand():
    """Offset and slope of the log odds of the best mask; even odds give the offset alone."""
    one = Calibration(1.0, 0.0, 0.0, presence_offset=-1.0, presence_slope=2.5)
    found = one.presence(np.array([[0.5, 0.9, 0.2], [0.3, 0.1, 0.25]]))
    odds = -1.0 + 2.5 * np.log([1.0, 9.0, 1 / 3])
    assert found == pytest.approx(1 / (1 + np.exp(-odds)))
    assert Calibration(1.0, 0.0, 0.0).presence(np.array([[0.9]])) == pytest.approx([0.9])


def test_log_odds_are_cut_off_on_both_sides():
    end = np.log(1e6 - 1)
    assert log_odds(np.array([0.0, 0.5, 0.75, 1.0])) == pytest.approx([-end, 0, np.log(3), end])


def test_presence_has_the_slope_of_what_it_was_fitted_to():
    """Odds of presence that are flatter than the best mask's: a slope of 1 would not do."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(3000):
        p = rng.uniform(0.02, 0.98)
        logits = np.array([[log_odds(p), -12.0, -12.0]])
        shown = rng.uniform() < 1 / (1 + np.exp(-0.4 * log_odds(p)))
        target = 0 if rng.uniform() < p else NONE
        made.append(
            SceneMasks(
                logits.astype(np.float32),
                np.zeros(1),
                np.array([target]),
                np.array([shown, False, False]),
            )
        )
    found = fit_calibration(made, NAMES)
    sure = found.presence(np.array([[0.95, 0.0, 0.0]]))[0]
    unsure = found.presence(np.array([[0.05, 0.0, 0.0]]))[0]
    flat = 1 / (1 + np.exp(-0.4 * np.log(19)))
    assert sure == pytest.approx(flat, abs=0.08)
    assert unsure == pytest.approx(1 - flat, abs=0.08)


def test_a_class_seen_in_few_scenes_leans_on_the_common_threshold():
    """b parts at 0.7 and is in one scene: its own threshold counts 1 of 11."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(200):
        p = rng.uniform(0.05, 0.95, 2)
        targets = np.array([0 if p[0] > 0.3 else NONE, NONE])
        logits = np.full((2 if number == 0 else 1, 3), -8.0)
        logits[0, 0] = log_odds(p[0])
        if number == 0:
            logits[1, 1], targets[1] = log_odds(0.9), 1
        made.append(
            SceneMasks(
                logits.astype(np.float32),
                np.zeros(len(logits)),
                targets[: len(logits)],
                np.array([targets[0] == 0, number == 0, False]),
            )
        )
    found = fit_calibration(made, NAMES)
    chosen, sure, right = judged(made, found, 3)
    shown = int(sum(scene.present.sum() for scene in made))
    common, own = best_f1(sure, right, shown), best_f1(sure[chosen == 1], right[chosen == 1], 1)
    assert abs(own - common) > 0.05, "else the mixture would not be seen"
    assert found.thresholds["b"] == pytest.approx((own + 10 * common) / 11, abs=1e-3)


def best_f1(sure, right, wanted):
    """Return the middle of the thresholds with the best F1, by trying all of them."""
    grid = np.linspace(0.02, 0.98, 49)
    f1 = [2 * (right & (sure >= t)).sum() / ((sure >= t).sum() + wanted) for t in grid]
    best = np.flatnonzero(np.isclose(f1, max(f1)))
    return grid[best[len(best) // 2]]


def test_thresholds_lie_where_right_and_wrong_part():
    """Class a is right from 0.7 on, class b from 0.3 on; both are seen often."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(400):
        p = rng.uniform(0.05, 0.95, 2)
        # Logits of a calibration with T = 1 and none = 0 that give exactly these probabilities.
        targets = np.array([0 if p[0] > 0.7 else NONE, 1 if p[1] > 0.3 else NONE])
        logits = np.full((2, 3), -8.0)
        logits[0, 0], logits[1, 1] = log_odds(p) + np.log(1.0)
        present = np.array([targets[0] == 0, targets[1] == 1, False])
        made.append(SceneMasks(logits.astype(np.float32), np.zeros(2), targets, present))
    found = fit_calibration(made, NAMES)
    chosen, sure, right = judged(made, found, 3)
    for number, name in ((0, "a"), (1, "b")):
        mine = chosen == number
        wrong_side = (sure[mine] >= found.thresholds[name]) != right[mine]
        assert wrong_side.mean() < 0.15, name
    assert found.thresholds["a"] > found.thresholds["b"]
    assert found.thresholds["b"] < found.thresholds["c"] < found.thresholds["a"]


def test_json_round_trip():
    found = fit_calibration(scenes_of(Calibration(1.5, 1.0, -2.0), 1, count=5), NAMES)
    assert Calibration.from_json(found.to_json()) == found


def test_no_masks_are_an_error():
    empty = SceneMasks(
        np.zeros((0, 3), np.float32), np.zeros(0), np.zeros(0, int), np.ones(3, bool)
    )
    with pytest.raises(ValueError, match="at least one mask"):
        fit_calibration([empty], NAMES)
    some = scenes_of(Calibration(1.5, 1.0, -2.0), 1, count=3)
    chosen, *_ = judged([empty, *some], fit_calibration([empty, *some], NAMES), len(NAMES))
    assert len(chosen) == 3 * 60, "a scene without masks among others is none"


def test_a_mask_shows_the_class_that_half_of_it_lies_on():
    """Masks of 4 x 4 pixels, half, less, and all on class 1; the last lies half on each of two."""
    truth = np.zeros((8, 8), np.uint8)
    truth[:4], truth[4:, :2], truth[4:, 2:4] = 1, 2, 3
    masks = np.zeros((4, 8, 8), bool)
    masks[0, 2:6, 4:] = True
    masks[1, 3:7, 4:] = True
    masks[2, :4, 4:] = True
    masks[3, 4:, :4] = True
    values = np.array([NONE, 0, 1, 2])
    assert shown_classes(pack(masks), truth, values).tolist() == [0, NONE, 0, 2]
    # One class at a coarser level: the whole of the last mask.
    assert shown_classes(pack(masks), truth, np.array([NONE, 0, 1, 1]))[3] == 1


def test_a_mask_just_at_a_threshold_is_kept_by_it():
    """All of one probability on the grid: above it nothing is kept."""
    at = float(np.linspace(0.02, 0.98, 49)[20])
    assert _best_f1(np.array([at]), np.array([True]), 1) == pytest.approx(0.22)
    beyond = _best_f1(np.array([0.0, at]), np.array([False, True]), 1)
    assert beyond == pytest.approx(0.22), "the middle of 0.02 to 0.42"


def test_ece_by_hand():
    table = reliability(np.array([0.95, 0.95, 0.05, 0.15]), np.array([True, False, False, True]))
    assert table["masks"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert expected_calibration_error(table) == pytest.approx((0.05 + 0.85 + 2 * 0.45) / 4)
    assert expected_calibration_error(reliability(np.zeros(0), np.zeros(0, bool))) is None
    thirds = reliability(np.array([0.2, 1.0]), np.array([True, False]), bins=3)
    assert thirds["high"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert thirds["accuracy"].dropna().tolist() == [1, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_ece_lies_between_0_and_1_and_no_mask_is_lost(masks):
    sure, right = (np.array(column) for column in zip(*masks, strict=True))
    table = reliability(sure, right)
    assert table["masks"].sum() == len(masks)
    assert 0 <= expected_calibration_error(table) <= 1


def test_the_diagram_has_a_bar_as_high_as_the_accuracy():
    table = reliability(np.full(10, 0.55), np.array([True] * 5 + [False] * 5))
    picture = np.asarray(diagram(table, "half").convert("RGB")).astype(int)
    blue = (picture == [0x9E, 0xCA, 0xE1]).all(axis=2)
    rows, columns = np.nonzero(blue)
    assert 48 + 0.5 * 360 - 3 < rows.min() < 48 + 0.5 * 360 + 5
    assert columns.min() > 48 + 0.5 * 360 - 2


def test_the_diagram_has_its_frame_its_diagonal_and_the_share_of_masks_below():
    """Ten masks in the sixth bin of ten, five in the last; one unit is 360 pixels from 48 on."""
    sure = np.array([0.55] * 10 + [0.95] * 5)
    picture = np.asarray(diagram(reliability(sure, sure > 0.9), "two"))
    assert picture.shape == (456, 456, 3)

    def extent(color, part=np.s_[:, :]):
        rows, columns = np.nonzero((picture[part] == color).all(axis=2))
        return rows.min(), rows.max(), columns.min(), columns.max()

    foot = [0x08, 0x51, 0x9C]
    assert extent(foot, np.s_[:, :300]) == (410, 414, 228, 264)
    assert extent(foot, np.s_[:, 300:]) == (410, 414, 72, 90), "half as many, half as wide"
    assert extent([0x9E, 0xCA, 0xE1]) == (49, 407, 373, 407)
    assert (picture[[48, 408], 60:200] == 0).all()
    assert (picture[60:200, [48, 408]] == 0).all()
    for x in (0.1, 0.5, 0.8):
        assert tuple(picture[int(408 - 360 * x), int(48 + 360 * x)]) == (0xCB, 0x18, 0x1D)


def test_a_listed_mask_is_right_where_half_of_its_known_pixels_are_of_its_class():
    truth = np.zeros((4, 10), np.int16)
    truth[:, :5] = 1
    truth[:, 8:] = VOID
    stated = StatedProbabilities()

    def record(columns, category, probability):
        mask = np.zeros(truth.shape, bool)
        mask[:, columns] = True
        return Instance.from_coco({**mask_record(mask, category), "probability": probability})

    stated.add(truth, [record(slice(0, 5), 1, 0.95), record(slice(0, 5), 2, 0.85)])
    stated.add(truth, [record(slice(3, 10), 1, 0.75), record(slice(8, 10), 1, 0.65)])
    stated.add(truth, [record(slice(3, 7), 1, 0.55)])
    rows = stated.table().set_index("low")
    assert rows["masks"].sum() == 4, "what lies on void alone does not count"
    right = {round(low, 1): row.accuracy for low, row in rows.iterrows() if row.masks}
    assert right == {0.9: 1, 0.8: 0, 0.7: 0, 0.5: 1}
    another = StatedProbabilities()
    another.add(np.full_like(truth, 2), [record(slice(0, 5), 1, 0.95)])
    assert another.table()["accuracy"].tolist()[-1] == 0, "on a class of a higher number"


def test_confident_mistakes_at_every_level_are_told():
    """A quarter of the labels is drawn at random: no temperature alone can say so."""
    scenes = scenes_of(Calibration(1.0, 0.0, 0.0), 1)
    rng = np.random.default_rng(5)
    noisy = [
        SceneMasks(
            s.logits,
            s.predicted_iou,
            np.where(rng.uniform(size=60) < 0.25, NONE, s.targets),
            s.present,
        )
        for s in scenes
    ]
    found = fit_calibration(noisy, NAMES)
    assert ece(found, noisy) < 0.02
    plain = replace(found, stated=(0.0, 1.0), right=(0.0, 1.0))
    assert ece(plain, noisy) > 2 * ece(found, noisy)


def test_how_often_masks_are_right_is_told_of_groups_of_thirty_by_hand():
    few = _never_falling(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]))
    assert few == (pytest.approx((0, 0.5, 1)), pytest.approx((0, 2.5 / 4, 2.5 / 4)))
    sure = np.repeat([0.3, 0.6], 30)
    rising = _never_falling(sure, sure > 0.5)
    assert rising[0] == pytest.approx((0, 0.3, 0.6, 1))
    assert rising[1] == pytest.approx((0, 0.5 / 31, 30.5 / 31, 30.5 / 31))
    assert _never_falling(sure, sure < 0.5)[1] == pytest.approx((0, 0.5, 0.5, 0.5))
    # A group of 40 counts for more than one of 39.
    uneven = np.repeat([0.3, 0.6], [40, 39])
    pooled = (40 * 40.5 / 41 + 39 * 0.5 / 40) / 79
    assert _never_falling(uneven, uneven < 0.5)[1][1] == pytest.approx(pooled)
    many = _never_falling(np.linspace(0, 1, 900), np.ones(900, bool))
    assert len(many[0]) == len(many[1]) == 20 + 2


def test_the_best_class_is_as_sure_as_such_masks_were_right_whatever_the_others_are():
    found = Calibration(
        temperature=1.0, none_offset=0.0, none_slope=0.0, stated=(0, 0.2, 1), right=(0, 0.8, 1)
    )
    logits = np.array([[1.0, 0.9, 0.8, 0.7], [3.0, 0.0, 0.0, 0.0]], np.float32)
    p = found.probabilities(logits, np.ones(2, np.float32))
    scaled = np.exp(logits - logits.mean(1, keepdims=True))
    raw = (scaled / (scaled.sum(1, keepdims=True) + 1)).max(1)
    assert p.max(1) == pytest.approx(np.interp(raw, found.stated, found.right))
    assert (p.sum(1) <= 1 + 1e-9).all()
    assert (np.argsort(p, axis=1)[:, -1] == 0).all()
    turned = found.probabilities(logits[:, ::-1], np.ones(2, np.float32))
    assert turned == pytest.approx(p[:, ::-1]), "wherever the best class stands"


def test_none_of_these_far_away_moves_no_class():
    near, far = (np.array([[2.0, 1.0, none]], np.float32) for none in (-20.0, -60.0))
    found = Calibration(temperature=1.0, none_offset=0.0, none_slope=0.0, classes=2)
    one = np.ones(1, np.float32)
    assert found.probabilities(near, one) == pytest.approx(found.probabilities(far, one))
    assert found.probabilities(near, one).shape == (1, 2)
