"""Truth with faults: what cannot be meant is left out with a note, and the rest scored rightly."""

import copy
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from tests.conftest import change
from usam_core.config.project import load_project
from usam_core.errors import InputError, UsamError
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.masks.rle import encode
from usam_core.steps import run_step
from usam_core.truth.base import ByName
from usam_core.truth.coco import CocoTruth

LABELS = ["dog", "plane"]
WORDS = {name: name for name in LABELS}
SIZE = (18, 24)


def square(x, y, side=6):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def document():
    images = [
        {"id": n, "file_name": f"i{n}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in (1, 2)
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 90, "name": "plane"}]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [square(1, 1)], "area": 36},
        {"id": 2, "image_id": 2, "category_id": 90, "segmentation": [square(9, 9)], "area": 36},
    ]
    for annotation in annotations:
        annotation |= {"bbox": [1, 1, 6, 6], "iscrowd": 0}
    return {"images": images, "categories": categories, "annotations": annotations}


@pytest.fixture
def coco(tmp_path):
    """Return what reads the document after some change of it."""

    def read(alter):
        file, given = tmp_path / "truth.json", document()
        alter(given)
        file.write_text(json.dumps(given))
        return CocoTruth(file, WORDS, LABELS)

    return read


def pixels(truth, name="i1.jpg"):
    return np.bincount(truth.label_map(name).ravel(), minlength=3).tolist()


WHOLE = [SIZE[0] * SIZE[1] - 36, 36, 0]
NOTHING = [SIZE[0] * SIZE[1], 0, 0]


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([], "is empty"),
        (None, "is empty"),
        ({}, "is empty"),
        ([[]], "fewer than 3 points"),
        ([[1, 1, 5, 5]], "fewer than 3 points"),
        ([square(1, 1)[:-1]], "odd count"),
        ([[*square(1, 1)[:-1], float("nan")]], "not finite"),
        ([[*square(1, 1)[:-1], 1e12]], "far outside"),
        ([["a"] * 6], "other things than numbers"),
        (square(1, 1), "no list of polygons"),
        ([[[1, 1], [5, 1], [5, 5]]], "other things than numbers"),
        ([[3, 3, 3, 3, 3, 3]], "covers no pixel"),
        ({"size": list(SIZE[::-1]), "counts": [0, 432]}, r"\[width, height\]"),
        ({"size": [3, 3], "counts": [0, 9]}, "not its image's"),
        ({"size": list(SIZE), "counts": [1, 2]}, "do not fill"),
        ({"size": list(SIZE), "counts": [-1, 433]}, "do not fill"),
        ({"size": list(SIZE), "counts": "~~~"}, "counts"),
        ({"size": list(SIZE), "counts": None}, "counts"),
        ("text", "neither polygons nor an RLE"),
    ],
)
def test_a_segmentation_that_cannot_be_meant_is_left_out_and_named(coco, segmentation, said):
    truth = coco(lambda d: d["annotations"][0].update(segmentation=segmentation))
    assert pixels(truth) == NOTHING
    assert truth.instances("i1.jpg") == []
    (note,) = truth.notes
    assert "annotations[0] (id 1)" in note
    assert re.search(said, note), note
    assert pixels(truth, "i2.jpg")[2] == 36


def test_a_point_or_a_line_beside_a_polygon_takes_no_object_away(coco):
    truth = coco(lambda d: d["annotations"][0]["segmentation"].insert(0, [4, 4, 5, 5]))
    assert pixels(truth) == WHOLE


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda a: a.update(image_id=99), "image_id is that of none"),
        (lambda a: a.update(image_id=None), "image_id is that of none"),
        (lambda a: a.update(category_id=99), "category_id is that of none"),
        (lambda a: a.update(category_id=[7]), "category_id is that of none"),
        (lambda a: a.update(iscrowd="maybe"), "iscrowd is neither"),
        (lambda a: a.pop("segmentation"), "without a segmentation"),
    ],
)
def test_an_annotation_that_refers_to_nothing_is_left_out(coco, alter, said):
    truth = coco(lambda d: alter(d["annotations"][0]))
    assert pixels(truth) == NOTHING
    (note,) = truth.notes
    assert said in note
    assert "annotations[0] (id 1)" in note


@pytest.mark.parametrize("spelled", [lambda n: str(n), float, lambda n: f" {n} "])
def test_ids_of_different_types_are_one_id(coco, spelled):
    def alter(d):
        for annotation in d["annotations"]:
            for key in ("image_id", "category_id"):
                annotation[key] = spelled(annotation[key])

    truth = coco(alter)
    assert (pixels(truth), truth.notes) == (WHOLE, [])


def test_a_repeated_annotation_id_keeps_each_object_with_its_image(coco):
    truth = coco(lambda d: d["annotations"][1].update(id=1))
    assert pixels(truth) == WHOLE
    assert pixels(truth, "i2.jpg")[2] == 36
    (note,) = truth.notes
    assert note == "annotations kept whose id another one has too: annotations[1] (id 1)"


def test_an_annotation_that_stands_twice_counts_once(coco):
    truth = coco(lambda d: d["annotations"].append(copy.deepcopy(d["annotations"][0])))
    assert len(truth.instances("i1.jpg")) == 1
    assert "annotations[2] (id 1)" in truth.notes[0]


@pytest.mark.parametrize(
    ("part", "more", "said"),
    [
        ("categories", {"id": 7, "name": "cat"}, "category id 7 .*'dog' and 'cat'"),
        ("categories", {"id": "7", "name": "cat"}, "category id 7 "),
        ("images", {"id": 1.0, "file_name": "x.jpg", "height": 1, "width": 1}, "image id 1 .*i1"),
    ],
)
def test_an_id_that_stands_for_two_things_is_refused_and_named(coco, part, more, said):
    with pytest.raises(InputError, match=said):
        coco(lambda d: d[part].append(more))


def test_two_categories_of_one_name_are_one_class(coco):
    def alter(d):
        d["categories"].append({"id": 8, "name": "DOG "})
        d["annotations"][0]["category_id"] = 8

    truth = coco(alter)
    assert pixels(truth) == WHOLE
    assert truth.notes == ["2 categories are called 'dog' and count as one"]


@pytest.mark.parametrize("name", ["Dog ", "\tdog", "DOG"])
def test_names_of_categories_are_compared_like_names_of_classes(coco, name):
    truth = coco(lambda d: d["categories"][0].update(name=name))
    assert (pixels(truth), truth.notes) == (WHOLE, [])


def test_half_a_letter_in_a_record_is_spelled_out(coco):
    def alter(given):
        given["categories"].append({"id": 9, "name": "\ud800 x"})
        given["images"].append({"id": "\ud801"})

    said = "\n".join(coco(alter).notes)
    assert said.encode()
    assert "\\ud800 x" in said
    assert "\\ud801" in said


def test_letters_composed_or_not_are_the_same_name(tmp_path):
    file = tmp_path / "t.json"
    given = document()
    given["categories"][0]["name"] = "cafe\u0301"
    file.write_text(json.dumps(given))
    assert pixels(CocoTruth(file, {"Caf\u00e9": "dog"}, LABELS)) == WHOLE


def test_an_area_that_is_missing_or_none_is_computed(coco):
    for wrong in ("much", None, -1, 1e12):
        truth = coco(lambda d, wrong=wrong: d["annotations"][0].update(area=wrong))
        assert truth.instances("i1.jpg")[0]["area"] == 36
    truth = coco(lambda d: [d["annotations"][0].pop(key) for key in ("area", "bbox", "id")])
    assert truth.instances("i1.jpg")[0]["bbox"] == [1, 1, 6, 6]
    assert (pixels(truth), truth.notes) == (WHOLE, [])


@pytest.mark.parametrize(
    "written",
    ["images\\i1.jpg", "C:\\lab\\i1.jpg", "/lab/x/i1.jpg", "file:///lab/i1.jpg", "./i1.jpg"],
)
def test_an_image_is_found_however_its_path_is_written(coco, written):
    assert pixels(coco(lambda d: d["images"][0].update(file_name=written))) == WHOLE


def test_of_paths_that_end_alike_the_longest_common_end_counts():
    names = ByName({1: "/lab/a/x.jpg", 2: "/lab/b/x.jpg", 3: "C:\\lab\\c\\y%20z.jpg"})
    assert names.find("a/x.jpg") == [1]
    assert names.find("plates/b/x.jpg") == [2]
    assert names.find("c/y%20z.jpg") == [3]
    assert names.find("x.jpg") == [1, 2]
    assert names.find("other.jpg") == []


def test_an_image_whose_name_several_have_is_left_out_with_a_note(coco):
    truth = coco(lambda d: d["images"][1].update(file_name="i1.jpg"))
    assert truth.label_map("i1.jpg") is None
    assert truth.notes == ["images left out, several of the truth have their name: i1.jpg"]


def test_truth_of_another_size_counts_as_none(coco):
    truth = coco(lambda d: d["images"][0].update(height=10**6, width=10**6))
    assert truth.label_map("i1.jpg", SIZE) is None
    assert truth.notes == ["images left out, their truth is of another size: i1.jpg"]


def test_a_note_names_some_and_counts_the_others(coco):
    def alter(d):
        d["annotations"] += [{**d["annotations"][0], "id": n, "image_id": 99} for n in range(9)]

    (note,) = coco(alter).notes
    assert note.endswith("annotations[6] (id 4) and 4 more")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats()
    | st.sampled_from(["7", "~", ""]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["images", "annotations", "categories"]),
            st.integers(0, 1),
            st.sampled_from(
                [
                    "id",
                    "file_name",
                    "height",
                    "width",
                    "name",
                    "image_id",
                    "category_id",
                    "segmentation",
                    "area",
                    "iscrowd",
                ]
            ),
            VALUES,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_a_record_says_it_is_read_left_out_or_refused(tmp_path_factory, alterations):
    given = document()
    for part, at, key, value in alterations:
        given[part][at][key] = value
    file = tmp_path_factory.mktemp("any") / "t.json"
    file.write_text(json.dumps(given))
    try:
        truth = CocoTruth(file, WORDS, LABELS)
        for name in ("i1.jpg", "i2.jpg"):
            found = truth.label_map(name, SIZE)
            if found is not None:
                assert found.shape == SIZE
                assert truth.instances(name) is not None
        truth.digest()
    except UsamError as error:
        assert str(file) in str(error)  # noqa: PT017


@pytest.mark.slow
def test_evaluation_scores_the_rest_and_says_what_it_left_out(project_file):
    truth = project_file.parent / "truth"
    save_label_png(truth / "s0.png", np.zeros((5, 5), np.uint8))
    (truth / "s1.png").write_bytes(b"no picture")
    summary = run_step("evaluate", load_project(project_file)).summary
    assert (summary["images"], summary["without_truth"]) == (2, 2)
    assert [note.rpartition("/")[2] for note in summary["truth_notes"]] == ["s0.png", "s1.png"]
    # By hand, with NumPy.
    labels = project_file.parent / "out" / "annotate" / "masks"
    pairs = [
        (np.asarray(Image.open(truth / f"s{n}.png")), read_label_png(labels / f"s{n}.png"))
        for n in (2, 3)
    ]
    ious = []
    for value in range(4):
        shared = sum(((t == value) & (p == value)).sum() for t, p in pairs)
        either = sum((((t == value) | (p == value)) & (t != 255)).sum() for t, p in pairs)
        ious.append(shared / either if either else np.nan)
    assert summary["miou"] == pytest.approx(np.nanmean(ious))


def test_truth_without_any_class_is_said_so(project_file):
    for png in (project_file.parent / "truth").glob("*.png"):
        values = np.array(Image.open(png))
        save_label_png(png, np.where(values > 0, 255, 0).astype(np.uint8))
    notes = run_step("evaluate", load_project(project_file)).summary["truth_notes"]
    assert any("no truth pixel has a class" in note for note in notes)


def test_average_precision_of_the_valid_rest_is_pycocotools_own(project_file):
    """The same truth with bad records and without gives the same numbers."""
    root = project_file.parent
    names = ["disc", "ring", "rod"]
    given = {"images": [], "annotations": [], "categories": []}
    given["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    for number in range(4):
        values = np.array(Image.open(root / "truth" / f"s{number}.png"))
        h, w = values.shape
        given["images"].append(
            {"id": number, "file_name": f"s{number}.png", "height": h, "width": w}
        )
        for value in np.unique(values[(values > 0) & (values < 255)]).tolist():
            mask = values == value
            entry = {"id": len(given["annotations"]) + 1, "image_id": number, "category_id": value}
            entry |= {"segmentation": encode(mask), "area": int(mask.sum()), "iscrowd": 0}
            given["annotations"].append({**entry, "bbox": [0, 0, w, h]})
    (root / "good.json").write_text(json.dumps(given))
    COCO(str(root / "good.json"))
    bad = copy.deepcopy(given)
    for at, fault in enumerate([{"segmentation": []}, {"image_id": 77}, {"segmentation": None}]):
        bad["annotations"].insert(at, {**given["annotations"][0], "id": 900 + at, **fault})
    for annotation in bad["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        annotation.pop("area")
    (root / "bad.json").write_text(json.dumps(bad))
    found = {}
    for name in ("good", "bad"):
        evaluation = {"format": "coco", "path": f"{name}.json"}
        found[name] = run_step("evaluate", change(project_file, evaluation=evaluation)).summary
    assert len(found["bad"].pop("truth_notes")) == 2
    assert found["good"].pop("truth_notes") == []
    assert found["bad"] == found["good"]
    assert found["good"]["map50"] is not None


@pytest.mark.parametrize(
    ("truths", "listed", "meant", "refused"),
    [
        (["s0.png"], ["a/s0.png", "b/s0.png"], [], ["a/s0.png", "b/s0.png"]),
        (["a/s0.png"], ["a/s0.png", "b/s0.png"], ["a/s0.png"], ["b/s0.png"]),
        (["x/a/s0.png"], ["b/s0.png", "a/s0.png"], ["a/s0.png"], ["b/s0.png"]),
        (["other/s0.png"], ["a/s0.png", "a/s1.png"], ["a/s0.png"], []),
        (["s0.png", "a/s0.png"], ["s0.png", "a/s0.png"], ["s0.png", "a/s0.png"], []),
    ],
)
def test_one_truth_belongs_to_one_image(truths, listed, meant, refused):
    names = ByName(dict(enumerate(truths)))
    assert names.settle(listed) == refused
    assert [name for name in listed if len(names.find(name)) == 1] == meant


def test_images_of_other_folders_are_not_scored_by_one_truth(tmp_path):
    path = tmp_path / "truth.json"
    image = {"id": 1, "file_name": "s0.png", "width": 4, "height": 4}
    path.write_text(json.dumps({"images": [image], "categories": [], "annotations": []}))
    truth = CocoTruth(path, {"dog": "dog"}, ["dog"])
    truth.expect(["a/s0.png", "b/s0.png"])
    assert truth.label_map("a/s0.png") is None
    assert truth.label_map("b/s0.png") is None
    assert any("another image's" in note and "b/s0.png" in note for note in truth.notes)
