"""What a benchmark reads: official layouts, splits, void, crowds, objects, published numbers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.bench_data import (
    RAW_COCO,
    RAW_VOC,
    VOID,
    coco_instances,
    objects_of,
    write_coco,
    write_voc,
)
from usam_core.bench import datasets
from usam_core.bench.datasets import BENCHMARKS, open_split, papers_classwise, published_rows
from usam_core.errors import InputError
from usam_core.files.digest import value_digest
from usam_core.truth.coco import CocoTruth
from usam_core.truth.voc import VocTruth

PAPERS = Path(__file__).parents[3] / "shared" / "papers"
VOC, COCO = BENCHMARKS["voc21"], BENCHMARKS["coco-object"]


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "data")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco")


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_voc_split_is_found_from_each_of_its_folders(voc, below):
    split = open_split(VOC, voc / below)
    assert split.names == [f"2007_00000{number}.jpg" for number in range(5)]
    assert split.total == 5
    assert split.images == voc / "VOCdevkit" / "VOC2012" / "JPEGImages"


@pytest.mark.parametrize(
    "part", ["JPEGImages", "SegmentationClass", "ImageSets/Segmentation/val.txt"]
)
def test_another_layout_is_told_by_what_is_missing(voc, part):
    gone = voc / "VOCdevkit" / "VOC2012" / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InputError, match=f"there is no {part}|there is no VOCdevkit.*{part}"):
        open_split(VOC, voc)


def test_a_folder_with_nothing_of_it_names_all_parts(tmp_path):
    with pytest.raises(InputError) as caught:
        open_split(VOC, tmp_path)
    for part in ("ImageSets/Segmentation/val.txt", "JPEGImages", "SegmentationClass", "--data"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"no val2017 and no annotations/instances_val2017\.json"):
        open_split(COCO, tmp_path)


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass", "SegmentationObject"])
def test_a_file_of_the_split_that_is_missing_is_named(voc, folder):
    next((voc / "VOCdevkit" / "VOC2012" / folder).glob("2007_000003.*")).unlink()
    with pytest.raises(InputError, match=f"{folder}: 1 of 5 .*2007_000003"):
        open_split(VOC, voc)
    # The limited split does not hold it.
    assert len(open_split(VOC, voc, 2).names) == 2


def test_a_limit_spreads_evenly_and_is_the_same_each_time(voc):
    names = open_split(VOC, voc, 2).names
    assert names == ["2007_000000.jpg", "2007_000002.jpg"]
    assert open_split(VOC, voc, 2).total == 5
    assert open_split(VOC, voc, 99).names == open_split(VOC, voc).names


def test_without_objects_there_is_no_map50_and_it_is_said(voc):
    shutil.rmtree(voc / "VOCdevkit" / "VOC2012" / "SegmentationObject")
    split = open_split(VOC, voc)
    assert "objects" not in split.evaluation
    assert "no mAP50" in split.notes[0]


def test_coco_takes_all_images_also_those_without_objects(coco):
    split = open_split(COCO, coco)
    assert split.names == [f"{number:012d}.jpg" for number in (1, 2, 3)]
    (coco / "val2017" / "000000000002.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 3 .*000000000002\.jpg"):
        open_split(COCO, coco)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: d["categories"].append({"id": 91, "name": "hat"}),
            r"\['hat'\] are none of COCO",
        ),
        (lambda d: d.pop("images"), "not COCO's instances JSON"),
    ],
)
def test_another_json_is_refused(coco, change, said):
    file = coco / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=said):
        open_split(COCO, coco)


def test_coco_is_flattened_with_the_smaller_on_top_and_crowds_void(coco):
    truth = CocoTruth(
        coco / "annotations" / "instances_val2017.json", {n: n for n in RAW_COCO}, RAW_COCO
    )
    assert truth.notes == []
    cup, table, crowd, person, cat = (
        coco_mask.decode(a["segmentation"]).astype(bool) for a in coco_instances()
    )
    expected = np.zeros(cup.shape, np.uint8)
    expected[table] = RAW_COCO.index("dining table") + 1
    expected[cup] = RAW_COCO.index("cup") + 1
    assert np.array_equal(truth.label_map("000000000001.jpg"), expected)
    expected = np.zeros(cup.shape, int)
    expected[crowd] = -1
    expected[person] = RAW_COCO.index("person") + 1
    expected[cat] = RAW_COCO.index("cat") + 1
    assert np.array_equal(truth.label_map("000000000002.jpg"), expected)
    assert not truth.label_map("000000000003.jpg").any()


def voc_truth(voc, labels, words, objects=True):
    base = voc / "VOCdevkit" / "VOC2012"
    folder = base / "SegmentationObject" if objects else None
    return VocTruth(base / "SegmentationClass", RAW_VOC, words, labels, folder)


def test_objects_of_voc_are_instances_without_their_void(voc):
    truth = voc_truth(voc, RAW_VOC, {name: name for name in RAW_VOC})
    found = truth.instances("2007_000001.jpg")
    base = voc / "VOCdevkit" / "VOC2012"
    values = np.asarray(Image.open(base / "SegmentationClass" / "2007_000001.png"))
    for instance, (value, mask) in zip(found, objects_of(1), strict=True):
        assert instance["category_id"] == value
        inside = coco_mask.decode(instance["segmentation"]).astype(bool)
        assert np.array_equal(inside, mask & (values == value))
        assert inside.sum() < mask.sum()
    assert voc_truth(voc, RAW_VOC, {}, objects=False).instances("2007_000001.jpg") is None


def test_what_the_classes_leave_void_belongs_to_no_object(voc):
    base = voc / "VOCdevkit" / "VOC2012"
    numbers = np.zeros((96, 128), np.uint8)
    numbers[objects_of(1)[0][1]] = 1
    Image.fromarray(numbers).save(base / "SegmentationObject" / "2007_000001.png")
    values = np.asarray(Image.open(base / "SegmentationClass" / "2007_000001.png"))
    [found] = voc_truth(voc, RAW_VOC, {name: name for name in RAW_VOC}).instances("2007_000001.jpg")
    inside = coco_mask.decode(found["segmentation"]).astype(bool)
    assert (values[numbers == 1] == VOID).any()
    assert not (values[inside] == VOID).any()


def test_objects_of_names_that_are_not_ours_are_no_instances(voc):
    first = RAW_VOC[objects_of(1)[0][0] - 1]
    [only] = voc_truth(voc, [first], {first: first}).instances("2007_000001.jpg")
    assert only["category_id"] == 1


def test_objects_of_another_size_or_none_are_told(voc):
    truth = voc_truth(voc, RAW_VOC, {name: name for name in RAW_VOC})
    file = voc / "VOCdevkit" / "VOC2012" / "SegmentationObject" / "2007_000001.png"
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(file)
    assert truth.instances("2007_000001.jpg") is None
    before = truth.digest()
    file.unlink()
    assert truth.instances("2007_000001.jpg") is None
    assert truth.digest() != before
    size, missing = truth.notes
    assert "left out of mAP50, their truth is of another size" in size
    assert "left out of mAP50, their objects have no PNG" in missing
    assert size.endswith(str(file))
    assert missing.endswith(str(file))


@pytest.mark.parametrize("benchmark", list(BENCHMARKS))
def test_every_published_row_says_where_it_stands(benchmark):
    rows = published_rows(benchmark)
    assert any(row["group"] == "papers" for row in rows)
    for row in rows:
        assert row["source"]
        assert row["group"] in ("papers", "best")
        values = [value for value in (row["miou"], row["map50"]) if value is not None]
        assert values
        assert all(0 < value < 100 for value in values)


def test_no_published_number_changes_by_itself():
    """After a change on purpose: look at its source once more, then put the new digest here."""
    rows = value_digest([datasets._read(), datasets.PAPERS_CLASSWISE])
    assert rows == "b58861324aaab5deab2c840d9933a3908963757dac080f43d850078343a9c601"


@pytest.mark.skipif(not PAPERS.is_dir(), reason="needs the papers' texts in ../shared/papers")
def test_every_number_of_the_papers_stands_in_their_text():
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(PAPERS.glob("*.txt")))
    numbers = {
        (row["method"], f"{value:.2f}")
        for benchmark in BENCHMARKS
        for row in published_rows(benchmark)
        if row["group"] == "papers" and "an image there" not in row["source"]
        for value in (row["miou"], row["map50"])
        if value is not None
    }
    assert len(numbers) > 30
    assert [one for one in numbers if not re.search(rf"(?<![\d.]){one[1]}(?!\d)", text)] == []


def test_the_papers_rows_are_those_of_their_tables():
    rows = {(row["method"], row["training"]): row for row in published_rows("voc21")}
    assert rows["U-SAM, student", "synthetic"]["miou"] == 25.16
    assert rows["U-SAM, student", "web"]["map50"] == 45.59
    assert rows["U-SAM, teacher only (MIL)", "web"]["miou"] == 17.42
    assert rows["SAM+CLIP", "none"]["map50"] == 42.45
    [superclasses] = published_rows("voc-superclasses")
    assert superclasses["map50"] == 61.54
    # Their class-wise rows average to the 21-class mean: background is one of the classes.
    for training, values in papers_classwise("voc21").items():
        assert len(values) == 21
        assert round(sum(values) / 21, 2) == rows["U-SAM, student", training]["miou"]
