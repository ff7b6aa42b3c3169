"""255 classes and more, which no palette holds: from the head to metrics, formats, the report."""

import csv
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
import yaml
import zarr
from PIL import Image
from pycocotools.coco import COCO
from pydantic import ValidationError

from tests.conftest import change, write_tiny_project
from tests.export_data import painted
from tests.outputs.exported import filled
from tests.outputs.test_export_label_studio import decode_brush
from usam_core.compose.scene import ComposedScene
from usam_core.config.project import load_project
from usam_core.config.schema import ProjectConfig
from usam_core.config.training import class_colors, voc_palette
from usam_core.errors import InputError
from usam_core.files.digest import file_digest
from usam_core.head.checkpoint import save_head
from usam_core.head.model import Head
from usam_core.masks.bits import pack
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.masks.paint import paint, paint_votes
from usam_core.masks.rle import encode
from usam_core.metrics.scores import Confusion, FalsePositives
from usam_core.outputs.formats import WRITERS
from usam_core.sources.scenes import Scene
from usam_core.steps import annotate, embed, review, run_step, step_folder
from usam_core.steps.record import StepResult, write_record
from usam_core.truth.voc import VocTruth
from usam_core.types import TOKENS_BLOCK, Instances

CLASSES = [f"class {number}" for number in range(1, 301)]
SHOWN = [254, 255, 256, 300]


def head_of(tokens):
    """Return a head that calls a mask what stands in SHOWN at the place of the nearest tokens."""
    count = len(SHOWN)
    head = Head(tokens.shape[1], len(CLASSES), (count, count, count), 0.0)
    first, second, third, last = (head.layers[place] for place in (0, 2, 4, 7))
    with torch.no_grad():
        first.weight.copy_(2 * tokens)
        first.bias.copy_(1e4 - (tokens**2).sum(1))  # the nearest has the largest sum
        for layer in (second, third):
            layer.weight.copy_(torch.eye(count))
            layer.bias.zero_()
        last.weight.zero_()
        last.bias.fill_(-1e4)
        for place, label in enumerate(SHOWN):
            last.weight[label - 1, place] = 1
            last.bias[label - 1] = -1e4 + 50
    return head


def record(project, step, files=()):
    folder = step_folder(project, step)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {file.name: file_digest(file) for file in files}
    path = str(files[0] if files else folder)
    write_record(folder, StepResult(step, "k", False, path, {"masks": 0}, outputs))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project of 300 names whose images were labelled, each mask one of SHOWN."""
    file = write_tiny_project(tmp_path_factory.mktemp("many"))
    few = change(file, training={"render": {"per_class": 1, "size": 64}, "min_per_class": 1})
    for step in ("collect", "embed"):
        run_step(step, few)
    every = {"nms_iou": 1.0, "edges": "grid", "min_part": 0, "min_area": 0}
    outputs = {"formats": sorted(WRITERS), "polygon_tolerance": 0}
    project = change(file, classes=CLASSES, outputs=outputs, inference=every)
    store = embed.open_store(project)
    images = [file_digest(path) for path in sorted((file.parent / "images").iterdir())]
    tokens = np.concatenate([store.read(sha256).tokens for sha256 in images])
    rows = torch.from_numpy(tokens[np.linspace(0, len(tokens) - 1, len(SHOWN)).astype(int)])
    settings = {
        **project.config.head.model_dump(mode="json"),
        "hidden": [len(SHOWN)] * 3,
        "features": [TOKENS_BLOCK],
    }
    card = {"classes": CLASSES, "settings": settings, "encoder": {}, "role": "teacher"}
    card |= {"training_digest": "", "training_provenance": {}}
    head = step_folder(project, "fit") / "teacher.safetensors"
    head.parent.mkdir(parents=True)
    record(project, "fit", save_head(head, head_of(rows.float()), card))
    record(project, "calibrate")
    run_step("annotate", project)
    return project


def labels_of(project):
    """Return the label map of each image by its name, read by Pillow."""
    folder = step_folder(project, "annotate") / "masks"
    return {png.stem: np.asarray(Image.open(png)) for png in sorted(folder.iterdir())}


def objects_of(project):
    """Return name and mask of every object of each image, best first."""
    return {
        image.path.removesuffix(".png"): [
            (CLASSES[one.class_index], one.mask()) for one in image.instances
        ]
        for image in annotate.labels(project).images()
    }


def test_labels_are_more_than_a_palette_holds(project):
    labels = labels_of(project)
    assert {values.dtype for values in labels.values()} == {np.dtype(np.uint16)}
    held = set().union(*(np.unique(values).tolist() for values in labels.values()))
    assert held == {0, *SHOWN}
    overlays = step_folder(project, "annotate") / "overlays"
    with Image.open(next(iter(overlays.iterdir()))) as picture:
        assert picture.height > 96, "a legend names the classes below the image"


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_metrics_are_what_numpy_says(project, tmp_path, format):
    """Truth is the labels, but half of 255 is 256 there, a stripe is void, and 1 stands alone."""
    truth, matrix = tmp_path / "truth", np.zeros((301, 301), np.int64)
    truth.mkdir()
    document = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1000 + n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }
    for number, (name, labels) in enumerate(labels_of(project).items(), start=1):
        values = labels.copy()
        values[::2][values[::2] == 255] = 256
        values[0] = 1
        void = np.zeros(labels.shape, bool)
        void[:, 5:9] = True
        np.add.at(matrix, (values[~void], labels[~void]), 1)
        Image.fromarray(np.where(void, 65535, values).astype(np.uint16)).save(truth / f"{name}.png")
        document["images"].append(
            {"id": number, "file_name": f"{name}.png", "height": 96, "width": 128}
        )
        values[void] = 0
        masks = [(1000 + int(v), values == v, 0) for v in np.unique(values[values > 0])]
        for category, mask, crowd in [*masks, (1255, void, 1)]:
            document["annotations"].append(
                {"id": len(document["annotations"]), "image_id": number, "category_id": category}
                | {"segmentation": encode(mask), "iscrowd": crowd}
            )
    (tmp_path / "truth.json").write_text(json.dumps(document))
    path = tmp_path / ("truth.json" if format == "coco" else "truth")
    section = {"format": format, "path": str(path)}
    change(project.file, evaluation=section)
    summary = run_step("evaluate", load_project(project.file)).summary
    assert summary["images"] == 4
    assert summary["truth_notes"] == []
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    expected = {
        name: np.diag(matrix)[n] / union[n] if union[n] else None
        for n, name in enumerate(["background", *CLASSES])
    }
    assert 0 < expected["class 255"] < 1
    assert summary["per_class_iou"] == pytest.approx(expected)
    folder = step_folder(project, "evaluate")
    said = json.loads((folder / "metrics.json").read_text())
    assert np.array_equal(said["confusion"]["pixels"], matrix)
    with open(folder / "per_class.csv", newline="", encoding="utf-8") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert len(rows) == 301
    assert float(rows["class 300"]["iou"]) == pytest.approx(expected["class 300"])
    assert (folder / "contact_sheet.png").stat().st_size


def coco_objects(file):
    coco = COCO(str(file))
    return {
        image["file_name"].removesuffix(".png"): [
            (coco.cats[one["category_id"]]["name"], coco.annToMask(one).astype(bool))
            for one in coco.imgToAnns[number]
        ]
        for number, image in coco.imgs.items()
    }


def yolo_objects(folder):
    names = yaml.safe_load((folder / "data.yaml").read_text())["names"]
    found = {}
    for file in (folder / "labels").iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        polygons = [np.array(line[1:], float).reshape(-1, 2) * [128, 96] for line in lines]
        masks = [filled([np.round(one)], (96, 128)) for one in polygons]
        found[file.stem] = [
            (names[int(line[0])], mask) for line, mask in zip(lines, masks, strict=True)
        ]
    return found


def labelme_objects(folder):
    found = {}
    for file in folder.iterdir():
        groups = {}
        for shape in json.loads(file.read_text())["shapes"]:
            groups.setdefault((shape["group_id"], shape["label"]), []).append(shape["points"])
        found[file.stem] = [
            (name, filled(points, (96, 128))) for (_, name), points in sorted(groups.items())
        ]
    return found


def label_studio_objects(folder):
    config = ElementTree.parse(folder / "label_config.xml")
    assert [one.get("value") for one in config.iter("Label")] == CLASSES
    assert len({one.get("background") for one in config.iter("Label")}) == len(CLASSES)
    found = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        results = [one["value"] for one in task["predictions"][0]["result"]]
        masks = [decode_brush(one["rle"]).reshape(96, 128, 4)[..., 0] > 0 for one in results]
        names = [one["brushlabels"][0] for one in results]
        found[task["data"]["image"].rpartition("=")[2].removesuffix(".png")] = list(
            zip(names, masks, strict=True)
        )
    return found


READ = {
    "coco": lambda folder: coco_objects(folder / "instances.json"),
    "coco_polygons": lambda folder: coco_objects(folder / "instances.json"),
    "cvat": lambda folder: coco_objects(folder / "annotations" / "instances_default.json"),
    "yolo": yolo_objects,
    "labelme": labelme_objects,
    "label_studio": label_studio_objects,
}


@pytest.fixture(scope="module")
def exported(project):
    run_step("export", project)
    return step_folder(project, "export")


@pytest.mark.parametrize("name", READ)
def test_every_object_comes_back_with_its_name(project, exported, name):
    found = READ[name](exported / name)
    for image, objects in objects_of(project).items():
        assert [name for name, _ in found[image]] == [name for name, _ in objects]
        for (_, mask), (_, expected) in zip(found[image], objects, strict=True):
            assert np.array_equal(mask, expected)


def test_maps_and_tables_come_back_with_their_names(project, exported):
    with open(exported / "label_tiff" / "objects.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = pq.read_table(exported / "parquet" / "instances.parquet").to_pylist()
    named = (exported / "voc" / "labels.txt").read_text().splitlines()
    for image, labels in labels_of(project).items():
        objects = objects_of(project)[image]
        names = [name for name, _ in objects]
        numbers = painted([mask for _, mask in objects], labels.shape)
        assert np.array_equal(tifffile.imread(exported / "label_tiff" / f"{image}.tif"), numbers)
        assert [row["class"] for row in table if row["image"] == f"{image}.png"] == names
        assert [row["class"] for row in rows if row["image"] == f"{image}.png"] == names
        group = zarr.open_group(exported / "ome_zarr" / f"{image}.zarr", mode="r")
        assert np.array_equal(group["0"][...], numbers)
        said = group.attrs["image-label"]
        assert [one["class"] for one in said["properties"]] == names
        assert [one["rgba"][:3] for one in said["colors"]] == [
            voc_palette(301)[CLASSES.index(name) + 1].tolist() for name in names
        ]
        with Image.open(exported / "voc" / "SegmentationClass" / f"{image}.png") as picture:
            values = np.asarray(picture)
        assert np.array_equal(values, labels)
        assert {named[v] for v in np.unique(values) if v} <= set(names)
        assert len(named) == 301


@pytest.mark.slow
def test_report_and_review_show_them(project):
    run_step("report", project)
    page = (step_folder(project, "report") / "report.html").read_text(encoding="utf-8")
    named = {item.name for item in review.open_review(project).items.values()}
    for label in SHOWN:
        assert f"class {label}<" in page
        assert f"class {label}" in named


@pytest.mark.parametrize("classes", [253, 254, 255, 256, 300])
def test_no_class_is_void_in_its_png(tmp_path, classes):
    mask = np.zeros((2, 8, 8), bool)
    mask[0, :, :4] = mask[1, :, 4:] = True
    numbers = np.array([classes - 1, 0])
    floats = np.array([0.9, 0.8], np.float32)
    instances = Instances(
        masks=mask,
        classes=numbers,
        scores=floats,
        predicted_iou=floats,
        prompts=numbers,
        probability=floats,
        runner_up=numbers,
        entropy=floats,
    )
    of_votes = paint_votes(pack(mask), numbers, floats, (8, 8), np.zeros(classes))
    objects = np.array([[0, 1], [2, 2]], np.uint8)
    names = [*CLASSES[1:classes], "last"]
    drawn = Scene(np.zeros((2, 2, 3), np.uint8), objects, ("last", "class 2"))
    composed = ComposedScene(drawn.image, objects, drawn.names, ())
    for labels in (
        paint(instances, classes),
        of_votes,
        drawn.label_map(names),
        composed.label_map(names),
    ):
        assert labels.max() == classes
        assert labels.max() < np.iinfo(labels.dtype).max, "which is void"
        save_label_png(tmp_path / "a.png", labels)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), labels)
        assert np.array_equal(read_label_png(tmp_path / "a.png"), labels)


def voc(folder, values, names=CLASSES):
    Image.fromarray(values).save(folder / "a.png")
    return VocTruth(folder, names, {name: name for name in names}, names)


def test_255_is_a_class_in_16_bit_and_void_in_8(tmp_path):
    truth = voc(tmp_path, np.array([[0, 254, 255, 256, 300, 65535]], np.uint16))
    assert truth.label_map("a.jpg").tolist() == [[0, 254, 255, 256, 300, -1]]
    assert truth.notes == []
    with pytest.raises(InputError, match=r"values \[301\] have no name.* 1 to 300, or 65535"):
        voc(tmp_path, np.array([[301]], np.uint16)).label_map("a.jpg")
    truth = voc(tmp_path, np.array([[0, 254, 255]], np.uint8))
    assert truth.label_map("a.jpg").tolist() == [[0, 254, -1]]
    (note,) = truth.notes
    assert "255 is void in truth of 8 bit" in note
    assert "'class 255'" in note
    # Of fewer classes a PNG of 16 bit is truth as well, but 255 is no void of it.
    truth = voc(tmp_path, np.array([[0, 2, 65535]], np.uint16), CLASSES[:2])
    assert truth.label_map("a.jpg").tolist() == [[0, 2, -1]]
    with pytest.raises(InputError, match=r"values \[255\] have no name"):
        voc(tmp_path, np.array([[255]], np.uint16), CLASSES[:2]).label_map("a.jpg")


def test_class_255_counts_like_another():
    truth = np.array([[255, 255, -1, 0]], np.int16)
    labels = np.array([[255, 0, 255, 255]], np.uint16)
    confusion, absent = Confusion(CLASSES), FalsePositives(CLASSES)
    confusion.add(truth, labels)
    absent.add(truth, labels)
    assert confusion.scores().per_class["class 255"] == pytest.approx(1 / 3)
    assert absent.scores().per_class["class 255"] is None


def test_colors_of_300_classes_differ():
    colors = class_colors(CLASSES, {}).astype(int)
    apart = np.abs(colors[:, None] - colors[None]).max(-1)
    assert apart[~np.eye(301, dtype=bool)].min() >= 32


@pytest.mark.slow
def test_more_names_than_label_maps_hold_are_refused_with_the_file():
    names = [str(number) for number in range(2**15)]
    images = {"path": "images"}
    ProjectConfig.model_validate({"classes": names[1:], "images": images})
    with pytest.raises(ValidationError, match="got 32768 names; expected at most 32767"):
        ProjectConfig.model_validate({"classes": names, "images": images})
    truth = {"format": "voc", "path": "truth", "classes": names}
    with pytest.raises(ValidationError, match="got 32768 names; expected at most 32767"):
        ProjectConfig.model_validate({"classes": ["a"], "images": images, "evaluation": truth})
