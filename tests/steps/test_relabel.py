"""Other names for the same store: parents, a new list, part of the images; nothing is embedded."""

import shutil

import pandas as pd
import pytest
import yaml

from usam_core.config.project import load_project
from usam_core.errors import ConfigError, InputError
from usam_core.lineage.chain import read_chain
from usam_core.masks.label_png import read_label_png
from usam_core.steps import STEPS, run_step, step_folder
from usam_core.steps.collect import read_manifest


def run_all(project):
    return {step: run_step(step, project) for step in STEPS}


def change(file, **changes):
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))
    return load_project(file)


@pytest.fixture
def own(finished_project, tmp_path):
    """Return the project file of a finished project that a test may change."""
    folder = tmp_path / "own"
    shutil.copytree(finished_project.parent, folder)
    return folder / finished_project.name


def test_parents_relabel_the_store_without_embedding(own):
    project = load_project(own, level="parents")
    results = run_all(project)
    assert results["embed"].summary["embedded"] == 0
    assert results["fit"].summary["classes"] == ["round", "long"]
    assert results["annotate"].summary["labelled"] == 4
    assert set(results["annotate"].summary["per_class"]) == {"round", "long"}


def test_one_parent_takes_its_classes_together_and_leaves_the_others(own):
    out = load_project(own).out
    fine, coarse = out / "fit" / "lineage.json", out / "parents" / "fit"
    before = fine.read_bytes()
    project = load_project(own, level="round")
    results = run_all(project)
    assert all(results[step].reused for step in ("collect", "embed", "compose"))
    assert results["fit"].summary["classes"] == ["round", "rod"]
    assert set(results["annotate"].summary["per_class"]) == {"round", "rod"}
    scores = pd.read_csv(out / "levels" / "round" / "evaluate" / "per_class.csv")
    assert {"round", "rod"} <= set(scores["class"])
    assert fine.read_bytes() == before, "the other level's head was replaced"
    assert not coarse.exists()
    png = next((out / "levels" / "round" / "annotate" / "masks").glob("*.png"))
    assert read_chain(png).last.step == "annotate"


def test_a_parent_called_like_a_step_writes_beside_that_step(own):
    classes = [{"name": name, "parent": "fit"} for name in ("disc", "ring")] + ["rod"]
    project = change(own, classes=classes, level="fit")
    assert project.config.label_names == ["fit", "rod"]
    folders = [step_folder(project, step) for step in ("fit", "annotate")]
    fine = change(own, level="classes")
    assert not any(folder.is_relative_to(step_folder(fine, "fit")) for folder in folders)


def test_another_list_of_names_relabels_the_store_without_embedding(own, tmp_path):
    manifest = read_manifest(load_project(own))
    for row in manifest.itertuples():
        folder = tmp_path / "pictures" / row[1]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, folder)
    names = [{"name": "thick", "synonyms": ["disc", "ring"]}, {"name": "thin", "synonyms": ["rod"]}]
    other = own.with_name("other.yaml")
    shutil.copy(own, other)
    project = change(
        other,
        classes=names,
        training={"source": "folder", "path": str(tmp_path / "pictures")},
        outputs={"path": "other", "store": "out/store", "shard_size": 4, "overlays": 0},
        evaluation={"format": "voc", "path": "truth", "classes": ["disc", "ring", "rod"]},
    )
    results = run_all(project)
    assert results["collect"].summary["per_class"] == {"thick": 6, "thin": 3}
    assert results["embed"].summary["embedded"] == 0
    assert results["annotate"].summary["labelled"] == 4
    assert results["fit"].summary["classes"] == ["thick", "thin"]
    png = next((project.out / "annotate" / "masks").glob("*.png"))
    assert read_label_png(png).max() <= 2


def test_a_list_of_files_labels_these_alone(own):
    (own.parent / "some.txt").write_text("# two of them\ns2.png\n\ns0.png\ns2.png\n")
    project = change(own, images={"path": "images", "files": "some.txt"})
    results = run_all(project)
    assert results["embed"].summary["embedded"] == 0
    assert results["annotate"].summary["images"] == 2
    masks = project.out / "annotate" / "masks"
    assert sorted(file.name for file in masks.iterdir()) == ["s0.png", "s2.png"]
    assert results["evaluate"].summary["images"] == 2


def test_a_listed_file_that_is_not_there_is_quarantined_by_name(own):
    (own.parent / "some.txt").write_text("s0.png\nnone.png\n")
    project = change(own, images={"path": "images", "files": "some.txt"})
    [bad] = run_step("embed", project).summary["quarantined"]
    assert bad["code"] == "missing"
    assert bad["path"].endswith("none.png")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s0.png\n../s1.png\n", r"some.txt:2: got '\.\./s1\.png'; expected a path that counts"),
        ("/etc/s0.png\n", "some.txt:1: got '/etc/s0.png'"),
        ("# none\n\n", "some.txt: names no image"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(own, text, said):
    (own.parent / "some.txt").write_text(text)
    project = change(own, images={"path": "images", "files": "some.txt"})
    with pytest.raises(InputError, match=said):
        run_step("embed", project)


def test_a_list_that_is_not_there_is_told_before_any_work(own):
    with pytest.raises(ConfigError, match=r"images\.files: got 'some\.txt'; expected a file"):
        change(own, images={"path": "images", "files": "some.txt"})
