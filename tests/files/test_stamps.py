"""What was found whole is not read again, unless anything about its files is another."""

import os
import shutil
import time

import pytest

from usam_core.config.project import load_project
from usam_core.files import digest as stamps
from usam_core.files.digest import CheckedFolders, folder_stamp
from usam_core.steps import annotate, intact, listed_once, run_step, step_folder
from usam_core.steps import gate as gate_stage
from usam_core.steps.embed import open_store
from usam_core.steps.embed import plan as plan_embed
from usam_core.steps.gate import check_gate
from usam_core.store import shard as shard_module


@pytest.fixture
def settled(monkeypatch):
    """Let a file count as settled at once: the change time cannot be set back in a test."""
    monkeypatch.setattr(stamps, "SETTLED_NS", -(10**10))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "a").write_text("one")
    (made / "deep" / "b").write_text("two")
    return made


@pytest.fixture
def project(finished_project, tmp_path):
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    return load_project(tmp_path / "copy" / "project.yaml")


def rewrite_in_place(file):
    """Write other bytes of the same number, and set the modification time back."""
    before = file.stat()
    time.sleep(0.02)
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "another file": lambda f: (f / "c").write_text(""),
    "one less": lambda f: (f / "deep" / "b").unlink(),
    "longer": lambda f: (f / "a").write_text("more"),
    "same size and time": lambda f: rewrite_in_place(f / "a"),
    "renamed": lambda f: (f / "a").rename(f / "A"),
    "moved": lambda f: (f / "a").rename(f / "deep" / "a"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_stamp_sees_every_change(folder, change):
    before = folder_stamp(folder)
    assert folder_stamp(folder).digest == before.digest
    change(folder)
    assert folder_stamp(folder).digest != before.digest


def test_hidden_files_are_nothing_and_links_cannot_be_stamped(folder):
    before = folder_stamp(folder)
    (folder / ".lock").touch()
    assert folder_stamp(folder).digest == before.digest
    (folder / "link").symlink_to(folder / "a")
    assert folder_stamp(folder) is None
    assert folder_stamp(folder / "none") is None


def test_what_was_written_just_now_is_looked_through_again(folder, tmp_path):
    checked = CheckedFolders(tmp_path / "checked.json", "x")
    assert not checked.holds(folder)
    checked.add(folder)
    checked.save(["made"])
    assert not CheckedFolders(tmp_path / "checked.json", "x").holds(folder)


@pytest.mark.usefixtures("settled")
def test_only_what_was_checked_against_the_same_is_remembered(folder, tmp_path):
    file = tmp_path / "checked.json"
    checked = CheckedFolders(file, "x")
    checked.holds(folder)
    checked.add(folder)
    checked.save(["made"])
    assert CheckedFolders(file, "x").holds(folder)
    assert not CheckedFolders(file, "y").holds(folder)
    file.write_text("{")
    assert not CheckedFolders(file, "x").holds(folder)


@pytest.mark.usefixtures("settled")
def test_a_change_while_a_folder_was_looked_through_counts(folder, tmp_path):
    checked = CheckedFolders(tmp_path / "checked.json", "x")
    checked.holds(folder)
    (folder / "a").write_text("changed by another")
    checked.add(folder)
    assert not checked.holds(folder)


@pytest.mark.usefixtures("settled")
def test_labels_that_were_found_whole_are_not_read_again(project, monkeypatch):
    assert intact("annotate", project)
    read = []
    monkeypatch.setattr(annotate, "part_holds", lambda *a: read.append(a) or False)
    found = intact("annotate", project)
    assert (found.reused, found.summary["labelled"], read) == (True, 0, [])


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["deleted", "changed"])
@pytest.mark.parametrize("what", ["masks/s1.png", "coco.json", "lineage.json"])
def test_damaged_outputs_of_checked_labels_are_noticed_and_made_again(project, what, how):
    labels = step_folder(project, "annotate")
    assert intact("annotate", project)
    before = (labels / what).read_bytes()
    if how == "deleted":
        (labels / what).unlink()
    else:
        rewrite_in_place(labels / what)
    assert intact("annotate", project) is None
    assert not run_step("annotate", project).reused
    assert (labels / what).read_bytes() == before or what == "lineage.json"


@pytest.mark.usefixtures("settled")
def test_shards_that_were_found_whole_are_not_read_again(project, monkeypatch):
    assert intact("embed", project)
    read = []
    check = shard_module.check_shard
    monkeypatch.setattr(
        shard_module, "check_shard", lambda *a, **k: read.append(a[0].name) or check(*a, **k)
    )
    assert intact("embed", project)
    assert read == []
    shard = next((open_store(project).path / "shards").iterdir())
    rewrite_in_place(shard / "tokens" / "zarr.json")
    assert intact("embed", project) is None
    assert set(read) == {shard.name}
    assert open_store(project).verify(deep=True)


@pytest.mark.usefixtures("settled")
def test_a_damaged_shard_is_embedded_again_within_one_listing(project):
    shard = next((open_store(project).path / "shards").iterdir())
    rewrite_in_place(shard / "tokens" / "zarr.json")
    with listed_once():
        assert plan_embed(project)
        assert run_step("embed", project).summary["embedded"] == 4
        assert not run_step("embed", project).summary["embedded"]
    assert open_store(project).verify() == []


def test_an_image_that_comes_during_a_run_is_the_next_one_s(project):
    with listed_once():
        assert plan_embed(project) == []
        shutil.copy(project.images_path / "s0.png", project.images_path / "new.png")
        (project.images_path / "new.png").open("ab").write(b"another")
        assert run_step("annotate", project).summary["images"] == 4
    assert run_step("embed", project).summary["embedded"] == 1
    assert run_step("annotate", project).summary["images"] == 5


def test_the_gate_works_out_the_same_labels_once(project, monkeypatch):
    first = check_gate(project)
    monkeypatch.setattr(gate_stage.annotate, "labels", None)
    assert check_gate(project) == first
    (step_folder(project, "gate") / gate_stage.LABELS).write_text("[")
    with pytest.raises(TypeError):
        check_gate(project)
