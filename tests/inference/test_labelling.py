"""From low-resolution masks to painted labels: packing, overlap, NMS, thresholds, rules."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.nn import functional

from usam_core.config.schema import InferenceConfig
from usam_core.inference.scoring import candidates, class_logits, label_image
from usam_core.masks.bits import areas, pack, unpack, upscale, upscale_part, valid_hw
from usam_core.masks.paint import Overlaps, paint, paint_votes, suppress
from usam_core.types import Instances, MaskSet

masks_16 = arrays.arrays(bool, st.tuples(st.integers(0, 6), st.just(16), st.just(16)))


def iou_of_pairs(packed):
    """Return the IoU of all pairs, float64 (p, p)."""
    compare, everyone = Overlaps(packed), np.arange(len(packed))
    return np.array([compare(one, everyone) for one in everyone])


def box(top, left, height, width, side=16):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_tokens_alone_give_all_masks_of_a_prompt_the_same_logits():
    rng = np.random.default_rng(0)
    masks = MaskSet(
        tokens=rng.normal(size=(3, 1024)).astype(np.float16),
        packed_masks=np.zeros((3, 4, 8, 1), np.uint8),
        predicted_iou=np.ones((3, 4), np.float32),
        stability=np.ones((3, 4), np.float32),
        points_xy=np.zeros((3, 2), np.float32),
        size_hw=(8, 8),
    )
    head = nn.Linear(1024, 2)
    expected = head(torch.from_numpy(masks.tokens.astype(np.float32))).detach().numpy()
    logits = class_logits(head, masks, ["tokens"])
    assert logits.shape == (3, 4, 2)
    np.testing.assert_array_equal(logits, np.stack([expected] * 4, axis=1))
    chosen = class_logits(head, masks, ["tokens"], np.array([0, 1, 2]))
    np.testing.assert_array_equal(chosen, expected)
    with pytest.raises(ValueError, match="tokens"):
        class_logits(head, replace(masks, tokens=None), ["tokens"])


@given(masks_16)
def test_unpacking_gives_back_what_was_packed(masks):
    assert np.array_equal(unpack(pack(masks)), masks)
    assert np.array_equal(areas(pack(masks)), masks.sum((1, 2)))


@given(masks_16)
def test_overlap_counts_as_whole_masks_do(masks):
    iou = iou_of_pairs(pack(masks))
    for i, a in enumerate(masks):
        for j, b in enumerate(masks):
            shared, union = (a & b).sum(), (a | b).sum()
            assert iou[i, j] == pytest.approx(shared / max(union, 1))


@settings(max_examples=50)
@given(masks_16, st.integers(0, 2**32 - 1))
def test_nms_keeps_no_conflict_and_drops_nothing_without_one(masks, seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(len(masks)).astype(np.float32)
    packed = pack(masks)
    kept = suppress(packed, scores, 0.5)
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    conflict = iou_of_pairs(packed) > 0.5
    for number in range(len(masks)):
        better = [k for k in kept if k != number and scores[k] >= scores[number]]
        assert (number in kept) == (not any(conflict[k, number] for k in better))
    # Suppressing what was kept changes nothing.
    again = suppress(packed[kept], scores[kept], 0.5)
    assert again.tolist() == list(range(len(kept)))


def test_a_suppressed_mask_suppresses_nothing():
    # Each overlaps the next by two thirds of a mask, the first and the last by one third.
    packed = pack(np.stack([box(0, left, 6, 6) for left in (0, 2, 4)]))
    kept = suppress(packed, np.array([0.9, 0.8, 0.7], np.float32), 0.4)
    assert kept.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("size_hw", "frame", "expected"),
    [
        ((375, 500), 256, (192, 256)),
        ((376, 500), 256, (193, 256)),
        ((500, 375), 80, (80, 60)),
        ((1, 1000), 80, (1, 80)),
    ],
)
def test_the_longer_side_fills_the_frame(size_hw, frame, expected):
    assert valid_hw(size_hw, frame) == expected


def test_scaling_up_takes_the_images_part_and_keeps_straight_borders():
    mask = np.zeros((1, 16, 16), bool)
    mask[0, :4, :8] = True  # left half of the upper half of an image of 8 x 16 cells
    mask[0, 8:] = True  # padding must not come through
    full = upscale(pack(mask), (40, 80))
    assert full.shape == (1, 40, 80)
    expected = np.zeros((40, 80), bool)
    expected[:20, :40] = True
    # Straight borders are exact; the corner is rounded by a few pixels.
    assert np.array_equal(full[0, :15], expected[:15])
    assert np.array_equal(full[0, :, :35], expected[:, :35])
    assert (full[0] != expected).sum() <= 4
    assert upscale(pack(mask[:0]), (5, 7)).shape == (0, 5, 7)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0, 0, 0, 0.25, 1]),
    ),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_scaling_a_part_equals_scaling_the_whole(values, size_hw):
    place, part = upscale_part(values, size_hw)
    whole = np.zeros(size_hw, np.float32)
    whole[place] = part
    expected = functional.interpolate(
        torch.from_numpy(values)[None, None], size=size_hw, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def mask_set(masks, features, iou):
    d = len(masks)
    return MaskSet(
        tokens=np.zeros((d, 1024), np.float16),
        packed_masks=pack(np.asarray(masks)),
        predicted_iou=np.asarray(iou, np.float32),
        stability=np.full((d, 4), 0.8, np.float32),
        points_xy=np.zeros((d, 2), np.float32),
        size_hw=(16, 16),
        features={"encoder": np.asarray(features, np.float16)},
    )


class Doubling(nn.Module):
    """Takes the two features of a mask for its two logits."""

    def forward(self, rows):
        return rows.float()[..., :2]


def labelled(config, classes=("a", "b"), score="confidence"):
    whole, part = box(0, 0, 8, 8), box(8, 8, 8, 8)
    masks = np.stack([np.stack([whole] * 4), np.stack([part] * 4), np.stack([whole] * 4)])
    # Logits: prompt 0 sure of a, prompt 1 leaning to b, prompt 2 less sure of a than prompt 0.
    features = np.array([[[4, 0]] * 4, [[0, 1]] * 4, [[2, 0]] * 4])
    some = mask_set(masks, features, np.full((3, 4), 0.8))
    plain = config.model_copy(update={"score": score})
    return label_image(Doubling(), some, ["encoder"], plain, list(classes))[0]


def test_thresholds_and_nms_leave_the_best_mask_of_each_thing():
    found = labelled(InferenceConfig(threshold=0.5, min_area=0))
    assert found.prompts.tolist() == [0, 1]
    assert found.classes.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.982, 0.731], abs=1e-3)
    assert found.masks[0].sum() == 64
    assert labelled(InferenceConfig(threshold=0.9)).prompts.tolist() == [0]


@pytest.mark.parametrize(
    ("setting", "prompts"),
    [
        ({"class_thresholds": {"b": 0.99}}, [0]),
        ({"min_predicted_iou": 0.9}, []),
        ({"min_stability": 0.9}, []),
        ({"max_area": 0.2}, []),
        ({"min_area": 0.3}, []),
        ({"nms_iou": 1.0}, [0, 2, 1]),
    ],
)
def test_each_setting_does_its_part(setting, prompts):
    config = InferenceConfig(**{"threshold": 0.5, "min_area": 0, **setting})
    assert labelled(config).prompts.tolist() == prompts


def test_score_may_count_the_predicted_iou():
    found = labelled(InferenceConfig(threshold=0.5, min_area=0), score="confidence_x_iou")
    assert found.scores[0] == pytest.approx(0.982 * 0.8, abs=1e-3)


def test_candidates_carry_the_entropy_of_their_own_mask():
    masks = np.zeros((1, 4, 16, 16), bool)
    some = mask_set(masks, [[[0, 0], [0, 0], [9, 0], [0, 0]]], [[0.9, 0.1, 0.5, 0.2]])
    config = InferenceConfig(mask_choice="best_iou")
    found = candidates(Doubling(), some, ["encoder"], config)
    assert found.confidence[0] > 0.99
    assert found.entropy[0] < 0.01
    assert found.classes.tolist() == [0]


def instances(masks, classes, scores):
    p = len(masks)
    return Instances(
        masks=np.asarray(masks, bool).reshape(p, 16, 16),
        classes=np.asarray(classes, np.int64),
        scores=np.asarray(scores, np.float32),
        entropy=np.zeros(p, np.float32),
        predicted_iou=np.zeros(p, np.float32),
        prompts=np.arange(p),
        probability=np.zeros(p, np.float32),
        runner_up=np.full(p, -1),
    )


def test_the_best_score_gets_a_pixel_that_several_claim():
    large, middle, small = box(0, 0, 12, 12), box(0, 0, 8, 8), box(0, 0, 4, 4)
    found = instances([large, small, middle, middle], [0, 1, 2, 2], [0.9, 0.3, 0.5, 0.5])
    labels = paint(found, 3)
    assert labels[0, 0] == 1
    assert labels[10, 10] == 1
    assert labels[15, 15] == 0
    assert labels.dtype == np.uint8


def test_votes_add_up_before_suppression_and_a_lone_mask_keeps_its_border():
    masks = np.stack([box(0, 0, 8, 8), box(0, 0, 4, 16), box(0, 0, 4, 16)])
    least = np.full(3, 0.25, np.float32)
    scores = np.array([0.8, 0.5, 0.5])
    labels = paint_votes(pack(masks), np.array([0, 2, 2]), scores, (16, 16), least)
    assert labels[0, 0] == 3  # 0.5 + 0.5 for class 2 against 0.8
    assert labels[6, 2] == 1
    assert labels[6, 12] == 0
    alone = paint_votes(pack(masks[:1]), np.array([1]), np.array([0.5]), (32, 32), least)
    assert np.array_equal(alone == 2, upscale(pack(masks[:1]), (32, 32))[0])


@pytest.mark.parametrize(("least", "painted"), [([0.6, 0.1], False), ([0.1, 0.6], True)])
def test_a_vote_must_exceed_what_its_own_class_asks(least, painted):
    mask = pack(box(0, 0, 8, 8)[None])
    least = np.array(least, np.float32)
    labels = paint_votes(mask, np.array([0]), np.array([0.5]), (16, 16), least)
    assert labels.any() == painted


@pytest.mark.parametrize(("scores", "least"), [([0.5, 0.4], [0.1, 0.6]), ([0.4, 0.5], [0.6, 0.1])])
def test_a_class_that_asks_for_more_takes_nothing_from_the_one_that_won(scores, least):
    both, least = pack(np.stack([box(0, 0, 8, 8)] * 2)), np.array(least, np.float32)
    labels = paint_votes(both, np.array([0, 1]), np.array(scores), (16, 16), least)
    assert labels[0, 0] == 1 + np.argmax(scores)


def test_a_label_may_give_way_to_one_that_shares_no_bit_with_it():
    whole = pack(np.stack([box(0, 0, 8, 8)] * 2))
    scores, least = np.array([0.4, 0.5]), np.zeros(254, np.float32)
    assert paint_votes(whole, np.array([0, 253]), scores, (16, 16), least)[0, 0] == 254


def test_votes_lie_where_their_masks_do_within_the_frame():
    mask = box(5, 8, 9, 16, side=32)
    least = np.full(1, 0.1, np.float32)
    labels = paint_votes(pack(mask[None]), np.array([0]), np.array([0.5]), (32, 32), least)
    assert np.array_equal(labels == 1, mask)


@pytest.mark.parametrize(("iou", "painted"), [(0.45, False), (0.55, True)])
def test_the_votes_for_a_class_must_exceed_half_of_its_threshold(iou, painted):
    """The head is sure; the predicted IoU alone makes the vote: 0.9 asks for more than 0.45."""
    masks = np.stack([np.stack([box(0, 0, 8, 8)] * 4)])
    some = mask_set(masks, np.array([[[20, 0]] * 4]), np.full((1, 4), iou))
    config = InferenceConfig(threshold=0.9, min_area=0)
    assert label_image(Doubling(), some, ["encoder"], config, ["a", "b"]).labels.any() == painted


def test_equal_votes_go_to_the_lowest_class_and_equal_scores_to_the_first_mask():
    whole = np.stack([box(0, 0, 8, 8)] * 2)
    least = np.zeros(3, np.float32)
    half = np.full(2, 0.5, np.float32)
    for order in ([2, 1], [1, 2]):
        assert paint_votes(pack(whole), np.array(order), half, (16, 16), least)[0, 0] == 2
    assert paint(instances(whole, [2, 1], half), 3)[0, 0] == 3
    assert suppress(pack(whole), half, 0.5).tolist() == [0]


def test_limits_of_the_thresholds_belong_to_the_kept():
    """Each value just at its limit: kept; 64 of 256 pixels are a quarter of the image."""
    exact = {
        "threshold": 0.5,
        "min_predicted_iou": 0.75,
        "min_stability": 0.75,
        "min_area": 0.25,
        "max_area": 0.25 + 1e-9,
    }
    masks = np.stack([np.stack([box(0, 0, 8, 8)] * 4)])
    some = replace(
        mask_set(masks, np.zeros((1, 4, 2)), np.full((1, 4), 0.75)),
        stability=np.full((1, 4), 0.75, np.float32),
    )
    config = InferenceConfig(**exact)
    found = label_image(Doubling(), some, ["encoder"], config, ["a", "b"])
    assert found.instances.prompts.tolist() == [0]


@pytest.mark.parametrize(("limit", "kept"), [(1 / 3, [0, 1]), (0.33, [0])])
def test_an_overlap_just_at_the_limit_is_kept(limit, kept):
    packed = pack(np.stack([box(0, 0, 8, 8), box(0, 4, 8, 8)]))
    scores = np.array([0.9, 0.8], np.float32)
    assert suppress(packed, scores, limit).tolist() == kept


def test_an_image_is_painted_by_the_rule_that_the_settings_name():
    whole = np.stack([np.stack([box(0, 0, 8, 8)] * 4)] * 3)
    some = mask_set(whole, np.array([[[4, 0]] * 4, [[0, 3]] * 4, [[0, 3]] * 4]), np.ones((3, 4)))
    painted = {
        rule: label_image(
            Doubling(), some, ["encoder"], InferenceConfig(paint=rule, threshold=0.5), ["a", "b"]
        )[1][0, 0]
        for rule in ("score", "vote")
    }
    assert painted == {"score": 1, "vote": 2}


def test_a_mask_without_any_pixel_in_the_image_is_no_instance():
    whole = np.stack([np.stack([box(0, 0, 8, 8)] * 4), np.stack([box(11, 11, 1, 1)] * 4)])
    some = replace(
        mask_set(whole, np.array([[[1, 0]] * 4, [[4, 0]] * 4]), np.ones((2, 4))), size_hw=(2, 2)
    )
    found = label_image(
        Doubling(), some, ["encoder"], InferenceConfig(threshold=0.5, min_area=0), ["a", "b"]
    )
    assert found.instances.masks.any(axis=(1, 2)).tolist() == [True]
    assert found.instances.prompts.tolist() == [0]
    nearly = InferenceConfig(threshold=0.99, min_area=0)
    dropped = label_image(Doubling(), some, ["encoder"], nearly, ["a", "b"])
    assert dropped.missed.prompts.tolist() == [0]


def test_nothing_kept_is_all_background_and_many_classes_need_sixteen_bits():
    assert not paint(instances([], [], []), 3).any()
    nothing = pack(np.zeros((0, 16, 16), bool))
    assert not paint_votes(nothing, *2 * [np.zeros(0)], (5, 7), np.zeros(3)).any()
    assert paint(instances([], [], []), 300).dtype == np.uint16


def test_tokens_alone_give_every_mask_of_a_prompt_the_same_logits():
    some = mask_set(np.zeros((2, 4, 16, 16), bool), np.zeros((2, 4, 2)), np.ones((2, 4)))
    head = nn.Linear(1024, 2)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, 0.0]))
    found = candidates(head, some, ["tokens"], InferenceConfig())
    assert found.classes.tolist() == [0, 0]


def test_borders_follow_the_image_where_it_is_given_and_asked_for():
    """The mask lies one cell beside the object: its pixels are brought back by the colors."""
    masks = np.stack([np.stack([box(4, 5, 8, 8)] * 4)])
    some = replace(mask_set(masks, np.array([[[4, 0]] * 4]), np.ones((1, 4))), size_hw=(128, 128))
    rgb = np.full((128, 128, 3), 40, np.uint8)
    rgb[32:96, 32:96] = (200, 180, 30)
    asked = []

    def picture():
        asked.append(1)
        return rgb

    def labelled(**settings):
        config = InferenceConfig(threshold=0.5, **settings)
        return label_image(Doubling(), some, ["encoder"], config, ["a", "b"], rgb=picture)

    truth = (rgb != 40).all(axis=-1)
    on_grid, found = labelled(edges="grid"), labelled()
    assert len(asked) == 1, "the grid needs no image"
    assert (on_grid.labels[truth] == 1).mean() < 0.92
    for mask in (found.labels == 1, found.instances.masks[0]):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.97
    asked.clear()
    assert not len(labelled(min_area=0.5).instances)
    assert not asked, "nothing was found, so nothing was read"
    with pytest.raises(ValueError, match="rows and columns"):
        label_image(
            Doubling(),
            some,
            ["encoder"],
            InferenceConfig(threshold=0.5),
            ["a", "b"],
            rgb=lambda: rgb[:64],
        )


def test_listed_masks_and_the_label_map_lose_specks():
    mask = box(2, 2, 20, 20, side=32)
    mask[10, 10] = False
    mask[28, 28] = True
    some = mask_set(np.stack([np.stack([mask] * 4)]), np.array([[[4, 0]] * 4]), np.ones((1, 4)))
    some = replace(some, size_hw=(32, 32))
    for change, specks in (({}, False), ({"min_part": 0, "min_area": 0}, True)):
        config = InferenceConfig(threshold=0.5, **{"min_area": 0.01, **change})
        found = label_image(Doubling(), some, ["encoder"], config, ["a", "b"])
        for one in (found.instances.masks[0], found.labels == 1):
            assert (bool(one[28, 28]), not one[10, 10]) == (specks, specks)
