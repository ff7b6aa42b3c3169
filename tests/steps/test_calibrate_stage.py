"""The step calibrate on a real, tiny project: what it leaves, what depends on it, what it lacks."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from tests.conftest import write_tiny_project
from usam_core.config.project import load_project
from usam_core.errors import ConfigError
from usam_core.lineage.chain import read_chain
from usam_core.steps import STEPS, run_step, step_folder
from usam_core.steps.lineage_checks import check_chain


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Return a project that has run to its end, with enough held-out scenes."""
    file = write_tiny_project(tmp_path_factory.mktemp("calibrated"))
    values = yaml.safe_load(file.read_text())
    values["training"]["render"]["per_class"] = 6
    values["compose"] = {"held_out_scenes": 14, "held_out": 0.34, "size": 96}
    values["inference"] = {"threshold": 0.02}
    file.write_text(yaml.safe_dump(values))
    for step in STEPS:
        run_step(step, load_project(file))
    return file


@pytest.fixture
def copied(calibrated, tmp_path):
    shutil.copytree(calibrated.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


def broken(file):
    """Return the names of the checks of a file's chain that found something wrong."""
    return {one.name for one in check_chain(read_chain(file)) if one.verdict == "broken"}


def test_it_leaves_numbers_a_table_and_a_picture(calibrated):
    folder = step_folder(load_project(calibrated), "calibrate")
    record = json.loads((folder / "record.json").read_text())
    summary = record["summary"]
    assert summary["masks"] >= 60
    assert summary["scenes"] == 14
    assert set(summary["thresholds"]) == {"disc", "ring", "rod"}
    table = pd.read_csv(folder / "reliability.csv")
    assert table["masks"].sum() == summary["masks"]
    gaps = (table["confidence"] - table["accuracy"]).abs().fillna(0)
    assert (gaps * table["masks"]).sum() / summary["masks"] == pytest.approx(summary["ece"])
    assert {"calibration.json", "reliability.csv", "reliability.png"} <= set(record["outputs"])


def test_every_listed_mask_has_probability_entropy_and_runner_up(calibrated):
    project = load_project(calibrated)
    found = json.loads((step_folder(project, "annotate") / "coco.json").read_text())
    assert found["annotations"]
    for one in found["annotations"]:
        assert 0 <= one["probability"] <= 1
        assert one["entropy"] >= 0
        assert one["runner_up"] in {1, 2, 3} - {one["category_id"]}
    metrics = json.loads((step_folder(project, "evaluate") / "record.json").read_text())
    assert 0 <= metrics["summary"]["ece"] <= 1


def test_another_suppression_calibrates_again_and_trains_nothing(copied):
    values = yaml.safe_load(copied.read_text())
    values["inference"]["nms_iou"] = 0.3
    copied.write_text(yaml.safe_dump(values))
    project = load_project(copied)
    reused = {step: run_step(step, project).reused for step in STEPS}
    assert [step for step in STEPS if not reused[step]] == [
        "calibrate",
        "annotate",
        "evaluate",
        "report",
    ]


def test_a_threshold_labels_again_and_calibrates_nothing(copied):
    values = yaml.safe_load(copied.read_text())
    values["inference"]["threshold"] = 0.4
    copied.write_text(yaml.safe_dump(values))
    project = load_project(copied)
    reused = {step: run_step(step, project).reused for step in STEPS}
    assert [step for step in STEPS if not reused[step]] == ["annotate", "evaluate", "report"]


def test_a_replaced_calibration_breaks_the_chain_of_the_labels(copied):
    mask = copied.parent / "out" / "annotate" / "masks" / "s1.png"
    assert broken(mask) == set()
    file = copied.parent / "out" / "calibrate" / "calibration.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "temperature": 2 * values["temperature"]}))
    assert "calibration" in broken(mask)


def test_too_few_masks_fit_nothing_and_say_so(copied):
    values = yaml.safe_load(copied.read_text())
    values["inference"] |= {"min_predicted_iou": 0.99, "thresholds": "calibrated", "presence": 0.2}
    copied.write_text(yaml.safe_dump(values))
    result = run_step("calibrate", load_project(copied))
    assert result.summary["masks"] == 0
    (note,) = result.summary["notes"]
    assert "at least 60 in 8 are needed" in note
    assert not (step_folder(load_project(copied), "calibrate") / "calibration.json").exists()
    notes = run_step("annotate", load_project(copied)).summary["notes"]
    said = " had no effect: there were too few held-out scenes"
    assert [note.split(said)[0] for note in notes] == [
        "inference.thresholds: calibrated",
        "inference.presence: 0.2",
    ]
    values["inference"] |= {"thresholds": "fixed", "presence": 0.0}
    copied.write_text(yaml.safe_dump(values))
    assert run_step("annotate", load_project(copied)).summary["notes"] == []


def test_settings_that_had_their_effect_are_not_noted(copied):
    values = yaml.safe_load(copied.read_text())
    values["inference"] |= {"thresholds": "calibrated", "presence": 0.2}
    copied.write_text(yaml.safe_dump(values))
    assert run_step("calibrate", load_project(copied)).summary["masks"]
    assert run_step("annotate", load_project(copied)).summary["notes"] == []


def test_a_negative_that_is_a_parent_is_refused(copied):
    values = yaml.safe_load(copied.read_text())
    values["negatives"] = ["round"]
    copied.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="which is the parent of a class"):
        load_project(copied)
