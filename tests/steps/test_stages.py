"""The steps on real, tiny data: what is reused, what is noticed, what is lost by a kill."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from tests.conftest import change, write_tiny_project
from tests.usam_process import Started
from usam_core.config.project import load_project
from usam_core.errors import ConfigError, InputError, MissingStepError
from usam_core.steps import STEPS, annotate, intact, run_step, step_folder, step_key
from usam_core.steps.annotate import labels
from usam_core.steps.collect import read_manifest
from usam_core.steps.embed import open_store
from usam_core.steps.embed import plan as plan_embed


def copied(finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


def run_all(file, **changes):
    project = load_project(file, **changes)
    return {step: run_step(step, project) for step in STEPS}


def test_everything_is_there_at_the_end(finished_project):
    project = load_project(finished_project)
    labels = step_folder(project, "annotate")
    coco = COCO(str(labels / "coco.json"))
    assert len(coco.getImgIds()) == 4
    for image in coco.dataset["images"]:
        painted = np.asarray(Image.open(labels / "masks" / image["file_name"]))
        assert painted.shape == (image["height"], image["width"]) == (96, 128)
    assert len(list((labels / "overlays").iterdir())) == 2
    metrics = json.loads((step_folder(project, "evaluate") / "metrics.json").read_text())
    assert 0 < metrics["semantic"]["miou"] <= 1


def test_what_the_labels_were_made_of_stands_beside_them(finished_project):
    project = load_project(finished_project)
    run = json.loads((step_folder(project, "annotate") / "run.json").read_text())
    assert set(run["images"]) == {f"s{i}.png" for i in range(4)}
    assert run["encoder"]["model"] == "nano"
    assert len(run["encoder"]["checkpoint_sha256"]) == 64
    assert run["head"]["classes"] == ["disc", "ring", "rod"]
    assert run["config"]["inference"]["threshold"] == 0.3
    assert run["seed"] == 0
    assert "torch" in run["versions"]


def test_a_second_run_does_nothing(finished_project):
    results = run_all(finished_project)
    assert all(result.reused for result in results.values())
    assert results["embed"].summary["embedded"] == 0


def test_a_new_image_is_embedded_and_labelled_alone(finished_project, tmp_path):
    file = copied(finished_project, tmp_path)
    picture = Image.open(file.parent / "images" / "s0.png")
    picture.rotate(90, expand=True).save(file.parent / "images" / "new.png")
    results = run_all(file)
    assert results["collect"].reused
    assert results["embed"].summary["embedded"] == 1
    assert results["embed"].summary["reused"] == 13
    assert results["fit"].reused
    assert results["annotate"].summary["labelled"] == 1
    assert results["annotate"].summary["reused"] == 4
    assert results["evaluate"].summary["without_truth"] == 1


def test_an_image_that_moved_is_not_embedded_again(finished_project, tmp_path):
    file = copied(finished_project, tmp_path)
    images = file.parent / "images"
    (images / "deep").mkdir()
    (images / "s0.png").rename(images / "deep" / "renamed.png")
    project = load_project(file)
    assert run_step("embed", project).summary["embedded"] == 0
    run_step("annotate", project)
    labels = step_folder(project, "annotate")
    assert (labels / "masks" / "deep" / "renamed.png").exists()
    assert not (labels / "masks" / "s0.png").exists()


def test_a_copied_project_names_its_own_store(finished_project, tmp_path):
    project = load_project(copied(finished_project, tmp_path))
    result = run_step("embed", project)
    assert result.reused
    assert Path(result.path).is_relative_to(tmp_path)
    assert Path(result.path).is_dir()


def test_refreshing_embed_embeds_all_images_of_the_project_and_no_others(
    finished_project, tmp_path
):
    file = copied(finished_project, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    file_of_other = write_tiny_project(other)
    settings = yaml.safe_load(file_of_other.read_text())
    settings["outputs"] = {"store": str(file.parent / "out" / "store")}
    file_of_other.write_text(yaml.safe_dump(settings))
    Image.new("RGB", (64, 48), "teal").save(other / "images" / "own.png")
    theirs = load_project(file_of_other)
    for step in ("collect", "embed"):
        run_step(step, theirs)
    project = load_project(file)
    assert run_step("embed", project, refresh=True).summary["embedded"] == 13
    assert run_step("embed", project).summary["embedded"] == 0
    # Their own shard held none of ours.
    assert run_step("embed", theirs).summary["embedded"] == 0


def test_refreshing_annotate_labels_all_images_again(finished_project, tmp_path):
    project = load_project(copied(finished_project, tmp_path))
    summary = run_step("annotate", project, refresh=True).summary
    assert (summary["labelled"], summary["reused"]) == (4, 0)


def test_another_grouping_embeds_nothing(finished_project, tmp_path):
    results = run_all(copied(finished_project, tmp_path), level="parents")
    assert results["embed"].summary["embedded"] == 0
    assert results["fit"].summary["classes"] == ["round", "long"]
    assert not results["fit"].reused
    assert set(results["evaluate"].summary["per_class_iou"]) == {"background", "round", "long"}


@pytest.mark.slow
def test_a_class_list_that_shrinks_embeds_nothing(finished_project, tmp_path):
    file = copied(finished_project, tmp_path)
    text = file.read_text().replace("- name: ring\n  parent: round\n", "")
    file.write_text(text.replace("path: truth", "path: truth\n  classes: [disc, ring, rod]"))
    results = run_all(file)
    assert results["embed"].summary["embedded"] == 0
    assert results["fit"].summary["classes"] == ["disc", "rod"]
    assert results["evaluate"].summary["truth_notes"] == ["counted as background: ring"]


@pytest.mark.parametrize("damage", ["delete", "truncate"])
@pytest.mark.parametrize("victim", ["masks/s1.png", "coco.json", "run.json", "lineage.json"])
def test_damaged_outputs_are_noticed_and_made_again(finished_project, tmp_path, victim, damage):
    file = copied(finished_project, tmp_path)
    project = load_project(file)
    path = step_folder(project, "annotate") / victim
    before = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(before[:-3])
    assert intact("annotate", project) is None
    run_step("annotate", project)
    if victim != "lineage.json":  # which holds the time
        assert path.read_bytes() == before
    assert intact("annotate", project) is not None


def test_a_lost_shard_is_embedded_again(finished_project, tmp_path):
    project = load_project(copied(finished_project, tmp_path))
    store = open_store(project)
    picture = read_manifest(project)["sha256"].iloc[0]
    shutil.rmtree(store.path / "shards" / store.index().set_index("sha256").loc[picture, "shard"])
    assert intact("embed", project) is None
    assert 1 <= run_step("embed", project).summary["embedded"] <= 4


@pytest.mark.parametrize(
    ("section", "change", "steps"),
    [
        ("inference", {"threshold": 0.31}, ["annotate", "evaluate", "report"]),
        ("head", {"steps": 6}, ["fit", "calibrate", "annotate", "evaluate", "report"]),
        ("head", {"cache_mb": 1}, []),
        ("sam", {"device": "cpu", "points_per_batch": 3}, []),
    ],
)
def test_a_setting_invalidates_what_depends_on_it(finished_project, section, change, steps):
    project = load_project(finished_project)
    part = getattr(project.config, section).model_copy(update=change)
    changed = type(project)(project.config.model_copy(update={section: part}), project.file)
    differing = [s for s in STEPS if step_key(s, project) != step_key(s, changed)]
    # Later steps read the record of the earlier one, which has not run again yet.
    assert differing == steps[:1]


def test_bad_images_are_quarantined_with_their_reasons_and_stop_nothing(tiny_project):
    images = tiny_project.parent / "images"
    whole = (images / "s0.png").read_bytes()
    (images / "half.png").write_bytes(whole[: len(whole) // 2])
    (images / "nothing.jpg").touch()
    (images / "words.png").write_text("this is no picture")
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(images / "film.gif", save_all=True, append_images=frames[1:])
    project = load_project(tiny_project)
    run_step("collect", project)
    result = run_step("embed", project)
    codes = {bad["path"].rsplit("/", 1)[-1]: bad["code"] for bad in result.summary["quarantined"]}
    assert codes == {
        "half.png": "truncated",
        "nothing.jpg": "empty",
        "words.png": "not_an_image",
        "film.gif": "animated",
    }
    assert all(bad["reason"] for bad in result.summary["quarantined"])
    run_step("compose", project)
    run_step("fit", project)
    run_step("calibrate", project)
    assert run_step("annotate", project).summary["images"] == 4
    # Known to be bad: not tried again.
    assert plan_embed(project) == []


def test_a_kill_loses_at_most_the_shard_in_flight(tiny_project):
    project = load_project(tiny_project)
    run_step("collect", project)
    embedding = Started("embed", tiny_project)
    shards = project.store_root
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(shards.glob("*/shards/[0-9a-f]*")):
        time.sleep(0.02)
    embedding.kill()
    left = sum(map(len, plan_embed(project)))
    assert 0 < left <= 13 - 4
    assert intact("embed", project) is None
    store = open_store(project)
    assert store.verify() == []
    done = {path.name for path in (store.path / "shards").glob("[0-9a-f]*")}
    result = run_step("embed", project)
    assert result.summary["embedded"] == left
    assert done < {path.name for path in (store.path / "shards").glob("[0-9a-f]*")}


def test_a_step_that_comes_too_early_says_what_to_run(tiny_project):
    project = load_project(tiny_project)
    with pytest.raises(MissingStepError, match="run `usam collect"):
        run_step("embed", project)
    run_step("collect", project)
    with pytest.raises(MissingStepError, match="run `usam embed"):
        run_step("compose", project)
    with pytest.raises(MissingStepError, match="run `usam compose"):
        run_step("fit", project)
    run_step("embed", project)
    run_step("compose", project)
    with pytest.raises(MissingStepError, match="run `usam fit"):
        run_step("calibrate", project)
    run_step("fit", project)
    with pytest.raises(MissingStepError, match="run `usam calibrate"):
        run_step("annotate", project)
    with pytest.raises(MissingStepError, match="run `usam annotate"):
        run_step("evaluate", project)


def test_too_few_pictures_name_the_classes(tiny_project):
    text = tiny_project.read_text().replace("source: render", "source: render\n  min_per_class: 9")
    tiny_project.write_text(text)
    with pytest.raises(InputError, match=r"disc \(3\), ring \(3\), rod \(3\); expected at least 9"):
        run_step("collect", load_project(tiny_project))


def test_without_truth_there_is_nothing_to_measure(finished_project):
    project = load_project(finished_project, evaluation=None)
    with pytest.raises(ConfigError, match="no `evaluation` section"):
        run_step("evaluate", project)


def test_entries_speak_of_every_image_once(finished_project):
    images = labels(load_project(finished_project)).sorted_images()
    assert [image.path for image in images] == [f"s{i}.png" for i in range(4)]


@pytest.mark.slow
def test_the_same_project_gives_the_same_labels(finished_project, tmp_path):
    again = copied(finished_project, tmp_path)
    shutil.rmtree(again.parent / "out")
    run_all(again)
    name = "out/annotate/coco.json"
    assert (again.parent / name).read_bytes() == (finished_project.parent / name).read_bytes()


@pytest.mark.parametrize("lost", ["changed", "gone"])
def test_masks_follow_no_edges_of_another_image(finished_project, tmp_path, monkeypatch, lost):
    """An image that another one took the place of, or that went, while its part was labelled."""
    file = copied(finished_project, tmp_path)
    project = change(file, inference={"threshold": 0.31}, evaluation=None)
    image = file.parent / "images" / "s0.png"
    label = annotate.label_part

    def label_later(*given, **more):
        if lost == "gone":
            image.unlink(missing_ok=True)
        else:
            Image.new("RGB", Image.open(image).size).save(image)
        return label(*given, **more)

    monkeypatch.setattr(annotate, "label_part", label_later)
    with pytest.raises(InputError, match=r"s0\.png: .*masks follow its edges: run again"):
        run_step("annotate", project)
    grid = change(file, inference={"edges": "grid"})
    if lost == "changed":
        run_step("embed", grid)
    assert run_step("annotate", grid).summary["labelled"]  # no image is read for it
