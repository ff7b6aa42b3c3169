"""Each step's key follows what the step reads: content and meaning, and no file's time."""

import json
import os
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from usam_core.config.project import load_project
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.masks.rle import encode
from usam_core.review.decisions import Decision, append_decision, append_undo
from usam_core.sam.load import NANO_WEIGHTS
from usam_core.steps import step_key

STEPS = ("collect", "embed", "fit", "annotate", "evaluate")


@pytest.fixture(scope="module")
def pattern(finished_project, tmp_path_factory):
    """Return a finished project that reads every kind of input from files; it is only looked at."""
    root = tmp_path_factory.mktemp("keys") / "project"
    shutil.copytree(finished_project.parent, root)
    for number, name in enumerate(("disc", "ring", "rod")):
        (root / "pictures" / name / "sub").mkdir(parents=True)
        for part in ("a.png", "sub/b.png"):
            picture = np.full((64, 64, 3), 40 * number + len(part), np.uint8)
            Image.fromarray(picture).save(root / "pictures" / name / part)
    rows = [f"{p.parent.name},{p.relative_to(root)}" for p in root.glob("pictures/*/a.png")]
    (root / "training.csv").write_text("\n".join(["class,path", *rows]))
    shutil.copytree(root / "truth", root / "objects")
    (root / "elsewhere").mkdir()
    shutil.move(root / "truth" / "s3.png", root / "elsewhere" / "s3.png")
    (root / "truth" / "linked").symlink_to(root / "elsewhere")
    (root / "list.csv").write_text("path\ns0.png\ns1.png\n")
    shutil.copy(NANO_WEIGHTS, root / "nano.safetensors")
    image = {"id": 1, "file_name": "s0.png", "height": 96, "width": 128}
    truth = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    (root / "truth.json").write_text(json.dumps(truth))
    decide(root, "0")
    return root


def decide(root, number):
    mask = encode(np.ones((2, 2), bool))
    given = {"time": "t", "file_name": "s0.png", "prompt": 1, "head_class": "disc"}
    log = root / "out" / "review" / "decisions.jsonl"
    made = Decision(id=number, sha256=number * 64, mask=mask, label="rod", sampled=False, **given)
    append_decision(log, made)


FOLDER = {"training": {"source": "folder", "path": "pictures"}}
TABLE = {"training": {"source": "folder", "path": "training.csv"}}
LIST = {"images": {"path": "images", "files": "list.csv"}}
WEIGHTS = {"sam": {"points_per_side": 4, "checkpoint": "nano.safetensors"}}
OBJECTS = {"evaluation": {"format": "voc", "path": "truth", "objects": "objects"}}
COCO = {"evaluation": {"format": "coco", "path": "truth.json"}}
REVIEWED = {"head": {"steps": 5, "hidden": [32, 16, 8], "dropout": 0.2, "reviewed": True}}


def move(old, new):
    def change(root):
        (root / new).parent.mkdir(exist_ok=True)
        shutil.move(root / old, root / new)

    return change


def swap(one, other):
    def change(root):
        first, second = (root / one).read_bytes(), (root / other).read_bytes()
        (root / one).write_bytes(second)
        (root / other).write_bytes(first)

    return change


def flip(name):
    def change(root):
        picture = np.array(Image.open(root / name).convert("RGB"))
        Image.fromarray(255 - picture).save(root / name)

    return change


def relabel(name):
    def change(root):
        labels = read_label_png(root / name).copy()
        labels[0, 0] = 1 if labels[0, 0] != 1 else 2
        save_label_png(root / name, labels)

    return change


def replace(name, old, new):
    def change(root):
        text = (root / name).read_bytes()
        assert old in text
        (root / name).write_bytes(text.replace(old, new))

    return change


def settings(**given):
    def change(root):
        file = root / "project.yaml"
        values = yaml.safe_load(file.read_text())
        for section, part in given.items():
            values[section] = {**values.get(section, {}), **part}
        file.write_text(yaml.safe_dump(values))

    return change


def colors(root):
    file = root / "project.yaml"
    values = yaml.safe_load(file.read_text())
    values["classes"][0]["color"] = "#123456"
    file.write_text(yaml.safe_dump(values))


def edit_label(root):
    file = root / "out" / "annotate" / "masks" / "s0.png"
    picture = Image.open(file)
    labels = np.array(picture)
    labels[:9, :9] = (labels[:9, :9] + 1) % 3
    save_label_png(file, labels)


CASES = {
    "image edited": ({}, flip("images/s0.png"), "embed annotate"),
    "image renamed": ({}, move("images/s0.png", "images/t0.png"), "annotate"),
    "image moved": ({}, move("images/s0.png", "images/sub/s0.png"), "annotate"),
    "images swapped": ({}, swap("images/s0.png", "images/s1.png"), "annotate"),
    "image gone": ({}, lambda root: (root / "images/s0.png").unlink(), "embed annotate"),
    "picture edited": (FOLDER, flip("pictures/disc/a.png"), "collect"),
    "picture renamed": (FOLDER, move("pictures/disc/a.png", "pictures/disc/c.png"), "collect"),
    "picture moved": (FOLDER, move("pictures/disc/sub/b.png", "pictures/disc/b.png"), "collect"),
    "picture of another": (FOLDER, move("pictures/disc/a.png", "pictures/rod/z.png"), "collect"),
    "pictures swapped": (FOLDER, swap("pictures/disc/a.png", "pictures/rod/a.png"), "collect"),
    "table edited": (TABLE, replace("training.csv", b"ring,", b"rod,"), ""),
    "table's picture": (TABLE, flip("pictures/disc/a.png"), "collect"),
    "truth edited": ({}, relabel("truth/s0.png"), "evaluate"),
    "truth moved": ({}, move("truth/s0.png", "truth/sub/s0.png"), "evaluate"),
    "last truth moved": ({}, move("truth/s2.png", "truth/t/s2.png"), "evaluate"),
    "truth renamed": ({}, move("truth/s0.png", "truth/t0.png"), "evaluate"),
    "truth swapped": ({}, swap("truth/s0.png", "truth/s1.png"), "evaluate"),
    "truth gone": ({}, lambda root: (root / "truth/s0.png").unlink(), "evaluate"),
    "truth behind a link": ({}, relabel("elsewhere/s3.png"), "evaluate"),
    "objects edited": (OBJECTS, relabel("objects/s0.png"), "evaluate"),
    "objects moved": (OBJECTS, move("objects/s0.png", "objects/sub/s0.png"), "evaluate"),
    "objects to truth": (OBJECTS, move("objects/s0.png", "truth/sub/s0.png"), "evaluate"),
    "COCO edited": (COCO, replace("truth.json", b"s0.png", b"s1.png"), "evaluate"),
    "truth's names": ({}, settings(evaluation={"classes": ["disc", "ring", "x"]}), "evaluate"),
    "unused names": (
        {"evaluation": {"format": "voc", "path": "truth", "classes": ["disc", "ring", "x"]}},
        settings(evaluation={"classes": ["disc", "ring", "y"]}),
        "evaluate",
    ),
    "label edited": ({}, edit_label, "evaluate"),
    "colours": ({}, colors, "annotate evaluate"),
    "list shortened": (LIST, replace("list.csv", b"s1.png\n", b""), "embed annotate"),
    "list of others": (LIST, replace("list.csv", b"s1", b"s2"), "embed annotate"),
    "listed image": (LIST, flip("images/s1.png"), "embed annotate"),
    "weights": (WEIGHTS, lambda root: weights(root), "embed fit annotate"),
    "decision": ({}, lambda root: decide(root, "1"), "annotate"),
    "decision undone": (
        {},
        lambda root: append_undo(root / "out" / "review" / "decisions.jsonl", "0"),
        "annotate",
    ),
    "decision taught": (REVIEWED, lambda root: decide(root, "1"), "fit annotate"),
    "window": ({}, settings(images={"window": [0, 200]}), "embed fit annotate"),
    "seed": ({}, replace("project.yaml", b"name: tiny", b"name: tiny\nseed: 4"), "collect fit"),
    "threshold": ({}, settings(inference={"threshold": 0.4}), "annotate"),
}


def weights(root):
    file = root / "nano.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def keys(root, wanted=STEPS):
    project = load_project(root / "project.yaml")
    return {step: step_key(step, project) for step in wanted}


@pytest.mark.parametrize("case", CASES)
def test_a_key_changes_with_what_its_step_reads(pattern, tmp_path, case):
    values, alter, expected = CASES[case]
    root = tmp_path / "project"
    shutil.copytree(pattern, root, symlinks=True)
    (root / "truth" / "linked").unlink()
    (root / "truth" / "linked").symlink_to(root / "elsewhere")
    file = root / "project.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **values}))
    # A class of a table without rows is refused before there is a key.
    wanted = STEPS if case != "table edited" else STEPS[1:]
    before = keys(root, wanted)
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path)
    assert keys(root, wanted) == before, "times alone change no key"
    alter(root)
    after = keys(root, wanted)
    assert {step for step in wanted if after[step] != before[step]} == set(expected.split())


def test_a_project_that_moved_has_its_keys(pattern, tmp_path):
    shutil.copytree(pattern, tmp_path / "elsewhere")
    assert keys(tmp_path / "elsewhere") == keys(pattern)
