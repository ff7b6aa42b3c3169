"""Truth in, files out: VOC and COCO read, COCO JSON, palette PNG, overlay and sheet written."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools.coco import COCO

from usam_core.config.training import class_colors, voc_palette
from usam_core.errors import InputError
from usam_core.labels.image import LabelledImage, list_instances
from usam_core.labels.label_map import LabelMap
from usam_core.labels.overlay import overlay, save_overlay
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.masks.rle import decode, encode
from usam_core.outputs.lists import write_coco
from usam_core.outputs.sheets import save_contact_sheet
from usam_core.truth.coco import CocoTruth
from usam_core.truth.voc import VocTruth
from usam_core.types import Instances

WORDS = {"dog": "animal", "hound": "animal", "car": "car"}
LABELS = ["animal", "car"]


def test_the_palette_is_vocs():
    # The published first colours: aeroplane is dark red, person (15) a pale rose, void is cream.
    palette = voc_palette()
    assert palette[1].tolist() == [128, 0, 0]
    assert palette[15].tolist() == [192, 128, 128]
    assert palette[255].tolist() == [224, 224, 192]
    chosen = class_colors(["a", "b"], {"b": "#0a0B0c"})
    assert chosen.tolist() == [[0, 0, 0], [128, 0, 0], [10, 11, 12]]


@settings(max_examples=25)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_a_label_png_holds_its_labels(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("png") / "a.png"
    save_label_png(path, labels)
    # Void, 255, is no class, however many there are.
    assert np.array_equal(read_label_png(path), np.where(labels == 255, 65535, labels.astype(int)))
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), labels)


def test_more_labels_than_a_palette_has_make_a_sixteen_bit_png(tmp_path):
    labels = np.array([[0, 300], [65535, 1]], np.uint16)
    save_label_png(tmp_path / "a.png", labels)
    assert np.array_equal(read_label_png(tmp_path / "a.png"), labels)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_run_length_mask_comes_back(mask):
    assert np.array_equal(decode(encode(mask)), mask)


def voc(tmp_path, values, names=("dog", "car", "tree")):
    save_label_png(tmp_path / "a.png", np.asarray(values, np.uint8))
    return VocTruth(tmp_path, names, WORDS, LABELS)


def test_voc_values_become_labels_and_names_we_do_not_have_background(tmp_path):
    truth = voc(tmp_path, [[0, 1, 2], [3, 255, 2]])
    assert truth.label_map("a.jpg").tolist() == [[0, 1, 2], [0, -1, 2]]
    assert truth.notes == ["counted as background: tree"]
    assert truth.label_map("b.jpg") is None
    assert truth.instances("a.jpg") is None


def test_objects_may_be_numbered_in_sixteen_bit(tmp_path):
    # 255 is no object of VOC's 8-bit PNGs; in a laboratory's 16 bit it is one like others.
    (tmp_path / "objects").mkdir()
    numbers = np.array([[0, 255, 300], [65535, 255, 300]], np.uint16)
    Image.fromarray(numbers).save(tmp_path / "objects" / "a.png")
    save_label_png(tmp_path / "a.png", np.array([[0, 1, 1], [2, 1, 1]], np.uint8))
    truth = VocTruth(tmp_path, ["dog", "car"], WORDS, LABELS, tmp_path / "objects")
    found = [(one["category_id"], decode(one["segmentation"])) for one in truth.instances("a.tif")]
    assert [(label, mask.sum()) for label, mask in found] == [(1, 2), (1, 2), (2, 1)]
    assert np.array_equal(found[0][1], numbers == 255)


def test_void_belongs_to_no_object(tmp_path):
    (tmp_path / "objects").mkdir()
    save_label_png(tmp_path / "objects" / "a.png", np.array([[1, 1, 1, 2], [0, 0, 0, 2]], np.uint8))
    save_label_png(tmp_path / "a.png", np.array([[1, 1, 255, 255], [0, 0, 0, 255]], np.uint8))
    truth = VocTruth(tmp_path, ["dog", "car"], WORDS, LABELS, tmp_path / "objects")
    [one] = truth.instances("a.png")
    assert decode(one["segmentation"]).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert one["area"] == 2


def test_a_voc_value_without_a_name_is_refused_with_the_file(tmp_path):
    with pytest.raises(InputError, match=r"a\.png: values \[7\] have no name.*1 to 3"):
        voc(tmp_path, [[0, 7]]).label_map("a.jpg")


def test_the_digest_of_truth_follows_its_content(tmp_path):
    first = voc(tmp_path, [[0, 1]]).digest()
    assert voc(tmp_path, [[0, 1]]).digest() == first
    assert voc(tmp_path, [[1, 1]]).digest() != first
    assert VocTruth(tmp_path, ["car"], WORDS, LABELS).digest() != first


def coco_file(tmp_path):
    square = [[0, 0, 6, 0, 6, 6, 0, 6]]
    small = [[0, 0, 3, 0, 3, 3, 0, 3]]
    crowd = {"size": [8, 8], "counts": [48, 16]}  # the last two columns
    document = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 8, "width": 8}],
        "categories": [
            {"id": 18, "name": "Hound"},
            {"id": 3, "name": "car"},
            {"id": 9, "name": "x"},
        ],
        "annotations": [
            note(1, 3, small, 9),
            note(2, 18, square, 36),
            note(3, 9, small, 9),
            note(4, 3, crowd, 16, crowd=1),
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path


def note(number, category, segmentation, area, crowd=0):
    return {
        "id": number,
        "image_id": 5,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "bbox": [0, 0, 1, 1],
        "iscrowd": crowd,
    }


def test_coco_is_flattened_with_the_smaller_on_top_and_crowds_void(tmp_path):
    truth = CocoTruth(coco_file(tmp_path), WORDS, LABELS)
    labels = truth.label_map("deep/a.jpg")
    assert labels[1, 1] == 2  # the car lies on the animal, though it comes first in the file
    assert labels[5, 5] == 1
    assert labels[4, 7] == -1
    assert labels[7, 0] == 0
    assert [i["category_id"] for i in truth.instances("a.jpg")] == [2, 1, 2]
    assert truth.notes == ["counted as background: x"]
    assert truth.label_map("other.jpg") is None


def test_a_file_that_is_no_coco_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"hello": 1}')
    with pytest.raises(InputError, match="expected a COCO JSON"):
        CocoTruth(path, WORDS, LABELS)


def some_instances():
    masks = np.zeros((2, 6, 9), bool)
    masks[0, 1:4, 2:7] = True
    masks[1, 5, 8] = True
    return Instances(
        masks=masks,
        classes=np.array([1, 0]),
        scores=np.array([0.75, 0.5], np.float32),
        entropy=np.array([0.1, 0.2], np.float32),
        predicted_iou=np.array([0.8, 0.7], np.float32),
        prompts=np.array([4, 9]),
        probability=np.array([0.7, 0.4], np.float32),
        runner_up=np.array([0, -1]),
    )


def test_the_coco_file_is_read_by_pycocotools_pixel_for_pixel(tmp_path):
    some = some_instances()
    labels = LabelMap.of_names(["a", "b"])
    images = [
        LabelledImage("empty.png", "0", (6, 9), labels),
        LabelledImage('ümlaut "q".png', "0", (6, 9), labels, list_instances(some)),
    ]
    path = tmp_path / "coco.json"
    rows = (image.to_coco() for image in images)
    write_coco(path, {"categories": labels.categories()}, rows)
    coco = COCO(str(path))
    assert [coco.imgs[i]["file_name"] for i in (1, 2)] == [image.path for image in images]
    found = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    for number, annotation in enumerate(found):
        assert np.array_equal(coco.annToMask(annotation), some.masks[number])
    assert [a["category_id"] for a in found] == [2, 1]
    assert found[0]["bbox"] == [2, 1, 5, 3]
    assert [a["area"] for a in found] == [15, 1]
    assert found[0]["score"] == 0.75
    assert found[1]["prompt"] == 9


def test_a_coco_file_without_images_is_still_one(tmp_path):
    write_coco(tmp_path / "c.json", {"categories": []}, [])
    assert COCO(str(tmp_path / "c.json")).getImgIds() == []


def test_an_overlay_colors_labels_and_leaves_background_and_void(tmp_path):
    rgb = np.full((9, 9, 3), 100, np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[:, 3:6], labels[0, 0] = 1, 255
    colors = np.array([[0, 0, 0], [200, 0, 50]], np.uint8)
    picture = overlay(rgb, labels, colors)
    assert picture[4, 4].tolist() == [150, 50, 75]
    assert picture[4, 3].tolist() == [200, 0, 50]  # the border in full colour
    assert picture[4, 8].tolist() == [100, 100, 100]
    assert picture[0, 0].tolist() == [100, 100, 100]
    save_overlay(tmp_path / "o.jpg", rgb, labels, ["thing"], colors)
    save_contact_sheet(tmp_path / "s.png", [("a", rgb, labels, labels)], ["thing"], colors)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] == 720
        assert sheet.size[1] > 240
