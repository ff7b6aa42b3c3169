"""The step describe when images, blocks, memory or the process go while it is at work."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import change
from tests.features import described
from tests.features.described import FEATURES, IMAGES, block_of, images_of
from tests.usam_process import Started
from usam_core.config.project import load_project
from usam_core.errors import InputError, TransientError
from usam_core.steps import STEPS, blocks, describe, intact, run_step
from usam_core.steps.embed import open_store

pytestmark = pytest.mark.usefixtures("cheap_encoder")


@pytest.mark.parametrize(("weights", "kind"), [("f00d", InputError), ("a/b@1f", TransientError)])
def test_a_folder_that_is_gone_is_told_and_not_a_hub_that_is_away(
    project_file, monkeypatch, weights, kind
):
    spec = {"family": "mean", "weights": weights, "size": None}

    class Encoder(described.MeanColor):
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


@pytest.mark.slow
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
            raise describe.UnusableImage("unreadable", f"{path}: Permission denied")
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


RUN = """
import os, signal, sys, time
from tests.features import described
from usam_core.config.project import load_project
from usam_core.steps import blocks, run_step
described.stand_in(blocks)
real = described.MeanColor.describe
def slow(self, images, masks):
    print("at work", flush=True)
    time.sleep(float(sys.argv[2]))
    return real(self, images, masks)
described.MeanColor.describe = slow
print(run_step("describe", load_project(sys.argv[1])).summary["described"], flush=True)
"""


@pytest.mark.slow
def test_a_kill_keeps_the_shards_that_were_done(project_file):
    project = change(project_file, features=FEATURES)
    run = Started(project_file, 0.3, code=RUN)
    block = block_of(project)
    store = open_store(project)
    deadline = time.monotonic() + 120
    while not list(store.path.glob(f"shards/*/features/{block}")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.kill()
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
    runs = [Started(file, 0.05, code=RUN) for file in (project_file, project_file, other)]
    ended = [run.wait() for run in runs]
    assert [done.returncode for done in ended] == [0, 0, 0], ended
    assert sum(int(done.stdout.split()[-1]) for done in ended) == IMAGES
    assert open_store(load_project(project_file)).verify() == []
