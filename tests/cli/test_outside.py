"""Nothing outside a project is written, mended or removed, by no link and by no crafted name."""

import os
import shutil
import sqlite3

import pytest

from tests.conftest import change
from usam_core.config.project import load_project
from usam_core.errors import StoreError
from usam_core.steps import run_step
from usam_core.steps.check import check_project


def foreign(root):
    """Return a folder beside a project, with files that nobody may touch."""
    victim = root / "victim"
    (victim / "thesis").mkdir(parents=True)
    for name in ("known.txt", "thesis/s0.png", "s0.png", "s1.png"):
        (victim / name).write_text(f"mine: {name}")
    return victim


def what_is_in(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_repair_takes_nothing_away_that_a_crafted_ledger_names(project_file, tmp_path):
    victim = foreign(tmp_path)
    project = change(project_file, outputs={"formats": ["voc"]})
    run_step("export", project)
    folder = project.out / "export"
    (folder / "record.json").unlink()
    with sqlite3.connect(folder / "ledger.sqlite") as ledger:
        names = [os.path.relpath(victim / "thesis", folder), str(victim / "known.txt")]
        for name in [*names, str(victim / "thesis")]:
            row = ("voc", name, "s0.png", "x", "0", None, None)
            ledger.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    before = what_is_in(victim)
    check_project(project, repair=True)
    assert what_is_in(victim) == before


def test_a_repair_follows_no_link_within_a_steps_folder(project_file, tmp_path):
    victim = foreign(tmp_path)
    project = change(project_file, outputs={"formats": ["voc"]})
    run_step("export", project)
    place = project.out / "export" / "voc" / "SegmentationClass"
    shutil.rmtree(place)
    place.symlink_to(victim)
    earlier = project.out / "annotate" / "lineage"
    shutil.rmtree(earlier, ignore_errors=True)
    (victim / "elses.json").write_text("{}")
    earlier.symlink_to(victim)
    before = what_is_in(victim)
    found = check_project(project, repair=True)
    assert what_is_in(victim) == before
    assert not found.sound


@pytest.mark.parametrize("place", ["masks/sub", "masks"])
def test_no_step_writes_through_a_link_at_any_depth(project_file, tmp_path, place):
    victim = foreign(tmp_path)
    project = load_project(project_file)
    (project_file.parent / "images" / "sub").mkdir()
    shutil.copy(project_file.parent / "images" / "s0.png", project_file.parent / "images" / "sub")
    run_step("embed", project)
    link = project.out / "annotate" / place
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(victim)
    before = what_is_in(victim)
    with pytest.raises(StoreError, match="a link that leads out"):
        run_step("annotate", project, refresh=True)
    assert what_is_in(victim) == before


def test_a_step_folder_that_is_a_link_elsewhere_is_refused(project_file, tmp_path):
    victim = foreign(tmp_path)
    project = load_project(project_file)
    shutil.rmtree(project.out / "report")
    (project.out / "report").symlink_to(victim)
    before = what_is_in(victim)
    with pytest.raises(StoreError, match="a link that leads out"):
        run_step("report", project)
    assert {k: v for k, v in what_is_in(victim).items() if k in before} == before
