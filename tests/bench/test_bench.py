"""`usam bench` from end to end on miniature data sets; the numbers are counted again by hand."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.bench_data import (
    QUICK,
    RAW_COCO,
    RAW_VOC,
    SIZE_HW,
    VOID,
    coco_categories,
    coco_instances,
    objects_of,
    write_coco,
    write_pictures,
    write_settings,
    write_voc,
)
from tests.usam_process import usam
from usam_core.bench.plan import Choices, make_plan, run_plan, write_project
from usam_core.bench.report import write_report
from usam_core.config import preset_classes
from usam_core.config.project import load_project
from usam_core.errors import ConfigError, InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with both data sets, training pictures of all names, and quick settings."""
    folder = tmp_path_factory.mktemp("world")
    write_voc(folder)
    write_coco(folder / "coco")
    # The first twenty by VOC's value, so that colours agree with the drawn images.
    others = [name for name in RAW_COCO if name not in RAW_VOC]
    write_pictures(folder / "pictures", [*RAW_VOC, *others])
    write_settings(folder / "quick.yaml")
    return folder


def choices(world, benchmark, out, **more):
    data = world / "coco" if benchmark == "coco-object" else world
    given = {"training": str(world / "pictures"), "settings": world / "quick.yaml", **more}
    return Choices(benchmark=benchmark, data=data, out=out, store=world / "store", **given)


@pytest.fixture(scope="module")
def voc21(world):
    """Return the outcome of voc21 with both heads and two seeds."""
    plan = make_plan(
        choices(world, "voc21", world / "voc21", seeds=(0, 1), heads=("student", "teacher"))
    )
    measured = run_plan(plan)
    return plan, measured, write_report(plan, measured)


def iou_by_hand(found, expected, classes):
    """Return IoU of 0 to `classes` over pairs of label maps, None where there is no pixel."""
    result = []
    for label in range(classes + 1):
        known = [e != VOID for e in expected]
        hit = sum(
            int(((f == label) & (e == label) & k).sum())
            for f, e, k in zip(found, expected, known, strict=True)
        )
        union = sum(
            int((((f == label) | (e == label)) & k).sum())
            for f, e, k in zip(found, expected, known, strict=True)
        )
        result.append(hit / union if union else None)
    return result


def labels_of(one):
    folder = one.project.out / "annotate" / "masks"
    return {file.stem: np.asarray(Image.open(file)) for file in folder.glob("*.png")}


def voc_truth(world):
    folder = world / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    return {f"2007_{n:06d}": np.asarray(Image.open(folder / f"2007_{n:06d}.png")) for n in range(5)}


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def test_voc21_is_scored_as_by_hand(world, voc21):
    _, measured, outcome = voc21
    truth = voc_truth(world)
    by_hand = {}
    for one in measured:
        labels = labels_of(one)
        assert set(labels) == set(truth)
        found = [labels[name] for name in sorted(truth)]
        expected = [truth[name] for name in sorted(truth)]
        assert any(label.any() for label in found)
        iou = iou_by_hand(found, expected, 20)
        by_hand.setdefault(one.run.head, []).append(mean(iou) * 100)
        assert one.metrics["semantic"]["miou"] == pytest.approx(mean(iou))
    for row in outcome["rows"][:2]:
        head = row["method"].removeprefix("usam ")
        assert row["miou"] == pytest.approx(np.mean(by_hand[head]))
        assert row["miou_deviation"] == pytest.approx(np.std(by_hand[head], ddof=1))
        assert row["map50"] is not None
        assert row["runs"] == 2
        assert row["note"] == ""


def test_voc21_map50_is_that_of_pycocotools_on_the_numbered_objects(world, voc21):
    _, measured, _ = voc21
    one, truth = measured[0], voc_truth(world)
    labelled = json.loads((one.project.out / "annotate" / "coco.json").read_text())
    ids = {image["file_name"].removesuffix(".jpg"): image["id"] for image in labelled["images"]}
    expected = []
    for number, name in enumerate(sorted(truth)):
        for value, mask in objects_of(number):
            rle = coco_mask.encode(np.asfortranarray((mask & (truth[name] != VOID)).astype("u1")))
            expected.append(
                {
                    "id": len(expected) + 1,
                    "image_id": ids[name],
                    "category_id": value,
                    "segmentation": rle,
                    "area": int(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    reference = COCO()
    reference.dataset = {
        "info": {},
        "images": labelled["images"],
        "annotations": expected,
        "categories": labelled["categories"],
    }
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(labelled["annotations"]), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert one.metrics["instance"]["map50"] == pytest.approx(evaluation.stats[1])


def test_void_is_left_out_of_the_score(world, voc21):
    _, measured, _ = voc21
    truth = voc_truth(world)
    labels = labels_of(measured[0])
    names = sorted(truth)
    assert any((truth[name] == VOID).any() for name in names)
    as_background = [np.where(truth[name] == VOID, 0, truth[name]) for name in names]
    counted = iou_by_hand([labels[name] for name in names], as_background, 20)
    assert measured[0].metrics["semantic"]["miou"] != pytest.approx(mean(counted), abs=1e-6)


def test_false_positives_of_absent_classes_are_counted_as_by_hand(world, voc21):
    plan, measured, outcome = voc21
    truth = voc_truth(world)
    wrong = pairs = 0
    labels = labels_of(measured[0])
    for name, expected in truth.items():
        for value in range(1, 21):
            if not (expected == value).any():
                pairs += 1
                wrong += bool(((labels[name] == value) & (expected != VOID)).any())
    assert measured[0].metrics["absent_classes"]["rate"] == pytest.approx(wrong / pairs)
    table = pd.read_csv(plan.choices.out / "classes.csv")
    assert len(table) == 2 * 21
    assert table["false_positive_rate"].notna().any()
    assert outcome["rows"][0]["false_positive_rate"] is not None


def test_the_files_say_everything(voc21):
    plan, _, outcome = voc21
    out = plan.choices.out
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows[:3]] == ["ours", "ours", "papers"]
    assert all(
        row["source"].startswith("published, not run by us")
        for row in rows
        if row["group"] != "ours"
    )
    table = pd.read_csv(out / "classes.csv")
    assert list(table["class"][:2]) == ["background", "airplane"]
    assert table["papers_iou_web"][1] == 33.89
    protocol = json.loads((out / "protocol.json").read_text())
    assert protocol == outcome["protocol"]
    assert protocol["split"]["images"] == protocol["split"]["of"] == 5
    assert protocol["seeds"] == [0, 1]
    assert protocol["training"]["pictures"]["airplane"] == 1
    for word in ("machine", "versions", "date", "encoder", "head", "inference", "checkout"):
        assert word in protocol
    page = (out / "report.md").read_text()
    for word in ("CorrCLIP", "25.16", "Void: value 255", "Flattening:", "5 of 5 images (all)"):
        assert word in page
    with Image.open(out / "figure.png") as figure:
        colors = {color for _, color in figure.convert("RGB").getcolors(1 << 20)}
    assert {(192, 57, 43), (44, 111, 166), (154, 165, 173)} <= colors


def test_a_second_call_reuses_everything(voc21):
    plan, measured, _ = voc21
    done = []
    again = run_plan(plan, done=lambda run, result: done.append(result))
    assert all(result.reused for result in done)
    assert len(done) == len(again[0].steps) * 4
    assert [one.metrics for one in again] == [one.metrics for one in measured]


def test_superclasses_embed_no_image_again_and_are_scored_as_by_hand(world, voc21):
    plan = make_plan(choices(world, "voc-superclasses", world / "super"))
    [one] = run_plan(plan)
    assert one.steps["embed"].summary["embedded"] == 0
    parents = {c["name"]: c["parent"] for c in preset_classes("voc-20", "raw")}
    order = [entry["name"] for entry in preset_classes("voc-superclasses")]
    table = np.full(256, VOID, np.uint8)
    table[0] = 0
    for value, name in enumerate(RAW_VOC, start=1):
        table[value] = order.index(parents[name]) + 1
    truth = voc_truth(world)
    labels = labels_of(one)
    names = sorted(truth)
    iou = iou_by_hand([labels[n] for n in names], [table[truth[n]] for n in names], 5)
    assert one.metrics["semantic"]["miou"] == pytest.approx(mean(iou))
    row, published = write_report(plan, [one])["rows"]
    assert row["map50"] is not None
    assert published["map50"] == 61.54


def test_coco_object_on_a_subset_through_the_command_line(world, tmp_path):
    words = ["--data", world / "coco", "--training", world / "pictures", "--names", "raw"]
    words += ["--project", world / "quick.yaml", "--out", tmp_path / "out"]
    words += ["--store", world / "store", "--limit", "2"]
    papers = usam("bench", "coco-object", *words, "--papers", "--dry-run")
    assert papers.returncode == 2
    assert "sam.points_per_side: got 4, but recipe: papers has 10" in papers.stderr
    dry = usam("bench", "coco-object", *words, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    plan = json.loads(dry.stdout)
    assert (plan["images"], plan["of"], plan["classes"]) == (2, 3, 80)
    assert not (tmp_path / "out").exists()
    done = usam("bench", "coco-object", *words, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    ours = outcome["rows"][0]
    assert ours["method"] == "usam student"
    assert ours["note"] == "2 of 3 images: not comparable"
    assert outcome["protocol"]["split"]["choice"] == "evenly spread by name"
    assert len(outcome["protocol"]["classes"]["used"]) == 80
    masks = tmp_path / "out" / "student-seed0" / "out" / "annotate" / "masks"
    found = [np.asarray(Image.open(file)) for file in sorted(masks.glob("*.png"))]
    expected = flattened()[:2]
    iou = iou_by_hand(found, expected, 80)
    assert ours["miou"] == pytest.approx(mean(iou) * 100)


def flattened():
    """Return the truth of COCO's images: large to small, crowds void below all."""
    numbers = {c["id"]: RAW_COCO.index(c["name"]) + 1 for c in coco_categories()}
    maps = [np.zeros(SIZE_HW, np.uint8) for _ in range(3)]
    for crowd in (1, 0):
        for annotation in sorted(coco_instances(), key=lambda a: -a["area"]):
            if annotation["iscrowd"] == crowd:
                mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
                number = VOID if crowd else numbers[annotation["category_id"]]
                maps[annotation["image_id"] - 1][mask] = number
    return maps


def test_later_seeds_learn_from_the_pictures_of_the_first(world, tmp_path):
    """Drawn again with another seed they would differ; a crawl would too."""
    settings = write_settings(
        tmp_path / "quick.yaml", training={"source": "render", "render": {"size": 64}}
    )
    plan = make_plan(choices(world, "voc21", tmp_path / "out", training=None, settings=settings))
    first, second = plan.runs[0], type(plan.runs[0])("student", 1, tmp_path / "b" / "project.yaml")
    write_project(plan, first)
    assert load_project(first.file).config.training.source == "render"
    (tmp_path / "out" / "pictures.csv").write_text("class,path\n")
    write_project(plan, second)
    training = load_project(second.file).config.training
    assert training.source == "folder"
    assert training.path == tmp_path / "out" / "pictures.csv"
    assert set(training.filters.model_dump().values()) == {None}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": ["dog"]}, "classes: the benchmark decides this"),
        ({"images": {"path": "x"}}, "images.path: the benchmark decides"),
        ({"inference": {"head": "teacher"}}, "inference.head: the benchmark decides.*--head"),
        (["a"], r"got \['a'\]; expected sections"),
    ],
)
def test_settings_may_not_decide_what_the_benchmark_decides(world, tmp_path, settings, said):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=said):
        make_plan(choices(world, "voc21", tmp_path / "out", settings=tmp_path / "own.yaml"))


def test_a_dry_run_refuses_the_settings_that_the_run_refuses(world, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("sam: {model: nano}\nhead:\n  stepz: 3\n")
    words = ["bench", "voc21", "--data", world, "--project", own, "--out", tmp_path / "out"]
    words += ["--training", world / "pictures"]
    dry, wet = usam(*words, "--dry-run"), usam(*words)
    assert (dry.returncode, wet.returncode) == (2, 2)
    assert "own.yaml:3: head.stepz: unknown key" in dry.stderr
    assert dry.stderr == wet.stderr
    assert not (tmp_path / "out").exists()
    own.write_text("sam: {model: nano, checkpoint: gone.pth}\n")
    assert "own.yaml:1: sam.checkpoint: got" in usam(*words, "--dry-run").stderr
    own.write_text("sam: {model: nano}\n")
    good = usam(*words, "--dry-run")
    assert good.returncode == 0, good.stderr


def test_paths_in_settings_count_from_their_file(world, tmp_path):
    settings = tmp_path / "own" / "settings.yaml"
    settings.parent.mkdir()
    more = {"sam": {"checkpoint": "a.pth"}, "training": {"web": {"urls": "u.csv"}, "path": "p"}}
    settings.write_text(yaml.safe_dump(more))
    found = make_plan(choices(world, "voc21", tmp_path, training=None, settings=settings)).settings
    assert found["sam"]["checkpoint"] == str(settings.parent / "a.pth")
    assert found["training"]["web"]["urls"] == str(settings.parent / "u.csv")
    assert found["training"]["path"] == str(settings.parent / "p")


def test_the_command_line_wins_over_the_settings_and_these_over_the_defaults(world, tmp_path):
    plain = make_plan(choices(world, "voc21", tmp_path, training=None, settings=None))
    assert plain.settings["sam"]["model"] == "vit_h"
    assert plain.training == "synthetic"
    quick = make_plan(choices(world, "voc21", tmp_path, sam="vit_b"))
    assert quick.settings["sam"] == {"model": "vit_b", "points_per_side": 4}
    assert quick.settings["head"]["steps"] == QUICK["head"]["steps"]
    assert quick.training == "folder"


def test_choices_that_cannot_be_meant_are_told(world, tmp_path):
    with pytest.raises(InputError, match="--training: got 'nowhere'"):
        make_plan(choices(world, "voc21", tmp_path, training="nowhere"))
    with pytest.raises(InputError, match="--seeds: got"):
        make_plan(choices(world, "voc21", tmp_path, seeds=(1, 1)))
    done = usam("bench", "voc21", "--data", tmp_path)
    assert done.returncode == 2
    assert "JPEGImages" in done.stderr
    assert "Traceback" not in done.stderr
    done = usam("bench", "voc21", "--data", world, "--seeds", "0,x")
    assert done.returncode == 2
    assert "--seeds: got '0,x'" in done.stderr
