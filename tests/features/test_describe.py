"""The step describe: stored images get further features, without SAM, resumed and shared."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import change
from tests.features import described
from tests.features.described import FEATURES, IMAGES, block_of, images_of
from usam_core.config.project import load_project
from usam_core.errors import MissingStepError
from usam_core.images.read import read_image
from usam_core.lineage.chain import read_chain
from usam_core.steps import STEPS, describe, intact, run_step, step_folder, step_key
from usam_core.steps.annotate import labels
from usam_core.steps.embed import open_store
from usam_core.steps.lineage_checks import check_chain

pytestmark = pytest.mark.usefixtures("cheap_encoder")


def test_running_sam_would_be_noticed(project_file, no_sam):
    project = change(project_file, sam={"points_per_side": 2})
    with pytest.raises(AssertionError, match="SAM was run"):
        run_step("embed", project)


def test_a_store_that_is_there_gets_a_block_and_sam_is_not_run(project_file, no_sam):
    project = change(project_file, features=FEATURES, head={"features": ["encoder", "colour"]})
    result = run_step("describe", project)
    assert (result.summary["images"], result.summary["described"]) == (IMAGES, IMAGES)
    store = open_store(project)
    store.use_blocks({"colour": block_of(project)})
    for sha256, source in images_of(store).items():
        picture = read_image(source, max_megapixels=10, window="percentile", sha256=sha256)
        found = store.read(sha256)
        expected = described.MeanColor(project.config.features["colour"])._one(picture.rgb, found)
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
    assert len(list(labels(project).images())) == 4
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


@pytest.mark.slow
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


@pytest.mark.slow
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
