"""The step describe: stored images get further features, without SAM, resumed and shared."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.core import described
from usam_core.errors import InputError, MissingStepError, TransientError
from usam_core.images import read_image
from usam_core.lineage.chain import read_chain
from usam_core.lineage.checks import check_chain
from usam_core.project import load_project
from usam_core.sam import embedder
from usam_core.stages import (
    STEPS,
    blocks,
    describe,
    intact,
    lineage,
    run_step,
    step_folder,
    step_key,
)
from usam_core.stages.annotate import entries
from usam_core.stages.embed import open_store
from usam_core.store.blocks import block_id

ROOT = Path(__file__).parents[2]
FEATURES = {"colour": {"model": "a/b"}}
IMAGES = 15
"""Of the tiny project: 4 to be labelled, 9 training pictures, 2 composed scenes."""


@pytest.fixture(autouse=True)
def cheap_encoder(monkeypatch):
    monkeypatch.setattr(blocks, "encoder_spec", described.encoder_spec)
    monkeypatch.setattr(blocks, "open_encoder", described.open_encoder)
    described.calls.clear()


@pytest.fixture
def no_sam(monkeypatch):
    def called(*_):
        raise AssertionError("SAM was run")

    monkeypatch.setattr(embedder.SamEmbedder, "embed", called)


@pytest.fixture
def project_file(finished_project, tmp_path):
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


def change(file, **sections):
    values = yaml.safe_load(file.read_text())
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    file.write_text(yaml.safe_dump(values))
    return load_project(file)


def images_of(store):
    index = store.index(refresh=True)
    return index.loc[index["status"] == "ok"].set_index("sha256")["source"].to_dict()


def block_of(project, name="colour"):
    return block_id(blocks.block_specs(project)[name])


def test_a_store_that_is_there_gets_a_block_and_sam_is_not_run(project_file, no_sam):
    project = change(project_file, features=FEATURES, head={"features": ["encoder", "colour"]})
    result = run_step("describe", project)
    assert (result.summary["images"], result.summary["described"]) == (IMAGES, IMAGES)
    store = open_store(project)
    store.use_blocks({"colour": block_of(project)})
    for sha256, source in images_of(store).items():
        picture = read_image(source, max_megapixels=10, window="percentile", sha256=sha256)
        found = store.read(sha256)
        expected = described.MeanColour(project.config.features["colour"])._one(picture.rgb, found)
        np.testing.assert_array_equal(found.features["colour"], expected)
    described.calls.clear()
    again = run_step("describe", project)
    assert again.reused
    assert (again.summary["described"], again.summary["reused"]) == (0, IMAGES)
    assert described.calls == []
    results = {step: run_step(step, project) for step in STEPS}
    assert results["embed"].summary["embedded"] == 0
    assert [step for step in STEPS if not results[step].reused] == [
        "fit",
        "calibrate",
        "annotate",
        "evaluate",
        "report",
    ]
    assert results["fit"].summary["features"] == ["encoder", "colour"]
    card = json.loads((step_folder(project, "fit") / "student.card.json").read_text())
    assert card["block_widths"][1] == 5
    assert len(list(entries(step_folder(project, "annotate")))) == 4
    assert [run_step(step, project).reused for step in STEPS] == [True] * len(STEPS)


def test_without_features_the_step_is_nothing(project_file):
    project = load_project(project_file)
    result = run_step("describe", project, refresh=True)
    assert result.reused
    assert intact("describe", project) == result
    assert not step_folder(project, "describe").joinpath("record.json").exists()
    assert described.calls == []


def test_only_the_blocks_of_the_head_decide_its_key(project_file):
    plain = {step: step_key(step, load_project(project_file)) for step in STEPS}
    more = change(project_file, features=FEATURES)
    changed = {step for step in STEPS if step_key(step, more) != plain[step]}
    assert changed == {"describe"}
    before = step_key("fit", change(project_file, head={"features": ["encoder", "colour"]}))
    other = change(project_file, features={"colour": {"model": "a/b", "image_size": 64}})
    assert step_key("fit", other) != before
    same = change(project_file, features={"colour": {"model": "a/b", "batch_size": 1}})
    assert step_key("fit", same) == before


def test_the_head_is_not_fitted_before_its_features_are_there(project_file):
    project = change(project_file, features=FEATURES, head={"features": ["colour"]})
    with pytest.raises(MissingStepError, match=r"9 of 9 images lack.*run `usam describe"):
        run_step("fit", project)


def test_two_projects_share_a_block_whatever_they_call_it(project_file):
    run_step("describe", change(project_file, features=FEATURES))
    described.calls.clear()
    other = shutil.copy(project_file, project_file.with_name("other.yaml"))
    project = change(
        Path(other),
        features={"mine": {"model": "a/b"}, "new": {"model": "c/d"}},
        head={"features": ["mine"]},
        outputs={"path": "out2", "store": "out/store"},
    )
    results = {step: run_step(step, project) for step in STEPS}
    assert results["embed"].summary["embedded"] == 0
    assert sum(described.calls) == IMAGES, "the block that is new, and it alone"
    assert not results["annotate"].reused


def test_a_new_image_is_described_alone(project_file):
    run_step("describe", change(project_file, features=FEATURES))
    picture = Image.open(project_file.parent / "images" / "s0.png")
    picture.rotate(90, expand=True).save(project_file.parent / "images" / "new.png")
    project = load_project(project_file)
    run_step("embed", project)
    described.calls.clear()
    result = run_step("describe", project)
    assert (result.summary["described"], result.summary["reused"]) == (1, IMAGES)
    assert described.calls == [1]


def test_another_model_gives_another_block_and_the_old_one_stays(project_file):
    project = change(project_file, features=FEATURES)
    run_step("describe", project)
    old = block_of(project)
    project = change(project_file, features={"colour": {"model": "a/b", "image_size": 64}})
    assert intact("describe", project) is None
    assert run_step("describe", project).summary["described"] == IMAGES
    store = open_store(project)
    assert store.lacking([old, block_of(project)], images_of(store)) == {}


@pytest.mark.parametrize(("weights", "kind"), [("f00d", InputError), ("a/b@1f", TransientError)])
def test_a_folder_that_is_gone_is_told_and_not_a_hub_that_is_away(
    project_file, monkeypatch, weights, kind
):
    spec = {"family": "mean", "weights": weights, "size": None}

    class Encoder(described.MeanColour):
        def __init__(self, config):
            super().__init__(config)
            self.spec = spec

    monkeypatch.setattr(blocks, "encoder_spec", lambda config, root: spec)
    monkeypatch.setattr(blocks, "open_encoder", lambda config, device, root: Encoder(config))
    project = change(project_file, features=FEATURES, head={"features": ["colour"]})
    run_step("describe", project)

    def away(config, root):
        raise TransientError("the hub cannot be reached")

    monkeypatch.setattr(blocks, "encoder_spec", away)
    folder = re.escape(str(project.root / "a/b"))
    said = f"no folder {folder} any more" if kind is InputError else "the hub cannot be reached"
    for step in ("describe", "fit"):
        with pytest.raises(kind, match=said):
            run_step(step, project)


def test_a_damaged_block_is_made_again_alone(project_file, no_sam):
    project = change(project_file, features=FEATURES)
    run_step("describe", project)
    store = open_store(project)
    first = sorted(store.index()["shard"])[0]
    folder = store.path / "shards" / first / "features" / block_of(project)
    (folder / "zarr.json").write_text("{}")
    assert intact("describe", project) is None
    assert intact("embed", project) is not None
    assert run_step("embed", project).summary["embedded"] == 0
    described.calls.clear()
    count = int((store.index()["shard"] == first).sum())
    assert run_step("describe", project).summary["described"] == count == sum(described.calls)
    assert store.verify() == []


def test_a_flipped_byte_of_a_block_is_noticed_and_the_block_made_again(project_file, no_sam):
    project = change(project_file, features=FEATURES)
    run_step("describe", project)
    store = open_store(project)
    first = sorted(store.index()["shard"])[0]
    folder = store.path / "shards" / first / "features" / block_of(project)
    (file,) = (path for path in (folder / "c").rglob("*") if path.is_file())
    whole = file.read_bytes()
    assert intact("describe", project) is not None
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    assert intact("describe", project) is None
    described.calls.clear()
    count = int((store.index()["shard"] == first).sum())
    assert run_step("describe", project).summary["described"] == count == sum(described.calls)
    assert file.read_bytes() == whole
    assert store.verify() == []
    assert intact("describe", project) is not None


def test_a_block_that_is_whole_again_is_not_dropped(project_file):
    project = change(project_file, features=FEATURES)
    run_step("describe", project)
    store = open_store(project)
    shard = store.index()["shard"].iloc[0]
    store.drop_damaged_block(shard, block_of(project))
    assert store.lacking([block_of(project)], images_of(store)) == {}


@pytest.mark.parametrize("fate", ["deleted", "changed"])
def test_an_image_that_goes_between_the_steps_is_left_out_and_told(project_file, monkeypatch, fate):
    project = change(project_file, features=FEATURES, head={"features": ["colour"]})
    victim = project_file.parent / "images" / "s1.png"
    real = describe.plan

    def planned(*arguments):
        work = real(*arguments)
        if fate == "deleted":
            victim.unlink()
        else:
            Image.fromarray(np.full((96, 128, 3), 7, np.uint8)).save(victim)
        return work

    monkeypatch.setattr(describe, "plan", planned)
    result = run_step("describe", project)
    assert result.summary["described"] == IMAGES - 1
    # What went is no longer wanted; the new content is for `embed`, and then for `describe`.
    assert result.summary["left_out"] == []
    monkeypatch.undo()
    monkeypatch.setattr(blocks, "encoder_spec", described.encoder_spec)
    monkeypatch.setattr(blocks, "open_encoder", described.open_encoder)
    results = {step: run_step(step, project) for step in STEPS}
    assert results["embed"].summary["embedded"] == (fate == "changed")
    assert results["describe"].summary["described"] == (fate == "changed")
    assert results["annotate"].summary["images"] == (4 if fate == "changed" else 3)


def test_an_image_that_cannot_be_read_again_is_left_out_until_it_can(project_file, monkeypatch):
    project = change(project_file, features=FEATURES, head={"features": ["colour"]})
    real = describe.read_image

    def refused(path, **options):
        if path.endswith("s1.png"):
            raise describe.BadImage("unreadable", f"{path}: Permission denied")
        return real(path, **options)

    monkeypatch.setattr(describe, "read_image", refused)
    result = run_step("describe", project)
    (bad,) = result.summary["left_out"]
    assert (Path(bad["path"]).name, bad["code"]) == ("s1.png", "unreadable")
    run_step("fit", project)
    assert run_step("annotate", project).summary["images"] == 3
    monkeypatch.setattr(describe, "read_image", real)
    described.calls.clear()
    assert run_step("describe", project).summary == {
        **result.summary,
        **dict(described=1, reused=IMAGES - 1, left_out=[]),
    }
    assert described.calls == [1]
    run_step("fit", project)
    assert run_step("annotate", project).summary["images"] == 4


def test_several_blocks_read_each_image_once(project_file, monkeypatch):
    read = []
    real = describe.read_image
    monkeypatch.setattr(
        describe, "read_image", lambda path, **options: read.append(path) or real(path, **options)
    )
    project = change(project_file, features={**FEATURES, "more": {"model": "c/d"}})
    run_step("describe", project)
    assert len(read) == len(set(read)) == IMAGES
    assert sum(described.calls) == 2 * IMAGES


def test_a_full_device_gets_smaller_batches():
    batches = []

    class Small:
        batch_size = 8

        def describe(self, images, mask_sets):
            batches.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError
            return list(mask_sets)

    small = Small()
    batch = [(str(n), np.zeros(1), n) for n in range(5)]
    assert list(describe._described(small, batch)) == [(str(n), n) for n in range(5)]
    assert batches == [5, 4, 2, 2, 1]
    assert small.batch_size == 2

    class Full(Small):
        def describe(self, images, mask_sets):
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(describe._described(Full(), batch))


def test_the_lineage_names_the_blocks_and_the_step(project_file):
    project = change(project_file, features=FEATURES, head={"features": ["colour"]})
    for step in STEPS:
        run_step(step, project)
    said = {
        step: json.loads((step_folder(project, step) / "lineage.json").read_text())
        for step in ("describe", "fit", "calibrate", "annotate")
    }
    assert said["describe"]["inputs"]["blocks"]["specs"]["colour"]["weights"] == "a/b"
    for step in ("fit", "calibrate", "annotate"):
        assert said[step]["inputs"]["blocks"]["ids"] == {"colour": block_of(project)}
        assert "describe" in [parent["step"] for parent in said[step]["parents"]]
    assert "features" in said["describe"]["config"]
    chain = read_chain(step_folder(project, "annotate") / "masks" / "s1.png")
    assert [one.name for one in check_chain(chain) if one.verdict == "broken"] == []
    for file in open_store(project).path.glob(f"shards/*/features/{block_of(project)}/zarr.json"):
        file.write_text("{}")
    broken = [one for one in check_chain(chain) if one.verdict == "broken"]
    assert {one.name for one in broken} == {"blocks"}
    assert "usam describe" in broken[0].text
    assert set(lineage.PARENTS) == set(STEPS)


RUN = """
import os, signal, sys, time
from tests.core import described
from usam_core.project import load_project
from usam_core.stages import blocks, run_step
described.stand_in(blocks)
real = described.MeanColour.describe
def slow(self, images, masks):
    print("at work", flush=True)
    time.sleep(float(sys.argv[2]))
    return real(self, images, masks)
described.MeanColour.describe = slow
print(run_step("describe", load_project(sys.argv[1])).summary["described"], flush=True)
"""


def start(file, pause):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(file), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_kill_keeps_the_shards_that_were_done(project_file):
    project = change(project_file, features=FEATURES)
    run = start(project_file, 0.3)
    block = block_of(project)
    store = open_store(project)
    deadline = time.monotonic() + 120
    while not list(store.path.glob(f"shards/*/features/{block}")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    kept = len(list(store.path.glob(f"shards/*/features/{block}")))
    shards = store.index(refresh=True)["shard"].nunique()
    assert 1 <= kept < shards
    assert store.verify() == []
    described.calls.clear()
    result = run_step("describe", project)
    assert 1 <= result.summary["described"] == sum(described.calls) < IMAGES
    assert store.lacking([block], images_of(store)) == {}


def test_two_runs_at_once_share_the_work(project_file):
    """Of one project, and of another one on the same store."""
    change(project_file, features=FEATURES)
    other = Path(shutil.copy(project_file, project_file.with_name("other.yaml")))
    shutil.copytree(project_file.parent / "out", project_file.parent / "out2")
    change(other, outputs={"path": "out2", "store": "out/store"})
    runs = [start(project_file, 0.05), start(project_file, 0.05), start(other, 0.05)]
    done = []
    for run in runs:
        text, _ = run.communicate(timeout=240)
        assert run.returncode == 0
        done.append(int(text.split()[-1]))
    assert sum(done) == IMAGES
    assert open_store(load_project(project_file)).verify() == []
