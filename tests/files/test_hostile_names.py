"""Names in files of ours: whatever stands there, nothing outside is deleted, changed or shown."""

import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.export_data import target_in
from tests.labelled_run import write_project, write_run
from usam_core.config.project import load_project
from usam_core.config.schema import ClassSpec
from usam_core.errors import StoreError, UsamError
from usam_core.files.atomic import write_json
from usam_core.files.digest import file_digest
from usam_core.files.paths import check_links
from usam_core.labels.parts import Parts, write_part
from usam_core.lineage.chain import read_chain
from usam_core.outputs.formats import open_writer
from usam_core.outputs.ledger import Ledger, content_digest
from usam_core.report.runs import open_run, previous_run, remember_run
from usam_core.sources.web.journal import Candidate, Journal, Verdict
from usam_core.sources.web.source import _tidy, sort_out
from usam_core.steps import annotate, collect, compose, export
from usam_core.steps.exporting import Job, export_part
from usam_core.steps.label_images import part_holds
from usam_core.steps.lineage_checks import check_chain
from usam_core.steps.record import StepResult, digests, read_record, write_record
from usam_core.store.layout import sweep_store

CLASSES = ["disc", "ring"]
PART = "parts/all.parquet"
LABELS = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)


def contents(folder):
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


class World:
    """A labelled project beside a folder that nobody may touch."""

    def __init__(self, folder):
        self.victim, self.root = folder / "victim", folder / "lab" / "project"
        # What each caller looks for, so that only the name keeps it away.
        for name in ("thesis.txt", "own/chapter.txt", "sub.zarr/labels/usam/x", "a.json"):
            (self.victim / name).parent.mkdir(parents=True, exist_ok=True)
            (self.victim / name).write_text("[]")
        Image.fromarray(LABELS).save(self.victim / "a.png")
        write_run(self.root, {"a.png": LABELS}, CLASSES)
        self.project = load_project(write_project(self.root, CLASSES))
        self.out = self.root / "out"
        (self.root / "images" / "link").symlink_to(self.victim)
        for step in ("annotate", "export", "report", "collect", "compose", "fit"):
            (self.out / step).mkdir(exist_ok=True)
            (self.out / step / "link").symlink_to(self.victim)

    def name(self, way, what, base):
        """Return a name of something of the victim, hostile in one of the ways."""
        target = self.victim / what
        return {
            "absolute": str(target),
            "up": os.path.relpath(target, base),
            "over": f"masks/../{os.path.relpath(target, base)}",
            "link": f"link/{what}",
            "windows": "..\\..\\" + str(Path("..") / "victim" / what).replace("/", "\\"),
            "drive": f"C:\\{what}",
            "odd": 7,
        }[way]

    def part(self, **said):
        """Replace what the labels say of the one image; return the part."""
        folder = self.out / "annotate"
        (self.image,) = Parts(folder, {PART: None}).images()
        if any(isinstance(value, int) for value in said.values()):
            # The form of older versions, in which anything may stand.
            entry = {**self.image.to_coco()["image"], "png": self.image.png, "annotations": []}
            (folder / PART).unlink()
            said = {"file_name" if name == "path" else name: odd for name, odd in said.items()}
            part = "parts/all.json"
            write_json(folder / part, [{**entry, "png_sha256": "", **said}])
        else:
            part = PART
            self.image = replace(self.image, root=str(self.root / "images"), **said)
            write_part(folder / part, [self.image])
        record = read_record(folder)
        write_record(folder, replace(record, outputs=digests(folder, [folder / part])))
        return folder / part


WAYS = ("absolute", "up", "over", "link", "windows", "drive", "odd")
WHATS = ("thesis.txt", "own", "a.png", "a.json", "sub.zarr/labels/usam")


def ledger(world, format_, name, what, part):
    file = world.out / "export" / "ledger.sqlite"
    with Ledger(file), closing(sqlite3.connect(file)) as table, table:
        digest = content_digest(world.victim / what)
        row = (format_, name, "a.png", part, digest, None, None)
        table.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        table.execute("INSERT INTO part VALUES (?, 'index', '')", (format_,))
    return Ledger(file, str(world.root / "images"))


def of_nobody(world, way, what):
    base = world.out / "export"
    for name in ("coco", "ome_zarr"):
        with ledger(world, name, world.name(way, what, base), what, None) as found:
            writer = open_writer(name, target_in(base))
            export._finish(writer, [], found)
            # The table makes a text of a number: a name as good as any.
            assert found.refused or way == "odd", "an entry that is left alone is told of"
            assert not found.left_over(name)


def of_an_index(world, way, what):
    base = world.out / "export"
    with ledger(world, "coco", world.name(way, what, base), "thesis.txt", "index") as found:
        export._finish(open_writer("coco", target_in(base)), [], found)


def of_an_edit(world, way, what):
    base = world.out / "export"
    name = world.name(way, what, base)
    ledger(world, "coco", name, "thesis.txt" if what != "thesis.txt" else "own", "p").__exit__(
        None, None, None
    )
    config = world.project.config
    outputs = config.outputs.model_copy(update={"formats": ["coco"]})
    project = type(world.project)(
        config.model_copy(update={"outputs": outputs}), world.project.file
    )
    assert export.drop_edits(project) == 0


def of_a_label_png(world, way, what):
    labels, base = world.out / "annotate", world.out / "export"
    part = world.part(png=world.name(way, what, labels))
    assert not part_holds(labels, part)
    with pytest.raises(StoreError):
        list(annotate.labels(world.project).images())
    with pytest.raises(StoreError):
        list(annotate.labels(world.project).sorted_images())
    with pytest.raises(StoreError):
        open_run(labels)
    annotate._sweep(labels, [part], {"a.png"}, annotate._written(labels))
    if way in ("windows", "drive", "odd"):
        return  # no path of this system
    with Ledger(base / "ledger.sqlite") as found:
        for name in ("labelme", "yolo", *(["voc"] if way != "link" else [])):
            job = Job(open_writer(name, target_in(base)), "key")
            export_part("all", [world.image], [job], found)


def of_an_image(world, way, what):
    name = world.name(way, what, world.root / "images")
    part = world.part(path=name)
    if way not in ("link", "windows", "drive"):  # a person's link, and letters, may be read
        with pytest.raises(StoreError):
            list(annotate.labels(world.project).images())
    if not isinstance(name, str):
        raise StoreError("told above")
    write_part(part, [replace(world.image, path="a.png")])
    run = open_run(world.out / "annotate")
    write_part(part, [world.image])
    shown = run.picture(name)
    assert way == "link" or shown is None
    target = world.out / "export"
    with Ledger(target / "ledger.sqlite", str(world.root / "images")) as found:
        job = Job(open_writer("ome_zarr", target_in(world.root, in_place=True)), "key")
        export_part("all", [world.image], [job], found)


def of_a_record(world, way, what):
    folder = world.out / "fit"
    name = world.name(way, what, folder)
    summary = {"outputs": {str(name): "x"}, "path": str(world.victim / what)}
    write_record(folder, StepResult("fit", "k", False, summary["path"], {}, summary["outputs"]))
    if name != 7:
        assert read_record(folder) is None
    write_record(folder, StepResult("fit", "k", False, summary["path"], {}, {}))
    assert read_record(folder).path == str(folder)
    annotate.head_path(world.project)


def of_the_history(world, way, what):
    folder = world.out / "report"
    (folder / "runs" / "0123").mkdir(parents=True)
    shutil.copy(world.victim / "a.json", world.victim / "kept.json")
    name = world.name(way, what, folder / "runs")
    (folder / "history.json").write_text(json.dumps([name, ".", "..", "../link"]))
    try:
        assert previous_run(folder, "f" * 64) is None
        remember_run(folder, "f" * 64, 5)
    finally:
        (world.victim / "kept.json").unlink()


def of_linked_runs(world, way, what):
    folder = world.out / "report"
    (folder / "runs").symlink_to(world.victim)
    with pytest.raises(StoreError):
        remember_run(folder, "f" * 64, 5)


def of_linked_labels(world, way, what):
    labels = world.out / "annotate"
    shutil.rmtree(labels / "masks")
    (world.victim / "broken.png").write_bytes(b"no picture")
    (labels / "masks").symlink_to(world.victim)
    before = contents(world.victim)
    try:
        with pytest.raises(StoreError):
            check_links(labels)
        annotate._sweep(labels, [], set(), {})
    finally:
        assert contents(world.victim) == before
        (world.victim / "broken.png").unlink()


def of_a_journal(world, way, what):
    folder = world.out / "collect" / "web"
    folder.mkdir(exist_ok=True)
    (folder / "link").symlink_to(world.victim)
    victim = world.victim / what
    digest = file_digest(victim) if victim.is_file() else ""
    picture = {"file": world.name(way, what, folder), "sha256": digest, "bytes": 1}
    with closing(Journal(folder / "journal.sqlite")) as journal:
        journal.add_verdict("http://host/a.png", Verdict(picture=picture))
        assert not _tidy(folder, journal)
        order = [Candidate("urls", "list.csv", "http://host/a.png")]
        found = sort_out(order, journal.verdicts(), 1, ClassSpec(name="disc"), folder)
    assert found == ([], [])


def of_a_manifest(world, way, what):
    folder = world.out / "collect"
    row = {"class": "disc", "path": str(world.name(way, what, world.root)), "sha256": "x"}
    pd.DataFrame([row]).to_parquet(folder / "manifest.parquet")
    found = collect.read_table(world.project)["path"].tolist()
    # Letters mean nothing here; a link of the user's own is read through.
    assert way in ("windows", "drive", "link", "odd")
    assert all(Path(path).is_relative_to(world.root) for path in found)


def of_gathered_pictures(world, way, what):
    spec = world.project.config.classes[0]
    pictures = collect._ClassPictures(world.project, None, spec, None)
    file = pictures.file
    name = world.name(way, what, world.root)
    picture = {"class_name": "disc", "path": name, "sha256": "", "source": "folder"}
    picture["bytes"] = (world.victim / what).stat().st_size
    said = {"key": "k", "pictures": [picture], "rejected": [], "notes": [], "complete": True}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said))
    pictures.key = lambda: "k"
    assert pictures.kept() is None


def of_scenes(world, way, what):
    folder = world.out / "compose"
    name = str(world.name(way, what, folder))
    write_record(folder, StepResult("compose", "k", False, "", {}, {}))
    row = {"sha256": "x", "path": name, "truth": name, "split": "train"}
    pd.DataFrame([row]).to_parquet(folder / compose.SCENES)
    for read in (lambda: compose.scene_files(world.project), lambda: one_split(world)):
        if way != "odd":
            with pytest.raises(StoreError):
                read()


def one_split(world):
    return compose.read_scenes(world.project, "train")


def of_lineage(world, way, what):
    file = world.out / "annotate" / "lineage.json"
    name = world.name(way, what, file.parent)
    document = json.loads(file.read_text())
    digest = content_digest(world.victim / what)
    document["outputs"] = {str(name): digest}
    document["parents"] = [{"step": "fit", "path": str(name), "sha256": digest}]
    file.write_text(json.dumps(document))
    for name in ("lineage", "file"):
        found = {f.name: f.verdict for f in check_chain(read_chain(world.out / "annotate"))}
        assert found[name] == "broken"
        (file.parent / "record.json").unlink(
            missing_ok=True
        )  # whose word counts before the document's


def of_a_store(world, way, what):
    store = world.root / "store"
    (store / "shards").mkdir(parents=True)
    (world.victim / "features" / ".partial-x").mkdir(parents=True)
    (store / "shards" / "s").symlink_to(world.victim)
    (store / ".partial-y").symlink_to(world.victim)
    before = contents(world.victim)
    try:
        with pytest.raises(StoreError):
            sweep_store(store)
        assert contents(world.victim) == before
    finally:
        shutil.rmtree(world.victim / "features")


CALLERS = [
    of_nobody,
    of_an_index,
    of_an_edit,
    of_a_label_png,
    of_an_image,
    of_a_record,
    of_the_history,
    of_linked_runs,
    of_linked_labels,
    of_a_journal,
    of_a_manifest,
    of_gathered_pictures,
    of_scenes,
    of_lineage,
    of_a_store,
]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
@settings(max_examples=10, deadline=None)
@given(way=st.sampled_from(WAYS), what=st.sampled_from(WHATS))
def test_what_a_file_of_ours_names_outside_is_left_alone(caller, way, what):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(os.path.realpath(folder)))
        before = contents(world.victim)
        try:
            caller(world, way, what)
        except UsamError as error:
            told = str(error)
        else:
            told = ""
        assert "\n" not in told
        assert contents(world.victim) == before
