"""Label Studio's tasks read back by its documented form: brushes decoded bit by bit."""

import json
import tempfile
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given

from tests.export_data import CLASSES, image_of
from tests.outputs.exported import few, filled, images, written
from usam_core.masks.rle import Crop
from usam_core.outputs.label_studio import brush_rle


@few
@given(images)
def test_label_studio_brushes_and_polygons_are_the_masks(case):
    (h, w), masks = case
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(masks, (h, w))
        for shapes in ("brush", "polygon"):
            _, _, (tasks, config) = written("label_studio", image, folder, shapes=shapes)
            (task,) = json.loads(tasks.read_text(encoding="utf-8"))
            results = task["predictions"][0]["result"]
            for number, mask in enumerate(masks, start=1):
                mine = [r for r in results if r["id"].split("-")[0] == str(number)]
                if shapes == "brush":
                    (result,) = mine
                    rgba = decode_brush(result["value"]["rle"]).reshape(h, w, 4)
                    assert np.array_equal(rgba, np.repeat(mask[..., None] * 255, 4, axis=2))
                else:
                    points = [np.array(result["value"]["points"]) for result in mine]
                    polygons = [np.round(one * [w, h] / 100) for one in points]
                    assert np.array_equal(filled(polygons, (h, w)), mask)
            check_label_studio(task, ElementTree.parse(config).getroot())


@pytest.mark.parametrize(
    ("images", "path", "address"),
    [
        ("images", "w 1/a#b.png", "/data/local-files/?d=w%201/a%23b.png"),
        ("images", "w.tif#t=1,z=0", "/data/local-files/?d=w.tif&t=1&z=0"),
        ("https://lab.example/screen/", "w%201/a.png", "https://lab.example/screen/w%201/a.png"),
        ("s3://lab/screen", "w.tif#t=1", "s3://lab/screen/w.tif#t=1"),
    ],
)
def test_label_studio_finds_the_image(images, path, address, tmp_path):
    image = image_of([], (3, 4), path, images)
    _, _, (tasks, _) = written("label_studio", image, tmp_path)
    (task,) = json.loads(tasks.read_text(encoding="utf-8"))
    assert task["data"]["image"] == address


def test_a_brush_mask_decoded_by_hand():
    # 1 x 2 pixels, the right one painted: four zeros, then four times 255.
    head = "00000000000000000000000000001000" + "00111" + "0010" + "0011" + "0111" + "1111"
    body = "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    bits = (head + body).ljust(-(-len(head + body) // 8) * 8, "0")
    expected = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert brush_rle(Crop(0, 1, np.ones((1, 1), bool)), (1, 2)) == expected


def test_a_brush_mask_of_long_runs():
    mask = np.zeros((300, 400), bool)
    mask[10:290, :] = True
    rows = mask[10:290]
    found = decode_brush(brush_rle(Crop(10, 0, rows), mask.shape)).reshape(300, 400, 4)
    assert np.array_equal(found[..., 0] > 0, mask)


def decode_brush(code):
    """Decode Label Studio's runs bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    counts = [read(4) + 1 for _ in range(4)]
    found = []
    while len(found) < total:
        same = read(1)
        count = read(counts[read(2)]) + 1
        found += [read(word)] * count if same else [read(word) for _ in range(count)]
    assert len(found) == total
    assert len(bits) - at < 8
    return np.array(found, np.uint8)


def check_label_studio(task, config):
    """Check a task against the documented form of pre-annotations and its configuration."""
    assert set(task) == {"data", "predictions"}
    (picture,) = config.iter("Image")
    assert picture.get("value") == "$image"
    assert task["data"]["image"] == "/data/local-files/?d=a.png"
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "usam " + "f" * 12
    assert 0 <= prediction["score"] <= 1
    (control,) = [tag for tag in config if tag.get("toName")]
    assert control.get("toName") == picture.get("name")
    labels = [label.get("value") for label in control.iter("Label")]
    assert labels == CLASSES
    ids = [result["id"] for result in prediction["result"]]
    assert len(set(ids)) == len(ids)
    for result in prediction["result"]:
        assert result["type"] == control.tag.lower()
        assert result["from_name"] == control.get("name")
        assert result["to_name"] == picture.get("name")
        assert result["image_rotation"] == 0
        assert result["original_width"] > 0
        assert result["original_height"] > 0
        assert set(result["value"][result["type"]]) <= set(labels)
        for x, y in result["value"].get("points", []):
            assert 0 <= x <= 100
            assert 0 <= y <= 100
