"""What happens to finished steps when files, settings or neighbours change under them."""

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from tests.conftest import change
from tests.usam_process import Started
from usam_core.config.project import load_project
from usam_core.errors import InputError, StoreError
from usam_core.head.checkpoint import load_head
from usam_core.masks.label_png import read_label_png
from usam_core.steps import (
    STEPS,
    base,
    embed,
    intact,
    run_step,
    step_folder,
)
from usam_core.steps.embed import embed_groups, open_store
from usam_core.steps.embed import plan as plan_embed
from usam_core.steps.images_to_label import labelled_images
from usam_core.truth import open_truth


def test_switching_distillation_off_labels_with_the_new_teacher(project_file):
    project = change(
        project_file, head={"distil": False}, classes=["disc", "rod"], evaluation={"classes": None}
    )
    run_step("collect", project)
    run_step("fit", project)
    run_step("annotate", project)
    labels = step_folder(project, "annotate")
    names = [category["name"] for category in COCO(str(labels / "coco.json")).dataset["categories"]]
    assert names == ["disc", "rod"]
    assert not (step_folder(project, "fit") / "student.safetensors").exists()


def test_a_very_long_and_thin_image_is_quarantined(project_file):
    picture = np.zeros((2, 1300, 3), np.uint8)
    Image.fromarray(picture).save(project_file.parent / "images" / "line.png")
    project = load_project(project_file)
    result = run_step("embed", project)
    assert [bad["code"] for bad in result.summary["quarantined"]] == ["elongated"]
    assert run_step("annotate", project).summary["images"] == 4


def test_the_longest_image_that_is_taken_can_be_embedded(project_file):
    picture = np.random.default_rng(0).integers(0, 255, (10, 640, 3), np.uint8)
    Image.fromarray(picture).save(project_file.parent / "images" / "line.png")
    project = load_project(project_file)
    result = run_step("embed", project)
    assert (result.summary["embedded"], result.summary["quarantined"]) == (1, [])
    run_step("annotate", project)
    labels = step_folder(project, "annotate") / "masks" / "line.png"
    assert read_label_png(labels).shape == (10, 640)


def test_results_training_pictures_and_truth_among_the_images_are_not_labelled(project_file):
    pictures = project_file.parent / "pictures" / "disc"
    pictures.mkdir(parents=True)
    shutil.copy(project_file.parent / "images" / "s0.png", pictures / "a.png")
    training = {"source": "folder", "path": "pictures"}
    project = change(project_file, images={"path": "."}, training=training)
    assert list(labelled_images(project)["path"]) == [f"images/s{i}.png" for i in range(4)]


def test_a_folder_without_images_says_what_was_looked_for(project_file):
    (project_file.parent / "nothing").mkdir()
    project = change(project_file, images={"path": "nothing"})
    with pytest.raises(InputError, match=r"nothing: no images; expected files ending in \.jpg"):
        run_step("embed", project)


@pytest.mark.parametrize("fate", ["deleted", "changed"])
def test_an_image_that_goes_while_others_are_embedded_stops_nothing(project_file, fate):
    images = project_file.parent / "images"
    for number in range(2):
        picture = np.full((64, 64, 3), 100 * number, np.uint8)
        Image.fromarray(picture).save(images / f"new{number}.png")
    project = load_project(project_file)
    (group,) = plan_embed(project)
    if fate == "deleted":
        (images / "new0.png").unlink()
    else:
        Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(images / "new0.png")
    assert embed_groups(project, [group]) == [{"embedded": 1, "quarantined": 1}]
    # What was said of a path is not held against the content.
    assert run_step("embed", project).summary["embedded"] == (fate == "changed")


def test_another_color_is_drawn_and_nothing_is_labelled_anew(project_file):
    overlay = project_file.parent / "out" / "annotate" / "overlays" / "s0.jpg"
    before = overlay.read_bytes()
    classes = yaml.safe_load(project_file.read_text())["classes"]
    for spec in classes:
        spec["color"] = "#ffffff"
    project = change(project_file, classes=classes)
    assert run_step("annotate", project).summary["labelled"] == 0
    assert overlay.read_bytes() != before


def test_fewer_overlays_leave_no_old_ones(project_file):
    project = change(project_file, outputs={"overlays": 0})
    run_step("annotate", project)
    assert not list((step_folder(project, "annotate") / "overlays").glob("*"))


@pytest.mark.parametrize("victim", ["masks/s1.png", "overlays/s0.jpg"])
def test_a_flipped_byte_is_noticed_and_put_right(project_file, victim):
    project = load_project(project_file)
    path = step_folder(project, "annotate") / victim
    before = path.read_bytes()
    path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    assert intact("annotate", project) is None
    run_step("annotate", project)
    assert path.read_bytes() == before


def test_a_shortened_shard_is_embedded_again(project_file):
    project = load_project(project_file)
    shards = open_store(project).path / "shards"
    victim = max((p for p in shards.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-10])
    assert intact("embed", project) is None
    assert 1 <= run_step("embed", project).summary["embedded"] <= 4
    assert open_store(project).verify() == []


def test_a_manifest_that_cannot_be_read_names_the_step_that_writes_it(project_file):
    project = load_project(project_file)
    (step_folder(project, "collect") / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"manifest\.parquet: .*run `usam collect"):
        run_step("fit", project, refresh=True)
    assert not run_step("collect", project).reused
    assert run_step("fit", project).reused


def test_a_card_of_another_form_asks_for_a_new_fit(project_file):
    folder = project_file.parent / "out" / "fit"
    card = folder / "student.card.json"
    card.write_text(card.read_text().replace('"settings"', '"options"'))
    with pytest.raises(StoreError, match="does not describe the head beside it"):
        load_head(folder / "student.safetensors")


def test_the_head_card_holds_its_last_metrics(project_file):
    _, card = load_head(project_file.parent / "out" / "fit" / "student.safetensors")
    assert set(card["metrics"]) == {
        "role",
        "epoch",
        "loss",
        "mil",
        "uncertainty",
        "masks",
        "background",
        "accuracy",
        "bad_share",
    }
    assert card["metrics"]["role"] == "student"
    assert card["training_provenance"]["sources"] == {"render": 9}


def test_two_projects_at_once_in_one_folder_take_turns(project_file):
    other = project_file.with_name("other.yaml")
    values = yaml.safe_load(project_file.read_text())
    other.write_text(yaml.safe_dump({**values, "inference": {"threshold": 0.2}}))
    running = [Started("annotate", file, "--refresh") for file in (project_file, other)]
    ended = [process.wait() for process in running]
    assert [done.returncode for done in ended] == [0, 0], ended


@pytest.mark.slow
def test_two_runs_at_once_embed_every_image_once(tiny_project):
    run_step("collect", load_project(tiny_project))
    running = [Started("embed", tiny_project, "--json") for _ in range(2)]
    ended = [process.wait() for process in running]
    assert [done.returncode for done in ended] == [0, 0], ended
    assert sum(yaml.safe_load(done.stdout)["summary"]["embedded"] for done in ended) == 13


def test_steps_after_one_that_ran_again_see_its_new_result(project_file):
    project = change(project_file, head={"steps": 6})
    reused = {step: run_step(step, project).reused for step in STEPS}
    assert [step for step in STEPS if not reused[step]] == [
        "fit",
        "calibrate",
        "annotate",
        "evaluate",
        "report",
    ]


def test_truth_may_speak_of_the_coarser_names(project_file):
    values = yaml.safe_load(project_file.read_text())
    values["evaluation"]["classes"] = ["round", "long", "other"]
    project_file.write_text(yaml.safe_dump(values))
    truth = open_truth(load_project(project_file, level="parents"))
    assert truth.notes == ["counted as background: other"]


def test_embeddings_made_by_other_code_are_kept_and_the_run_says_so(
    finished_project, tmp_path, monkeypatch
):
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    project = load_project(tmp_path / "copy" / "project.yaml")
    for module in (base, embed):
        monkeypatch.setattr(module, "code_digest", lambda *_: "other")
    summary = run_step("embed", project).summary
    assert (summary["embedded"], summary["reused"]) == (0, 13)
    (note,) = summary["notes"]
    assert "13 stored embeddings are kept" in note
    assert run_step("embed", project).reused
