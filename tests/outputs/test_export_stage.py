"""The step export on a real, tiny project: what it repeats, what a kill loses, whose edits stay."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests import usam_process
from tests.conftest import write_tiny_project
from tests.usam_process import python
from usam_core.config.project import Project, load_project
from usam_core.errors import InputError
from usam_core.masks.label_png import read_label_png
from usam_core.outputs.formats import WRITERS
from usam_core.outputs.ledger import content_digest
from usam_core.steps import export, run_step, step_folder
from usam_core.steps.exporting import export_part

STEPS = ("collect", "embed", "fit", "calibrate", "annotate", "export")
ALL = sorted(WRITERS)
EDITED = ["label_tiff", "labelme", "ome_zarr", "voc", "yolo"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    file = write_tiny_project(tmp_path_factory.mktemp("exported"))
    project = opened(file)
    for step in ("collect", "embed", "compose", *list(STEPS)[2:]):
        run_step(step, project)
    return file


@pytest.fixture
def file(exported, tmp_path):
    shutil.copytree(exported.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / "project.yaml"


def opened(file, formats=ALL, **inference) -> Project:
    project = load_project(file)
    config = project.config
    outputs = config.outputs.model_copy(update={"formats": formats, "shard_size": 2})
    inferred = config.inference.model_copy(update=inference)
    changed = config.model_copy(update={"outputs": outputs, "inference": inferred})
    return replace(project, config=changed)


def out(file):
    return file.parent / "out" / "export"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".sqlite", ".lock") and path.name != ".lock"
    }


def edit_all(file):
    """Change the labels of s0 in every format, as a person would; return what lies there now."""
    folder = out(file)
    numbers = tifffile.imread(folder / "label_tiff" / "s0.tif")
    numbers[:5, :7] = 999
    tifffile.imwrite(folder / "label_tiff" / "s0.tif", numbers)
    document = json.loads((folder / "labelme" / "s0.json").read_text())
    document["shapes"] = document["shapes"][1:]
    (folder / "labelme" / "s0.json").write_text(json.dumps(document))
    zarr.open_group(folder / "ome_zarr" / "s0.zarr", mode="a")["0"][:3, :3] = 0
    png = folder / "voc" / "SegmentationClass" / "s0.png"
    repaint(png)
    (folder / "yolo" / "labels" / "s0.txt").write_text("0 0 0 1 0 1 1 0 1\n")
    return {name: data for name, data in contents(folder).items() if "s0" in name}


def repaint(png):
    with Image.open(png) as picture:
        picture.load()
    picture.paste(1, (0, 0, 9, 9))
    picture.save(png)


def test_everything_is_there_and_the_second_run_does_nothing(exported):
    folder = out(exported)
    for name in ALL:
        assert any((folder / name).iterdir()), name
    assert sorted(os.listdir(folder / "yolo" / "images")) == [f"s{n}.png" for n in range(4)]
    assert (folder / "yolo" / "images" / "s0.png").resolve().is_file()
    again = run_step("export", opened(exported))
    assert again.reused
    assert again.summary["edited"] == dict.fromkeys(ALL, 0)


def test_the_same_labels_give_the_same_bytes(file):
    before = contents(out(file))
    shutil.rmtree(out(file))
    run_step("export", opened(file))
    after = contents(out(file))
    mine = {name for name in before if not name.endswith((".json", ".tif", ".parquet"))}
    assert {name: before[name] for name in mine} == {name: after[name] for name in mine}
    assert before.keys() == after.keys()


def test_a_file_that_is_gone_repeats_its_shard_alone(file):
    (out(file) / "labelme" / "s3.json").unlink()
    result = run_step("export", opened(file))
    assert not result.reused
    assert (result.summary["written"], result.summary["shards"]) == (1, 3)
    assert (out(file) / "labelme" / "s3.json").is_file()


def test_edits_survive_the_next_run_with_other_labels(file):
    edited = edit_all(file)
    untouched = (out(file) / "labelme" / "s1.json").read_bytes()
    assert run_step("export", opened(file)).reused
    other = opened(file, max_area=0.25)
    run_step("annotate", other)
    result = run_step("export", other)
    now = contents(out(file))
    assert {name: now[name] for name in edited} == edited
    assert now["labelme/s1.json"] != untouched, "the labels are others, so this shows something"
    assert {n for n, count in result.summary["edited"].items() if count} == set(EDITED)
    assert set(result.summary["edited"].values()) == {0, 1}
    assert any("5 files changed by hand" in note for note in result.summary["notes"])


def test_what_was_changed_is_shown(file):
    edit_all(file)
    repaint(file.parent / "out" / "annotate" / "masks" / "s1.png")
    found = {(edit.format, edit.image): edit for edit in export.show_edits(opened(file))}
    assert set(found) == {*((name, "s0.png") for name in EDITED), ("annotate", "s1.png")}
    tiff = found["label_tiff", "s0.png"]
    assert tiff.pixels == 35
    assert tiff.by_class["unknown"] == (0, 35)
    assert tiff.objects["unknown"] == (0, 1)
    (before, now), *rest = found["labelme", "s0.png"].objects.values()
    assert now == before - 1
    assert rest == []
    assert found["yolo", "s0.png"].by_class["disc"][1] == 96 * 128
    assert found["annotate", "s1.png"].pixels is None
    assert found["annotate", "s1.png"].by_class["disc"][1] > 0


@pytest.mark.parametrize("damage", [b"", b"\xff{", b"[1, 2"], ids=["empty", "bytes", "half"])
def test_what_cannot_be_read_is_called_unreadable(file, damage):
    """Of YOLO an empty file is one without objects, and is read as such."""
    names = ("label_tiff/s0.tif", "labelme/s0.json", "voc/SegmentationClass/s0.png")
    names += ("ome_zarr/s0.zarr/0/.zarray", "yolo/labels/s0.txt")
    for name in names:
        (out(file) / name).write_bytes(damage)
    for edit in export.show_edits(opened(file)):
        if (edit.format, damage) == ("yolo", b""):
            assert edit.unreadable is None
            continue
        assert edit.sentence().startswith("unreadable: ")
        assert edit.pixels is None
        assert not edit.by_class
        names = [name for name in names if not name.startswith(edit.format)]
    assert names == ([] if damage else ["yolo/labels/s0.txt"])


def test_a_crafted_ledger_takes_nothing_away(file):
    victim = file.parent.parent / "victim"
    (victim / "thesis").mkdir(parents=True)
    (victim / "thesis" / "chapter.txt").write_text("years")
    names = ["../../../victim/thesis", str(victim / "thesis"), "../../project.yaml"]
    for part in (None, "index"):
        for name in names:
            digest = content_digest(out(file) / name)
            with closing(sqlite3.connect(out(file) / "ledger.sqlite")) as table, table:
                row = ("coco", name, "x", part, digest, None, None)
                table.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        result = run_step("export", opened(file), refresh=True)
        assert (victim / "thesis" / "chapter.txt").is_file()
        assert sum("stays below it" in note for note in result.summary["notes"]) == len(names)
        assert export.drop_edits(opened(file)) == 0
    assert (victim / "thesis" / "chapter.txt").read_text() == "years"
    assert file.is_file()


def test_edits_are_overwritten_on_request(file):
    before = contents(out(file))
    edit_all(file)
    assert export.drop_edits(opened(file)) == 5
    result = run_step("export", opened(file))
    assert set(result.summary["edited"].values()) == {0}
    after = contents(out(file))
    same = [name for name in before if name.endswith((".txt", ".png", "s0.json"))]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert list(export.show_edits(opened(file))) == []


def test_a_refresh_writes_all_again_but_edits(file):
    edited = edit_all(file)
    result = run_step("export", opened(file), refresh=True)
    assert result.summary["written"] == 3
    now = contents(out(file))
    assert {name: now[name] for name in edited} == edited


def test_a_damaged_file_is_no_edit(file):
    whole = (out(file) / "labelme" / "s2.json").read_bytes()
    (out(file) / "labelme" / "s2.json").write_bytes(whole[:40])
    result = run_step("export", opened(file), refresh=True)
    assert (out(file) / "labelme" / "s2.json").read_bytes() == whole
    assert any("damaged" in note for note in result.summary["notes"])


def test_an_edited_index_is_put_aside(file):
    index = out(file) / "coco" / "instances.json"
    index.write_text("[]")
    result = run_step("export", opened(file))
    (aside,) = index.parent.glob("instances.edited-*.json")
    assert aside.read_text() == "[]"
    assert len(json.loads(index.read_text())["images"]) == 4
    assert any(aside.name in note for note in result.summary["notes"])


def test_labels_of_an_image_that_is_gone_go_too_but_not_edited_ones(file):
    edit_all(file)
    for name in ("s0.png", "s3.png"):
        (file.parent / "images" / name).unlink()
    for step in ("embed", "annotate", "export"):
        result = run_step(step, opened(file))
    left = {path.name for path in (out(file) / "labelme").iterdir()}
    assert left == {"s0.json", "s1.json", "s2.json"}
    assert not (out(file) / "ome_zarr" / "s3.zarr").exists()
    assert any("its image is gone" in note for note in result.summary["notes"])
    assert len(json.loads((out(file) / "coco" / "instances.json").read_text())["images"]) == 2


KILLED = """
import os, sys
from tests.outputs.test_export_stage import opened
from usam_core.outputs.ledger import Ledger
from usam_core.steps import exporting, run_step
where, left = sys.argv[2], int(sys.argv[3])
owner = Ledger if where in ("plan", "finish") else exporting
real = getattr(owner, where)
def counted(*arguments):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return real(*arguments)
setattr(owner, where, counted)
run_step("export", opened(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("where", "left"), [("_stage", 5), ("plan", 3), ("_place", 9), ("finish", 4), ("finish", 11)]
)
def test_a_kill_loses_what_was_in_flight_and_makes_no_edits(file, where, left, monkeypatch):
    changed = opened(file, max_area=0.25)
    run_step("annotate", changed)
    expected = contents_after(file, changed)
    code = KILLED.replace("opened(sys.argv[1])", "opened(sys.argv[1], max_area=0.25)")
    assert python(code, file, where, left).returncode == 9
    done = []

    def seen(part, images, jobs, *rest):
        done.extend((part, job.writer.name) for job in jobs)
        export_part(part, images, jobs, *rest)

    monkeypatch.setattr(export, "export_part", seen)
    result = run_step("export", changed)
    assert set(result.summary["edited"].values()) == {0}
    assert not [note for note in result.summary["notes"] if "edited" in note]
    now = contents(out(file))
    assert {name: now.get(name) for name in expected} == expected
    jobs = len(ALL) * result.summary["shards"]
    if where == "_place":
        assert 0 < len(done) < jobs
    else:
        assert len(done) == jobs - (left if where != "_stage" else 0)


def test_files_that_a_killed_run_had_placed_are_no_edits_when_labels_change_again(file):
    before = contents(out(file))
    run_step("annotate", opened(file, max_area=0.25))
    code = KILLED.replace("opened(sys.argv[1])", "opened(sys.argv[1], max_area=0.25)")
    assert python(code, file, "_place", 7).returncode == 9
    run_step("annotate", opened(file))
    result = run_step("export", opened(file))
    assert set(result.summary["edited"].values()) == {0}
    now = contents(out(file))
    mine = [
        name for name in before if name.startswith(("labelme/", "yolo/labels/", "label_tiff/s"))
    ]
    assert {name: now[name] for name in mine} == {name: before[name] for name in mine}


def contents_after(file, project):
    """Return what an export of a copy that nothing disturbs holds, of files without times."""
    other = file.parent.with_name("undisturbed")
    shutil.copytree(file.parent, other, symlinks=True)
    run_step("export", replace(project, file=other / "project.yaml"))
    ours = ("label_tiff/", "labelme/s", "ome_zarr/", "voc/", "yolo/labels/", "rows/")
    found = contents(out(other / "project.yaml"))
    return {name: data for name, data in found.items() if name.startswith(ours)}


def test_edited_label_pngs_stay_and_are_not_measured(file):
    masks = file.parent / "out" / "annotate" / "masks"
    run_step("evaluate", opened(file))
    repaint(masks / "s0.png")
    edited = (masks / "s0.png").read_bytes()
    before = (masks / "s1.png").read_bytes()
    again = run_step("annotate", opened(file))
    assert again.reused
    assert again.summary["edited"] == 1
    other = opened(file, max_area=0.25)
    for _ in range(2):
        result = run_step("annotate", other, refresh=True)
        assert result.summary["edited"] == 1
        assert "1 label PNGs changed by hand" in result.summary["notes"][0]
        assert (masks / "s0.png").read_bytes() == edited
    assert (masks / "s1.png").read_bytes() != before
    scored = run_step("evaluate", other, refresh=True).summary
    assert (scored["images"], scored["edited"], scored["without_truth"]) == (3, 1, 0)
    (masks / "s0.png").unlink()
    assert run_step("annotate", other).summary["edited"] == 0
    assert read_label_png(masks / "s0.png").shape == (96, 128)


def test_a_label_png_saved_in_color_is_an_edit_and_a_broken_one_is_not(file):
    masks = file.parent / "out" / "annotate" / "masks"
    labels = read_label_png(masks / "s0.png")
    whole = (masks / "s1.png").read_bytes()
    with Image.open(masks / "s0.png") as picture:
        colored = picture.convert("RGB")
    colored.save(masks / "s0.png")
    (masks / "s1.png").write_bytes(whole[:60])
    result = run_step("annotate", opened(file))
    assert result.summary["edited"] == 1
    assert (masks / "s1.png").read_bytes() == whole
    assert np.array_equal(read_label_png(masks / "s0.png"), labels)


def test_no_formats_no_work(file):
    result = run_step("export", opened(file, formats=[]))
    assert result.summary["edited"] == {}
    assert (out(file) / "coco" / "instances.json").is_file(), "an earlier export stays"


def test_formats_of_an_earlier_export_are_told(file):
    result = run_step("export", opened(file, formats=["coco"]))
    assert "not renewed now: coco_polygons, cvat" in result.summary["notes"][-1]


def test_the_command_line(file):
    usam = partial(usam_process.usam, "export", file)
    refused = usam()
    assert refused.returncode == InputError.exit_code
    assert "expected --format or outputs.formats" in refused.stderr
    refused = usam("--format", "bmp")
    assert "got 'bmp'; expected one of coco, coco_polygons" in refused.stderr
    edit_all(file)
    assert "s0.png" in usam("--show-edits").stdout
    shown = json.loads(usam("--show-edits", "--json").stdout)
    assert {edit["format"] for edit in shown} == set(EDITED)
    kept = usam("--format", "yolo")
    assert kept.returncode == 0, kept.stderr
    assert "1 files edited by hand kept" in kept.stdout
    anew = json.loads(usam("--format", "yolo", "--overwrite-edited", "--json").stdout)
    assert anew["summary"]["edited"] == {"yolo": 0}


def test_lineage_names_the_labels(exported):
    folder = step_folder(opened(exported), "export")
    document = json.loads((folder / "lineage.json").read_text())
    assert [parent["step"] for parent in document["parents"]] == ["annotate"]
    assert document["inputs"]["labels"]["path"] == "out/annotate"
