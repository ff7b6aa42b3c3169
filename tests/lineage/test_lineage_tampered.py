"""Every tampered link of a chain is noticed and named."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from tests.lineage.tampered import (
    PNG,
    broken,
    change_bytes,
    edit_json,
    lose,
    replace_head,
    sentences,
)
from usam_core.config.project import load_project
from usam_core.errors import InputError
from usam_core.files.digest import file_digest
from usam_core.lineage.chain import read_chain
from usam_core.sam.nano import NANO_WEIGHTS
from usam_core.steps import STEPS, run_step
from usam_core.steps.embed import open_store


def forge_head(root):
    replace_head(root)
    sha256 = file_digest(root / "out" / "fit" / "student.safetensors")
    edit_json("out/annotate/lineage.json", "weights", "head", "sha256", sha256)(root)


def replace_manifest(root):
    file = root / "out" / "collect" / "manifest.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file, index=False)


def damage_shard(root):
    project = load_project(root / "project.yaml")
    (sha256,) = {
        image["sha256"]
        for image in json.loads((root / "out/annotate/coco.json").read_text())["images"]
        if image["file_name"] == "s1.png"
    }
    store = open_store(project)
    shard = store.index().set_index("sha256").loc[sha256, "shard"]
    chunk = next(
        p for p in (store.path / "shards" / shard / "tokens" / "c").rglob("*") if p.is_file()
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


PART = "out/annotate/parts/*.parquet"

TAMPERINGS = {
    "head replaced": (
        replace_head,
        ("out/annotate/lineage.json", "head"),
        "the head changed after",
    ),
    "head forged": (
        forge_head,
        ("out/fit/lineage.json", "outputs"),
        "student.safetensors: expected SHA-256",
    ),
    "checkpoint forged": (
        edit_json("out/annotate/lineage.json", "weights", "checkpoint", "sha256", "0" * 64),
        ("out/annotate/lineage.json", "checkpoint"),
        "expected SHA-256 000000000000",
    ),
    "card edited": (
        edit_json("out/fit/student.card.json", "classes", ["ring", "disc", "rod"]),
        ("out/annotate/lineage.json", "head"),
        "student.card.json: expected",
    ),
    "label PNG painted over": (change_bytes(PNG), (None, "file"), "masks/s1.png: expected SHA-256"),
    "image changed": (change_bytes("images/s1.png"), (None, "image"), "images/s1.png: expected"),
    "image gone": (lose("images/s1.png"), (None, "image"), "got No such file"),
    "masks damaged": (damage_shard, (None, "masks"), "run `usam embed` again"),
    "picture changed": (
        change_bytes("out/collect/pictures/rod-96-0-1/0001.png"),
        ("out/collect/lineage.json", "pictures"),
        "rod-96-0-1/0001.png: expected",
    ),
    "manifest replaced": (
        replace_manifest,
        ("out/fit/lineage.json", "pictures"),
        "the pictures changed after fit read it",
    ),
    "fit's lineage edited": (
        edit_json("out/fit/lineage.json", "seed", 7),
        ("out/fit/lineage.json", "lineage"),
        "gone or changed",
    ),
    "fit's lineage gone": (
        lose("out/fit/lineage.json"),
        ("out/fit/lineage.json", "lineage"),
        "gone or changed",
    ),
    "collect's lineage edited": (
        edit_json("out/collect/lineage.json", "pictures", "provenance", {"sources": {"web": 9}}),
        ("out/collect/lineage.json", "lineage"),
        "gone or changed",
    ),
    "own lineage edited": (
        edit_json("out/annotate/lineage.json", "config", "inference", "threshold", 0.9),
        ("out/annotate/lineage.json", "lineage"),
        "out/annotate/lineage.json: expected SHA-256",
    ),
    "record gone": (
        lose("out/annotate/record.json"),
        ("out/annotate/lineage.json", "lineage"),
        "out/annotate/record.json: missing",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_link_is_named(root, name):
    tamper, link, sentence = TAMPERINGS[name]
    assert broken(root / PNG) == []
    tamper(root)
    assert link in broken(root / PNG)
    assert sentence in sentences(root / PNG)


def test_another_checkpoint_is_noticed(tiny_project):
    root = tiny_project.parent
    settings = yaml.safe_load(tiny_project.read_text())
    settings["sam"]["checkpoint"] = "my_sam.safetensors"
    tiny_project.write_text(yaml.safe_dump(settings))
    shutil.copy(NANO_WEIGHTS, root / "my_sam.safetensors")
    project = load_project(tiny_project)
    for step in STEPS[:2]:
        run_step(step, project)
    assert broken(root / "out" / "embed") == []
    change_bytes("my_sam.safetensors")(root)
    assert broken(root / "out" / "embed") == [("out/embed/lineage.json", "checkpoint")]


@pytest.mark.parametrize(
    ("tamper", "name"),
    [
        (change_bytes(PNG), "labels"),
        (change_bytes("images/s3.png"), "images"),
        (lose("truth/s0.png"), "truth"),
        (edit_json("out/evaluate/lineage.json", "inputs", "labels", "sha256", "0" * 64), "labels"),
    ],
)
def test_metrics_are_checked_down_to_every_label_image_and_truth(root, tamper, name):
    tamper(root)
    assert name in {found for _, found in broken(root / "out" / "evaluate" / "metrics.json")}


def test_labels_that_were_made_again_are_not_those_that_were_measured(root):
    file = root / "project.yaml"
    file.write_text(file.read_text().replace("threshold: 0.3", "threshold: 0.9"))
    run_step("annotate", load_project(file))
    assert broken(root / PNG) == []
    found = broken(root / "out" / "evaluate" / "metrics.json")
    assert ("out/evaluate/lineage.json", "labels") in found


def test_a_file_that_no_step_made_is_no_output(root, tmp_path):
    shutil.copy(root / PNG, root / "out" / "annotate" / "masks" / "mine.png")
    assert broken(root / "out" / "annotate" / "masks" / "mine.png") == [(None, "file")]
    with pytest.raises(InputError, match="neither its folder nor one above"):
        read_chain(root / "images" / "s0.png")
    with pytest.raises(InputError, match="no such file"):
        read_chain(root / "out" / "annotate" / "masks" / "none.png")
