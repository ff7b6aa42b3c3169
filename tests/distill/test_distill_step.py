"""`usam distill` from end to end on drawn scenes whose labels are their truth."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import change
from tests.distill.drawn import CLASSES, drawn_project
from tests.usam_process import usam
from usam_core.config.project import check_extras, load_project
from usam_core.distill.model import fit_side, load_student, predict
from usam_core.errors import ConfigError, InputError, MissingExtraError
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.steps import run_step, step_key
from usam_core.steps.check import check_project

TINY = {"size": 64, "steps": 3, "batch_size": 2, "test": 0.2, "val": 0.2}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return a project whose student is trained, hardly, and the step's result."""
    root = tmp_path_factory.mktemp("distill")
    project = load_project(drawn_project(root, 12, distill={**TINY, "group": "folder"}))
    return project, run_step("distill", project)


def rows(file):
    with open(file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_it_says_what_it_learned_from_and_how_good_it_is(done):
    project, result = done
    folder = project.out / "distill"
    assert result.summary["splits"] == {"train": 6, "val": 3, "test": 3}
    assert result.summary["weights"] == "random"
    assert result.summary["miou_of_labels"] == 1.0, "the labels are the truth here"
    assert result.summary["miou"] == pytest.approx(result.summary["miou_with_labels"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["with_labels"]["miou"] == result.summary["miou_with_labels"]
    assert [row["class"] for row in rows(folder / "student.csv")] == ["background", *CLASSES]
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.height > 3 * 240
    assert run_step("distill", project).reused
    assert not check_project(project).damages


@pytest.mark.slow
def test_splits_keep_folders_together_and_stand_in_lists_too(done):
    folder = done[0].out / "distill"
    table = rows(folder / "splits.csv")
    of_folder = {}
    for row in table:
        of_folder.setdefault(row["image"].split("/")[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in of_folder.values())
    for name in ("train", "val", "test"):
        listed = (folder / f"{name}.txt").read_text().split()
        assert listed == [r["image"] for r in table if r["split"] == name]


@pytest.mark.slow
def test_the_onnx_file_labels_as_the_student_does(done):
    import onnxruntime

    project, result = done
    student, card = load_student(project.out / "distill" / "student.safetensors")
    assert card["labels"] == ["background", *CLASSES]
    assert card["onnx_difference"] < 1e-3
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    rgb = np.asarray(Image.open(project.root / "images" / "plate0" / "s0.png").convert("RGB"))
    seen = fit_side(rgb, card["size"])[None].numpy()
    (scores,) = session.run(None, {"rgb": seen})
    assert scores.shape == (1, 4, 64, 64)
    small = np.asarray(Image.fromarray(rgb).resize((64, 64)))
    ours = predict(student, small, 64)
    (theirs,) = session.run(None, {"rgb": fit_side(small, 64)[None].numpy()})
    assert (theirs[0].argmax(0) == ours).mean() > 0.999
    (many,) = session.run(None, {"rgb": np.zeros((3, 3, 50, 90), np.float32)})
    assert many.shape == (3, 4, 50, 90)


@pytest.mark.slow
def test_a_persons_edit_teaches_and_changes_the_key(tmp_path):
    project = load_project(drawn_project(tmp_path, 9, distill=TINY))
    before = step_key("distill", project)
    png = next((tmp_path / "out" / "annotate" / "masks").rglob("*.png"))
    labels = read_label_png(png).copy()
    labels[:20] = 1
    save_label_png(png, labels)
    assert step_key("distill", project) != before


@pytest.mark.slow
def test_the_command_needs_no_section_and_a_run_of_all_does(tmp_path):
    file = drawn_project(tmp_path, 6)
    project = load_project(file)
    result = run_step("distill", project)
    assert result.reused
    assert not (project.out / "distill" / "record.json").exists()
    change(file, distill={**TINY, "steps": 1})
    done = usam("distill", file.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "distill: learned from 4 images; on 1 others mIoU" in " ".join(done.stdout.split())


def test_without_the_packages_it_says_so_before_any_work(tmp_path, monkeypatch):
    from usam_core import errors

    project = load_project(drawn_project(tmp_path, 6, distill=TINY))
    monkeypatch.setitem(errors.EXTRAS, "distill", ("no_such_package",))
    for call in (lambda: run_step("distill", project), lambda: check_extras(project)):
        with pytest.raises(MissingExtraError, match=r"pip install .*\[distill\]'"):
            call()


def test_labels_without_a_class_and_missing_weights_are_sentences(tmp_path):
    file = drawn_project(tmp_path, 6, distill=TINY)
    with pytest.raises(InputError, match=r"distill\.weights: got 'w\.pth'; expected a file"):
        run_step("distill", change(file, distill={"weights": "w.pth"}))
    for bad in ({"group": "("}, {"val": 0.6, "test": 0.5}, {"size": 32}):
        with pytest.raises(ConfigError, match="distill"):
            change(file, distill={**TINY, **bad})
