"""Metrics against a case worked by hand, against `pycocotools`, and against permutations."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from usam_core.labels import Instance, LabelMap
from usam_core.metrics.boundaries import Boundaries
from usam_core.metrics.scores import (
    AveragePrecision,
    Confusion,
    FalsePositives,
    class_table,
    write_report,
)

CLASSES = ["a", "b", "c"]


def test_three_classes_by_hand():
    """Truth and labels of 2 x 5 pixels; -1 is void.

    truth   0 0 1 1 -1      labels  0 1 1 1 1
            0 2 2 2 2               0 2 2 1 0

    background: truth 3, labels 3, both 2: IoU 2 / 4
    a: truth 2, labels 4 (the void one does not count), both 2: IoU 2 / 4
    b: truth 4, labels 2, both 2: IoU 2 / 4;   c: in neither, left out
    """
    truth = np.array([[0, 0, 1, 1, -1], [0, 2, 2, 2, 2]], np.int16)
    labels = np.array([[0, 1, 1, 1, 1], [0, 2, 2, 1, 0]], np.uint8)
    confusion = Confusion(CLASSES)
    confusion.add(truth, labels)
    scores = confusion.scores(common_images=1)
    assert scores.per_class == {"background": 0.5, "a": 0.5, "b": 0.5, "c": None}
    assert scores.miou == pytest.approx(0.5)
    assert scores.pixel_accuracy == pytest.approx(6 / 9)
    assert scores.images == {"background": 1, "a": 1, "b": 1, "c": 0}
    assert scores.common == ["background", "a", "b"]


def test_a_class_that_is_painted_but_never_true_counts_as_zero():
    confusion = Confusion(CLASSES)
    confusion.add(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 3]], np.uint8))
    scores = confusion.scores()
    assert scores.per_class["c"] == 0
    assert scores.miou == pytest.approx((0.75 + 0) / 2)
    # No image holds c: it is not common, whatever was painted.
    assert scores.miou_common == pytest.approx(0.75)


def test_the_matrix_has_truth_in_rows_and_labels_in_columns():
    confusion = Confusion(["a", "b"])
    confusion.add(np.array([[1, 1, 2, 0, 2]]), np.array([[1, 2, 2, 1, 2]]))
    assert confusion.matrix.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 2]]
    with pytest.raises(ValueError, match="up to 3; expected below 3"):
        confusion.add(np.array([[3]]), np.array([[0]]))


def test_a_class_is_common_from_ten_images_on():
    confusion = Confusion(CLASSES)
    for held in [1] * 11 + [2] * 10 + [3] * 9:
        confusion.add(np.full((1, 1), held), np.full((1, 1), held))
    assert confusion.scores().common == ["background", "a", "b"]


def test_one_pixel_is_enough_and_none_is_nothing():
    confusion = Confusion(CLASSES)
    confusion.add(np.full((2, 2), -1), np.zeros((2, 2), np.uint8))
    nothing = confusion.scores()
    assert (nothing.miou, nothing.pixel_accuracy) == (0, 0)
    confusion.add(np.array([[-1, 2]]), np.array([[0, 2]]))
    one = confusion.scores()
    assert (one.miou, one.pixel_accuracy) == (1, 1)


@given(
    arrays.arrays(np.int16, (6, 8), elements=st.sampled_from([0, 1, 2, 3, -1])),
    arrays.arrays(np.uint8, (6, 8), elements=st.integers(0, 3)),
    st.permutations([1, 2, 3]),
)
def test_renaming_the_classes_changes_no_mean(truth, labels, order):
    table = np.array([0, *order, -1], np.int16)  # void is the last, too
    plain, renamed = Confusion(CLASSES), Confusion(CLASSES)
    plain.add(truth, labels)
    renamed.add(table[truth], table[labels])
    assert plain.scores().miou == pytest.approx(renamed.scores().miou)
    assert plain.scores().pixel_accuracy == pytest.approx(renamed.scores().pixel_accuracy)


@pytest.mark.parametrize(
    ("truth", "labels", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), "differ in shape"),
        (np.zeros((2, 3)), np.zeros((2, 2)), "differ in shape"),
        (np.full((1, 1), 9), np.zeros((1, 1)), "expected below 4"),
        (np.zeros((1, 1)), np.full((1, 1), 4), "expected below 4"),
    ],
)
def test_values_that_cannot_be_are_refused(truth, labels, message):
    with pytest.raises(ValueError, match=message):
        Confusion(CLASSES).add(truth.astype(np.uint8), labels.astype(np.uint8))


def test_false_positives_by_hand():
    counter = FalsePositives(["a", "b"])
    # b is absent and painted on 1 of 4 known pixels; a is there.
    counter.add(np.array([[1, 1, 0, 0, -1]]), np.array([[1, 2, 0, 0, 2]]))
    # Both are absent, none is painted outside the void.
    counter.add(np.array([[0, 0, -1]]), np.array([[0, 0, 1]]))
    scores = counter.scores()
    assert scores.per_class == {"a": 0.0, "b": 0.5}
    assert scores.area == {"a": 0.0, "b": pytest.approx(0.125)}
    assert scores.rate == pytest.approx(1 / 3)


def test_an_absent_class_may_take_all_of_a_single_pixel():
    counter = FalsePositives(["a", "b"])
    counter.add(np.array([[0, -1]]), np.array([[2, 0]]))
    assert counter.scores().area == {"a": 0.0, "b": 1.0}


def test_where_nothing_is_known_nothing_was_painted():
    counter = FalsePositives(["a"])
    counter.add(np.array([[1]]), np.array([[1]]))
    held = counter.scores()
    assert (held.rate, held.per_class, held.area) == (0, {"a": None}, {"a": None})
    counter.add(np.array([[-1]]), np.array([[1]]))
    void = counter.scores()
    assert (void.rate, void.per_class, void.area) == (0, {"a": 0}, {"a": 0})


def rle(*box, side=20):
    mask = np.zeros((side, side), np.uint8, order="F")
    top, left, height, width = box
    mask[top : top + height, left : left + width] = 1
    found = coco_mask.encode(mask)
    return {"size": found["size"], "counts": found["counts"].decode()}, int(mask.sum()), box


def truth_record(category, *box, crowd=0, side=20):
    segmentation, area, (top, left, height, width) = rle(*box, side=side)
    return {
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "bbox": [left, top, width, height],
        "iscrowd": crowd,
    }


def found_record(category, score, *box, side=20):
    return {**truth_record(category, *box, side=side), "score": score}


def entry(name, *records):
    return name, tuple(map(Instance.from_coco, records))


def average_precision(truth, entries, classes):
    found = AveragePrecision(LabelMap.of_names(classes))
    for name, instances in entries:
        found.add(truth.get(name), instances)
    return found.scores()


def by_one_cocoeval(truth, entries, classes):
    """AP50 by class of all images at once, as `pycocotools` is meant to be used."""
    images, expected, found = [], [], []
    for number, (name, instances) in enumerate(entries, start=1):
        images.append({"id": number, "height": 20, "width": 20})
        expected += [{**one, "image_id": number} for one in truth[name]]
        found += [{**one.to_coco(), "image_id": number} for one in instances]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    reference = COCO()
    numbered = [{**one, "id": number} for number, one in enumerate(expected, start=1)]
    reference.dataset = {"info": {}, "images": images, "annotations": numbered}
    reference.dataset["categories"] = categories
    reference.createIndex()
    whole = COCOeval(reference, reference.loadRes(found), "segm")
    whole.params.iouThrs = np.array([0.5])
    whole.evaluate()
    whole.accumulate()
    values = whole.eval["precision"][0, :, :, 0, -1]
    return {name: values[:, k].mean() for k, name in enumerate(classes) if values[0, k] >= 0}


boxes = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2)
scores = st.sampled_from([0.1, 0.3, 0.5, 0.5, 0.9])


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.integers(1, 3), boxes, st.sampled_from([0, 0, 0, 1])), max_size=5
            ),
            st.lists(st.tuples(st.integers(1, 3), scores, boxes), max_size=6),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_image_by_image_is_as_all_at_once(images):
    truth, entries = {}, []
    for number, (objects, found) in enumerate(images):
        name = f"{number}.png"
        truth[name] = [truth_record(label, *box, crowd=crowd) for label, box, crowd in objects]
        entries.append(entry(name, *(found_record(label, s, *box) for label, s, box in found)))
    expected = {}
    if any(instances for _, instances in entries):
        expected = by_one_cocoeval(truth, entries, CLASSES)
    ours = average_precision(truth, entries, CLASSES)
    for name in CLASSES:
        if name in expected:
            assert ours.per_class[name] == expected[name]
        else:
            assert not ours.per_class[name]


def test_average_precision_by_hand():
    """Class a has 2 objects. In order of score its detections are right, wrong, right.

    Precision after each is 1, 1/2, 2/3 at recall 1/2, 1/2, 1. COCO takes at each of 101 recalls
    the best precision from there on: 1 for recalls 0 to 0.5 (51 of them), 2/3 for the other 50.
    Class b has 1 object that is found with an IoU of 0.4: AP 0. Class c is not in the truth.
    """
    truth = {
        "1.png": [truth_record(1, 0, 0, 10, 10), truth_record(1, 12, 12, 6, 6)],
        "2.png": [truth_record(2, 0, 0, 10, 10)],
    }
    entries = [
        entry(
            "1.png",
            found_record(1, 0.9, 0, 0, 10, 10),
            found_record(1, 0.8, 0, 12, 5, 5),
            found_record(1, 0.7, 12, 12, 6, 5),
        ),
        entry("2.png", found_record(2, 0.9, 0, 0, 10, 4), found_record(3, 0.9, 0, 0, 5, 5)),
    ]
    scores = average_precision(truth, entries, CLASSES)
    expected = (51 + 50 * 2 / 3) / 101
    assert scores.per_class["a"] == pytest.approx(expected)
    assert scores.per_class["b"] == 0
    assert scores.per_class["c"] is None
    assert scores.map50 == pytest.approx(expected / 2)


@pytest.mark.parametrize(("width", "expected"), [(4, 0), (5, 1), (6, 1), (7, 1)])
def test_the_threshold_is_an_iou_of_one_half_itself_included(width, expected):
    truth = {"1.png": [truth_record(1, 0, 0, 10, 10)]}
    entries = [entry("1.png", found_record(1, 0.9, 0, 0, 10, width))]
    assert average_precision(truth, entries, CLASSES).map50 == pytest.approx(expected)


def test_fifty_detections_before_the_right_one_still_leave_it_in():
    """AP is the precision at the one hit: 1 of 51."""
    wrong = [found_record(1, 0.9, 10, 10, 3, 3) for _ in range(50)]
    truth = {"1.png": [truth_record(1, 0, 0, 5, 5)]}
    entries = [entry("1.png", *wrong, found_record(1, 0.1, 0, 0, 5, 5))]
    assert average_precision(truth, entries, CLASSES).map50 == pytest.approx(1 / 51)


def test_a_class_that_is_there_as_a_crowd_alone_is_not_counted():
    truth = {"1.png": [truth_record(1, 0, 0, 5, 5), truth_record(2, 9, 9, 9, 9, crowd=1)]}
    scores = average_precision(truth, [entry("1.png", found_record(1, 0.9, 0, 0, 5, 5))], CLASSES)
    assert scores.per_class == {"a": pytest.approx(1), "b": None, "c": None}
    assert scores.map50 == pytest.approx(1)


def test_a_crowd_is_neither_missed_nor_a_mistake():
    truth = {"1.png": [truth_record(1, 0, 0, 5, 5), truth_record(1, 10, 10, 9, 9, crowd=1)]}
    entries = [entry("1.png", found_record(1, 0.9, 10, 10, 4, 4), found_record(1, 0.8, 0, 0, 5, 5))]
    assert average_precision(truth, entries, CLASSES).map50 == pytest.approx(1)


def test_of_an_image_with_more_than_a_hundred_objects_all_are_looked_at():
    places = [(row, column) for row in range(20) for column in range(0, 20, 2)]
    objects = [truth_record(1, *place, 1, 1) for place in places]
    found = [found_record(1, 0.9, *place, 1, 1) for place in places]
    assert len(places) == 200
    scores = average_precision({"1.png": objects}, [entry("1.png", *found)], CLASSES)
    assert scores.map50 == pytest.approx(1)


def test_of_other_images_the_best_hundred_as_coco_does():
    wrong = [found_record(1, 0.9, 20, 20, 3, 3) for _ in range(100)]
    late = found_record(1, 0.1, 0, 0, 5, 5)
    truth = {"1.png": [truth_record(1, 0, 0, 5, 5)]}
    assert average_precision(truth, [entry("1.png", *wrong, late)], CLASSES).map50 == 0
    hundredth = average_precision(truth, [entry("1.png", *wrong[:99], late)], CLASSES)
    assert hundredth.map50 == pytest.approx(1 / 100)


def test_objects_of_any_size_count():
    """COCO's small ones end at 32 x 32 pixels and its medium ones at 96 x 96."""
    boxes = [(0, 0, 5, 5), (10, 0, 40, 40), (60, 0, 100, 100)]
    objects = [truth_record(1, *box, side=160) for box in boxes]
    large = entry("1.png", found_record(1, 0.9, *boxes[2], side=160))
    scores = average_precision({"1.png": objects}, [large], CLASSES)
    assert scores.map50 == pytest.approx(34 / 101)  # recalls of 0 to 0.33


def test_a_hundred_objects_are_no_more_than_coco_looks_at():
    """One wrong mask is best: 99 right ones still count, precision 99 / 100 up to that recall."""
    places = [(row, column) for row in range(10) for column in range(0, 20, 2)]
    objects = [truth_record(1, *place, 1, 1) for place in places]
    found = [found_record(1, 0.5, *place, 1, 1) for place in places]
    wrong = found_record(1, 0.9, 15, 0, 3, 3)
    scores = average_precision({"1.png": objects}, [entry("1.png", wrong, *found)], CLASSES)
    assert scores.map50 == pytest.approx(0.99 * 100 / 101)


def test_nothing_found_is_zero_and_no_instances_is_none():
    truth = {"1.png": [truth_record(1, 0, 0, 5, 5)], "2.png": []}
    assert average_precision(truth, [entry("1.png")], CLASSES).map50 == 0
    assert average_precision(truth, [entry("2.png")], CLASSES).map50 is None
    assert average_precision(truth, [entry("3.png")], CLASSES) is None


def test_images_without_instances_are_left_out_and_the_others_count():
    truth = {"2.png": [truth_record(1, 0, 0, 5, 5)]}
    entries = [entry("1.png"), entry("2.png", found_record(1, 0.9, 0, 0, 5, 5))]
    assert average_precision(truth, entries, CLASSES).map50 == pytest.approx(1)


def test_the_report_holds_the_same_numbers(tmp_path):
    confusion, absent = Confusion(CLASSES), FalsePositives(CLASSES)
    truth, labels = np.array([[0, 1, 1]], np.uint8), np.array([[0, 1, 2]], np.uint8)
    confusion.add(truth, labels)
    absent.add(truth, labels)
    boundaries = Boundaries(CLASSES)
    boundaries.add(truth, labels)
    borders = boundaries.scores([1, 0, 0])
    files = write_report(tmp_path, confusion.scores(), None, absent.scores(), confusion, borders)
    metrics = json.loads(files[0].read_text())
    assert metrics["semantic"]["miou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics["instance"] is None
    assert metrics["boundary"]["per_class"]["a"] == pytest.approx(1)
    table = class_table(confusion.scores(), None, absent.scores())
    assert list(table["class"]) == ["background", *CLASSES]
    assert table["false_positive_rate"].tolist()[2:] == [1.0, 0.0]
    assert files[1].read_text().splitlines()[0].startswith('"class","images","iou","ap50"')
