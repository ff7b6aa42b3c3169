"""The quality gate: every check just below and just over its line, and what a run leaves behind."""

import json
import shutil

import pytest
import yaml
from PIL import Image

from usam_core.config.project import load_project
from usam_core.config.schema import GateConfig
from usam_core.metrics.gate import RunStatistics, judge
from usam_core.steps import STEPS, run_step
from usam_core.steps.gate import check_gate


def run(key="now", **changes):
    values = {
        "images": 100,
        "quarantined": 0.02,
        "class_share": {"dog": 0.2, "cat": 0.1},
        "mean_score": 0.6,
        "miou": 0.5,
    }
    return RunStatistics(key, **{**values, **changes})


def checks(now, config, before=None):
    before = [run(str(n)) for n in range(3)] if before is None else before
    return [(o.check, o.class_name) for o in judge(now, before, GateConfig(**config))]


@pytest.mark.parametrize(
    ("config", "fine", "bad", "name"),
    [
        ({"max_quarantined": 0.05}, {"quarantined": 0.05}, {"quarantined": 0.051}, None),
        ({"min_miou": 0.4}, {"miou": 0.4}, {"miou": 0.399}, None),
        ({"max_miou_drop": 0.25}, {"miou": 0.25}, {"miou": 0.24}, None),
        ({"max_confidence_drop": 0.25}, {"mean_score": 0.36}, {"mean_score": 0.34}, None),
        (
            {"max_share_change": 2},
            {"class_share": {"dog": 0.4, "cat": 0.05}},
            {"class_share": {"dog": 0.41, "cat": 0.1}},
            "dog",
        ),
        (
            {"max_share_change": 2},
            {"class_share": {"dog": 0.2, "cat": 0.1, "ant": 0.002}},
            {"class_share": {"dog": 0.2, "cat": 0.0}},
            "cat",
        ),
    ],
)
def test_each_check_at_its_line(config, fine, bad, name):
    (check,) = config
    assert checks(run(**fine), config) == []
    assert checks(run(**bad), config) == [(check, name)]
    assert checks(run(**bad), {}) == []


def test_without_earlier_runs_only_what_is_absolute_counts():
    config = {"max_quarantined": 0.01, "max_share_change": 2, "max_miou_drop": 0.1}
    assert checks(run(miou=0.0, class_share={}), config, before=[]) == [("max_quarantined", None)]


def test_the_median_of_the_last_runs_counts():
    before = [run("a", miou=0.9), run("b", miou=0.1), run("c", miou=0.5), run("d", miou=0.6)]
    assert checks(run(miou=0.45), {"max_miou_drop": 0.1, "history": 3}, before) == []
    assert checks(run(miou=0.35), {"max_miou_drop": 0.1, "history": 3}, before) != []


def test_no_truth_is_no_drop_but_no_instance_at_all_is_one():
    assert checks(run(miou=None), {"max_miou_drop": 0.01}) == []
    assert checks(run(mean_score=None), {"max_confidence_drop": 0.3}) == [
        ("max_confidence_drop", None)
    ]
    assert checks(run(mean_score=None), {"max_confidence_drop": 0.3}, before=[]) == []


@pytest.mark.slow
def test_a_run_whose_images_are_all_bad_is_judged(tiny_project):
    project = with_gate(tiny_project, max_quarantined=0.05)
    for image in (tiny_project.parent / "images").iterdir():
        image.write_bytes(b"no image")
    for step in ("collect", "embed", "compose", "fit", "calibrate", "annotate"):
        run_step(step, project)
    verdict = check_gate(project)
    assert [o.check for o in verdict.objections] == ["max_quarantined"]
    assert "100.0% of the images are quarantined" in verdict.objections[0].reason
    assert verdict.sheet is None


def with_gate(file, **gate):
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "gate": {"max_covered": None, **gate}}))
    return load_project(file)


def test_a_run_that_passes_becomes_history_once_and_a_bad_one_never(finished_project, tmp_path):
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    file = tmp_path / "copy" / "project.yaml"
    project = with_gate(file, max_quarantined=0.3)
    history = tmp_path / "copy" / "out" / "gate" / "history.jsonl"
    for _ in range(2):
        verdict = check_gate(project)
        assert verdict.objections == []
    (line,) = history.read_text().splitlines()
    assert json.loads(line)["images"] == 4
    assert sum(json.loads(line)["class_share"].values()) > 0

    for number in range(2):
        (file.parent / "images" / f"bad{number}.png").write_bytes(b"no picture")
    for step in STEPS:
        run_step(step, project)
    verdict = check_gate(project)
    assert [objection.check for objection in verdict.objections] == ["max_quarantined"]
    assert "33.3% of the images are quarantined; at most 30.0%" in verdict.objections[0].reason
    assert len(history.read_text().splitlines()) == 1
    with Image.open(verdict.sheet) as sheet:
        assert sheet.size == (900, 600)
