"""Decisions about masks: the log, finding masks again, the order of showing, the estimate."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from usam_core.config.schema import InferenceConfig
from usam_core.errors import InputError
from usam_core.labels.image import Instance, list_instances
from usam_core.masks.bits import pack, upscale
from usam_core.masks.paint import suppress
from usam_core.masks.rle import encode
from usam_core.review.decisions import (
    Decision,
    append_decision,
    append_undo,
    judged,
    match,
    read_all,
    standing,
)
from usam_core.review.rulings import Rulings
from usam_core.review.server import window
from usam_core.review.session import Item, Judged, Listed, Session, estimate, interval, queue
from usam_core.types import Instances

NAMES = ["a", "b", "c"]


def box(top, left, height, width, side=64):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def decision(mask, label, head_class="a", prompt=0, number=1, sampled=False, sha256="image"):
    return Decision(
        id=f"d{number}",
        time=f"2026-01-01T00:00:{number:02d}+00:00",
        sha256=sha256,
        file_name="one.png",
        prompt=prompt,
        mask=encode(mask),
        head_class=head_class,
        label=label,
        sampled=sampled,
    )


def item(number, name="a", sha256="image"):
    mask = {"rle": encode(box(number, 0, 1, 5)), "area": 5, "bbox": (0, number, 5, 1)}
    return Item(sha256, "one.png", name, Instance(0, **mask, score=0.5, prompt=number))


def test_the_last_word_on_a_mask_stands_and_undo_gives_the_one_before_back(tmp_path):
    log = tmp_path / "decisions.jsonl"
    here, there = box(0, 0, 8, 8), box(20, 20, 8, 8)
    for number, (mask, label) in enumerate([(here, "a"), (there, None), (here, "b")], start=1):
        append_decision(log, decision(mask, label, number=number))
    assert [d.label for d in standing(read_all(log))] == [None, "b"]
    append_undo(log, "d3")
    assert [(d.label, d.verdict) for d in standing(read_all(log))] == [
        ("a", "accepted"),
        (None, "rejected"),
    ]


def test_a_line_that_a_crash_tore_takes_no_other_with_it(tmp_path, caplog):
    log = tmp_path / "decisions.jsonl"
    append_decision(log, decision(box(0, 0, 8, 8), "a", number=1))
    with open(log, "a") as file:
        file.write('{"id": "torn", "time": "20')
    append_decision(log, decision(box(20, 0, 8, 8), "b", number=2))
    assert [d.id for d in read_all(log)] == ["d1", "d2"]
    assert "decisions.jsonl:2" in caplog.text
    assert log.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("counts", ["04h0", "", "0", "not runs"])
def test_a_mask_that_cannot_be_is_left_out(tmp_path, caplog, counts):
    """Pycocotools would work on it for ever."""
    good = decision(box(3, 5, 30, 7), "a")
    bad = dataclasses.replace(good, id="bad", mask={"size": [64, 64], "counts": counts})
    for one in (bad, good):
        append_decision(tmp_path / "log.jsonl", one)
    assert read_all(tmp_path / "log.jsonl") == [good]
    assert "log.jsonl:1" in caplog.text


def test_masks_of_all_shapes_are_believed(tmp_path):
    rng = np.random.default_rng(0)
    sizes = ((1, 1), (7, 300), (64, 64))
    some = [rng.uniform(size=size) < share for size in sizes for share in (0, 0.3, 1)]
    for number, mask in enumerate(some):
        append_decision(tmp_path / "log.jsonl", decision(mask, "a", number=number))
    assert len(read_all(tmp_path / "log.jsonl")) == 9


def test_a_mask_is_found_again_by_its_pixels_whatever_row_it_has():
    masks = [box(40, 40, 8, 8), box(0, 0, 8, 10), box(0, 0, 8, 8)]
    said = [decision(box(0, 0, 8, 8), "a", number=1), decision(box(20, 20, 8, 8), None, number=2)]
    found = match([encode(m) for m in masks], [5, 6, 7], said)
    assert [d and d.id for d in found] == [None, None, "d1"], "the most alike, each once"
    found = match([encode(masks[1])], [6], said)
    assert found[0].id == "d1", "80 of 80 and 64 pixels: an IoU of 0.8"
    assert match([encode(box(0, 0, 8, 11))], [0], said) == [None], "0.727 is too little"


def test_of_two_decisions_on_one_place_that_of_the_same_point_is_taken():
    mask = encode(box(0, 0, 8, 8))
    said = [decision(box(0, 0, 8, 8), "a", prompt=p, number=p) for p in (3, 4)]
    assert match([mask], [3], said)[0].id == "d3"
    assert match([mask], [9], said)[0].id == "d4", "else the later one"


def test_a_decision_of_another_size_of_image_is_left_alone():
    assert match([encode(box(0, 0, 8, 8))], [0], [decision(box(0, 0, 8, 8, side=32), "a")]) == [
        None
    ]


def test_a_rejected_name_says_nothing_of_another():
    no = decision(box(0, 0, 8, 8), None, head_class="a")
    assert judged(no, "a", {}) is False
    assert judged(no, "b", {}) is None
    yes = decision(box(0, 0, 8, 8), "b", head_class="a")
    assert judged(yes, "a", {}) is False
    assert judged(yes, "b", {}) is True
    assert judged(yes, "round", {"b": "round"}) is True, "names of classes hold for parents"


def rule(decisions, masks, classes, scores):
    """Return what rulings leave of masks that lie in one image, by their own suppression."""
    packed, classes = pack(np.stack(masks)), np.array(classes)
    config = InferenceConfig()
    stay = suppress(packed, np.array(scores, np.float32), 0.5)
    p = len(stay)
    instances = Instances(
        masks=upscale(packed[stay], (64, 64)),
        classes=classes[stay],
        scores=np.array(scores, np.float32)[stay],
        entropy=np.zeros(p, np.float32),
        predicted_iou=np.ones(p, np.float32),
        prompts=stay,
        probability=np.ones(p, np.float32),
        runner_up=np.zeros(p, np.int64),
    )
    return Rulings(decisions, NAMES, {}).apply(instances, packed, classes, stay, config)


def test_a_rejected_mask_takes_along_what_was_suppressed_for_it():
    masks = [box(0, 0, 20, 20), box(0, 0, 20, 19), box(40, 40, 9, 9)]
    done = rule([decision(masks[0], None)], masks, [0, 1, 0], [0.9, 0.8, 0.7])
    assert done.instances.prompts.tolist() == [2]
    assert done.voters.tolist() == [2], "the second would else still be painted"
    assert done.rejected.prompts.tolist() == [0]
    assert list_instances(done.instances)[0].reviewed is None


def test_a_renamed_mask_and_its_doubles_vote_for_the_new_name():
    masks = [box(0, 0, 20, 20), box(0, 0, 20, 19), box(40, 40, 9, 9)]
    done = rule(
        [decision(masks[0], "c"), decision(masks[2], "a", number=2)],
        masks,
        [0, 1, 0],
        [0.9, 0.8, 0.7],
    )
    assert done.instances.classes.tolist() == [2, 0]
    assert done.classes.tolist() == [2, 2, 0]
    records = [one.to_coco() for one in list_instances(done.instances)]
    assert [r["reviewed"] for r in records] == ["changed", "accepted"]
    assert records[0]["category_id"] == 3
    assert records[0]["head_category"] == 1
    assert "head_category" not in records[1]


def test_rulings_on_an_image_without_masks_do_nothing():
    packed = pack(np.zeros((0, 64, 64), bool))
    none = np.zeros(0, np.int64)
    empty = Instances(
        np.zeros((0, 64, 64), bool), none, *[np.zeros(0, np.float32)] * 3, none, none, none
    )
    rulings = Rulings([decision(box(0, 0, 8, 8), None)], NAMES, {})
    done = rulings.apply(empty, packed, none, none, InferenceConfig())
    assert len(done.instances) == len(done.rejected) == len(done.voters) == 0


def test_every_third_mask_is_of_chance_and_classes_take_turns():
    masks = [item(number, "a" if number < 9 else "b") for number in range(12)]
    drawn = {"a": masks[:9][::-1], "b": masks[9:]}
    shown = queue([masks, masks[::-1]], drawn, limit=9)
    assert [by_chance for _, by_chance in shown] == [False, False, True] * 3
    doubtful = [masks.index(one) for one, by_chance in shown if not by_chance]
    assert doubtful == [0, 11, 1, 10, 2, 7], "two measures in turn; 8 and 9 were shown by chance"
    assert [one.name for one, by_chance in shown if by_chance] == ["a", "b", "a"]


def test_each_mask_is_shown_once_and_the_limit_holds():
    masks = [item(number) for number in range(7)]
    shown = queue([masks], {"a": masks}, limit=100)
    assert Counter(one.id for one, _ in shown) == Counter(one.id for one in masks)
    assert len(queue([masks], {"a": masks}, limit=4)) == 4
    assert all(by_chance for _, by_chance in queue([], {"a": masks}, limit=100))


def test_the_order_of_chance_is_that_of_contents():
    assert item(1).draw == item(1).draw
    assert item(1).draw != item(1, sha256="another").draw
    draws = np.array([item(n, sha256=str(s)).draw for n in range(40) for s in range(10)])
    assert 0.4 < (draws < 2**62).mean() < 0.6, "spread over 0 to 2^63"


def test_an_interval_worked_by_hand():
    # All of n right: the lower end solves p^n = 0.025. None right: 1 less that.
    assert interval(10, 10) == pytest.approx((0.025 ** (1 / 10), 1.0))
    assert interval(0, 10) == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    assert interval(0, 0) == (0.0, 1.0)
    # 1 of 2: the ends solve 1 - (1 - p)^2 = 0.025 and 1 - p^2 = 0.025.
    assert interval(1, 2) == pytest.approx((1 - 0.975**0.5, 0.975**0.5))


def test_only_the_beginning_of_the_order_of_chance_is_the_sample():
    draws = np.array([10, 20, 30, 40, 50])
    said = [
        Judged(10, True, True),
        Judged(20, False, False),  # shown for its doubt, and in the sample all the same
        Judged(30, True, True),
        Judged(50, False, False),  # shown for its doubt, beyond the sample: says nothing
    ]
    found = estimate("a", draws, said)
    assert (found.masks, found.decided, found.sample, found.right) == (5, 4, 3, 2)
    assert found.precision == pytest.approx(2 / 3)
    assert (found.low, found.high) == interval(2, 3)
    assert found.skipped == 0


def test_a_mask_that_was_passed_over_counts_for_the_worse_at_both_ends():
    found = estimate("a", np.array([10, 20, 30]), [Judged(10, True, True), Judged(30, True, True)])
    assert (found.sample, found.skipped, found.precision) == (2, 1, 1.0)
    assert found.low == interval(2, 3)[0]
    assert found.high == interval(3, 3)[1]


def test_masks_shown_for_their_doubt_alone_give_no_precision():
    found = estimate("a", np.array([10, 20]), [Judged(10, False, False)])
    assert found.precision is None
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_interval_holds_although_doubtful_masks_are_shown_first():
    """True precision 0.8, the doubtful ones mostly wrong: a naive share would say far less."""
    rng, inside, naive = np.random.default_rng(0), 0, []
    for trial in range(60):
        masks = [item(n % 60, sha256=f"{trial}-{n}") for n in range(200)]
        wrong = set(rng.choice(200, 40, replace=False).tolist())
        doubt = sorted(range(200), key=lambda n: (n not in wrong) + rng.uniform(0, 0.8))
        by_chance = sorted(masks, key=lambda one: one.draw)
        shown = queue([[masks[n] for n in doubt]], {"a": by_chance}, limit=90)
        right = {one.id: masks.index(one) not in wrong for one, _ in shown}
        said = [Judged(one.draw, right[one.id], chance) for one, chance in shown]
        found = estimate("a", np.sort([one.draw for one in masks]), said)
        inside += found.low <= 0.8 <= found.high
        naive.append(np.mean(list(right.values())))
    assert inside >= 55, "95 % of 60 are 57"
    assert np.mean(naive) < 0.65


def session(tmp_path, shown, decided=()):
    classes = {name: [] for name in NAMES}
    for one in [*shown, *decided]:
        classes[one.name].append(one.draw)
    draws = {name: np.sort(np.array(places, np.int64)) for name, places in classes.items()}
    told = []
    listed = Listed(NAMES, draws, list(decided), [(one, True) for one in shown], {})
    return Session(listed, tmp_path / "log.jsonl", told.append), told


def test_a_session_writes_before_it_answers_and_tells_precisions(tmp_path):
    masks = [item(0, "a"), item(1, "b")]
    review, told = session(tmp_path, masks)
    review.decide(masks[0].id, "a")
    review.decide(masks[1].id, "c")
    (first, second) = (json.loads(line) for line in (tmp_path / "log.jsonl").open())
    assert (first["label"], second["label"]) == ("a", "c")
    assert first["sampled"] is True
    by_name = {one.name: one for one in told[-1]}
    assert by_name["a"].precision == 1
    assert by_name["b"].precision == 0, "changed to c: the head was wrong"
    assert by_name["c"].precision is None
    assert review.undo().id == masks[1].id
    assert masks[1].decision is None
    assert [one["verdict"] for one in review.state()["items"]] == ["accepted", None]


def test_a_session_refuses_what_it_does_not_know(tmp_path):
    mask = item(0)
    review, _ = session(tmp_path, [mask])
    with pytest.raises(InputError, match="mask 'x': not one of the 1 that are shown"):
        review.decide("x", "a")
    with pytest.raises(InputError, match="class 'zebra': expected one of"):
        review.decide(mask.id, "zebra")
    with pytest.raises(InputError, match="holds no decision"):
        review.undo()
    assert not (tmp_path / "log.jsonl").exists()


def test_a_decision_keeps_all_it_needs_to_be_found_again():
    fields = {field.name for field in dataclasses.fields(Decision)}
    assert {"sha256", "prompt", "mask", "head_class", "label"} <= fields
    assert not fields & {"row", "index", "annotation_id"}


def test_the_part_around_a_mask_stays_in_the_image():
    assert window((0, 0, 64, 64), (64, 64)) == (0, 0, 64, 64)
    assert window((500, 500, 10, 10), (1000, 1000)) == (468, 468, 542, 542)
