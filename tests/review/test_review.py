"""Decisions about masks: the log, finding masks again, the order of showing, the estimate."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from usam_core.errors import InputError
from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.masks.rle import encode, measures
from usam_core.review.decisions import (
    Decision,
    append_decision,
    append_undo,
    count_objects,
    judged,
    match,
    read_all,
    standing,
)
from usam_core.review.drawing import window
from usam_core.review.rulings import Rulings
from usam_core.review.sampling import Item, Judged, estimate, interval, queue
from usam_core.review.session import Listed, Session

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


def rule(decisions, masks, classes, scores, painted=None, side=64, missed=()):
    """Return what rulings leave of listed masks, best first, and of their label map."""
    listed = []
    for number, (mask, index, score) in enumerate(zip(masks, classes, scores, strict=True)):
        shape = measures(encode(mask))
        listed.append(
            Instance(
                index,
                shape["segmentation"],
                shape["area"],
                tuple(shape["bbox"]),
                score,
                prompt=number,
            )
        )
    labels = np.zeros((side, side), np.uint8)
    for one in reversed(listed):
        labels[one.mask()] = one.class_index + 1
    for where, label in painted or []:
        labels[where] = label
    label_map = LabelMap.of_names(NAMES)
    image = LabelledImage("one.png", "image", labels.shape, label_map, tuple(listed), missed=missed)
    return Rulings(decisions, {}, 0.5).apply(image, labels), labels


def test_a_rejected_mask_takes_along_what_was_painted_for_its_sake():
    masks = [box(0, 0, 20, 20), box(40, 40, 9, 9)]
    rim = box(0, 20, 20, 2)  # a mask that was suppressed for it has voted here
    far = box(0, 60, 5, 4)
    done, labels = rule([decision(masks[0], None)], masks, [0, 0], [0.9, 0.7], [(rim, 1), (far, 1)])
    assert [one.prompt for one in done.instances] == [1]
    assert [one.prompt for one in done.rejected] == [0]
    assert not labels[masks[0] | rim].any()
    assert (labels[far] == 1).all(), "nobody has said anything of what lies elsewhere"
    assert done.instances[0].reviewed is None


def test_where_others_cover_a_rejected_mask_the_pixels_are_theirs():
    masks = [box(0, 0, 20, 20), box(10, 0, 20, 20)]
    _done, labels = rule([decision(masks[0], None)], masks, [0, 1], [0.9, 0.8])
    assert (labels[masks[1]] == 2).all()
    assert not labels[masks[0] & ~masks[1]].any()


def test_a_renamed_mask_is_painted_in_its_new_name():
    masks = [box(0, 0, 20, 20), box(40, 40, 9, 9)]
    done, labels = rule(
        [decision(masks[0], "c"), decision(masks[1], "a", number=2)], masks, [0, 0], [0.9, 0.7]
    )
    assert [one.class_index for one in done.instances] == [2, 0]
    assert (labels[masks[0]] == 3).all()
    assert (labels[masks[1]] == 1).all()
    records = [one.to_coco() for one in done.instances]
    assert [r["reviewed"] for r in records] == ["changed", "accepted"]
    assert records[0]["category_id"] == 3
    assert records[0]["head_category"] == 1
    assert "head_category" not in records[1]


def test_a_mask_that_was_drawn_anew_is_that_and_nothing_of_the_old_is_left():
    old, new = box(0, 0, 20, 20), box(0, 0, 12, 30)
    said = dataclasses.replace(decision(old, "a"), drawn=encode(new))
    done, labels = rule([said], [old], [0], [0.9])
    (one,) = done.instances
    assert (one.mask() == new).all()
    assert one.reviewed == "drawn"
    assert one.score == 0.9
    assert ((labels == 1) == new).all()


def test_an_added_object_is_listed_painted_and_what_overlaps_it_gives_way():
    new, near = box(30, 30, 10, 10), box(30, 30, 10, 16)
    said = dataclasses.replace(decision(new, "b"), head_class=None)
    miss = Instance(1, encode(near), 120, (30, 30, 12, 10), 0.2)
    done, labels = rule([said], [near], [0], [0.9], missed=(miss,))
    (one,) = done.instances
    assert (one.mask() == new).all()
    assert one.reviewed == "added"
    assert one.prompt is None
    assert ((labels == 2) == new).all()
    assert not (labels == 1).any()
    assert done.missed == ()
    gone = dataclasses.replace(said, label=None, id="d2")
    done, labels = rule([gone], [], [], [])
    assert done.instances == ()
    assert not labels.any()


def test_what_was_accepted_stays_when_the_head_lists_it_no_more():
    mask = box(5, 5, 10, 10)
    done, labels = rule([decision(mask, "a")], [], [], [])
    assert [one.reviewed for one in done.instances] == ["accepted"]
    assert ((labels == 1) == mask).all()
    later = decision(box(5, 5, 10, 11), None, number=2)
    done, _ = rule([decision(mask, "a"), later], [], [], [])
    assert done.instances == (), "the later word on the same thing holds"


def test_masks_that_were_merged_are_one():
    left, right = box(0, 0, 10, 10), box(0, 10, 10, 10)
    both = encode(left | right)
    said = [
        dataclasses.replace(decision(mask, "a", number=n), drawn=both)
        for n, mask in enumerate((left, right))
    ]
    done, labels = rule(said, [left, right], [0, 0], [0.9, 0.8])
    assert len(done.instances) == 1
    assert (labels[left | right] == 1).all()
    assert count_objects(said) == 1


def test_a_split_act_is_one_line_and_taken_back_whole(tmp_path):
    log, whole = tmp_path / "log.jsonl", box(0, 0, 10, 20)
    left, right = box(0, 0, 10, 10), box(0, 10, 10, 10)
    act = [
        dataclasses.replace(decision(whole, "a", number=1), drawn=encode(left)),
        dataclasses.replace(decision(right, "a", number=2), head_class=None),
    ]
    append_decision(log, decision(whole, "a", number=0))
    append_decision(log, *act)
    assert len(log.read_text().splitlines()) == 2
    assert [d.verdict for d in standing(read_all(log))] == ["drawn", "added"]
    append_undo(log, "d2")
    assert [d.verdict for d in read_all(log)] == ["accepted"]


def test_rulings_on_an_image_without_masks_do_nothing():
    done, labels = rule([decision(box(0, 0, 8, 8), None)], [], [], [])
    assert done.instances == done.rejected == ()
    assert not labels.any()


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
    assert [one.id for one in review.undo()] == [masks[1].id]
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
