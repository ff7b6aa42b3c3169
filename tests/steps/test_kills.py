"""Processes that kill themselves inside a write: nothing is lost, made again or left over."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from usam_core.config.project import load_project
from usam_core.files.atomic import sweep, whole_file
from usam_core.images.listing.scan import read_remembered
from usam_core.steps import run_step
from usam_core.store.store import EmbeddingStore

# Imports once; then, for every line, forks a process that writes and may kill itself.
WRITER = """
import json, os, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np
import usam_core.files.atomic as atomic
from usam_core.files.atomic import fault_point
from usam_core.images.listing import scan as remembered
from usam_core.outputs import ledger as ledgers
from usam_core.outputs.ledger import Ledger, Written
from usam_core.review import decisions
from usam_core.store import store as store_module
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile, MaskSet

def text(folder, value):
    with atomic.whole_file(folder / "a.txt") as path:
        path.write_text(100 * value)

def table(folder, value):
    rows = [remembered.Row(f"{value}{n}.png", value) for n in range(50)]
    remembered.write_remembered(folder / "images.parquet", [remembered.batch_of(rows)])

def shard(folder, value):
    number = 1 if value == "old" else 2
    rng = np.random.default_rng(number)
    masks = MaskSet(
        rng.normal(size=(8, 1024)).astype(np.float16),
        rng.integers(0, 256, (8, 4, 16, 2), dtype=np.uint8),
        *(rng.random((8, 4), np.float32) for _ in range(2)), rng.random((8, 2), np.float32), (8, 8))
    store = EmbeddingStore.create_or_open(folder, {"model": "nano"})
    store.write_shard([ShardRecord(ImageFile("/x.png", f"{number:064x}"), masks)])

def ledger(folder, value):
    (folder / "x.txt").write_text("x")
    with Ledger(folder / "ledger.sqlite") as known:
        files = [Written("x.txt", "x.png", value)]
        known.plan("voc", files)
        known.finish("voc", "part", value, files, [])

def log(folder, value):
    decisions.append(folder / "decisions.jsonl", {"undo": value})

@contextmanager
def in_place(path, *, sync=True):
    yield Path(path)
    fault_point("half", Path(path), Path(path))

@contextmanager
def folder_in_place(path):
    path.mkdir()
    yield path
    fault_point("half", path, path)

def break_it(kind):
    atomic.whole_file = remembered.whole_file = in_place
    store_module.whole_folder = folder_in_place
    connect = ledgers.sqlite3.connect
    ledgers.sqlite3.connect = lambda file: connect(file, isolation_level=None)
    if kind == "log":
        decisions.os.pread = lambda *_: b"\\n"

for line in sys.stdin:
    kind, folder, value, broken, environment = json.loads(line)
    child = os.fork()
    if not child:
        os.environ.update(environment)
        if broken:
            break_it(kind)
        globals()[kind](Path(folder), value)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
HIT = {
    "text": "half:1:*/a.txt",
    "table": "half:1:*/images.parquet",
    "shard": "half:1:*/shards/[!.]*",
    "ledger": "half:1:*/ledger.sqlite",
    "log": "half:1:*/decisions.jsonl",
}


def text(folder):
    return (folder / "a.txt").read_text()


def table(folder):
    return [batch.to_pylist() for batch in read_remembered(folder / "images.parquet").left()]


def shard(folder):
    (path,) = folder.iterdir()
    store = EmbeddingStore.open(path)
    assert store.verify() == []
    return {sha256: store.read(sha256).tokens.tobytes() for sha256 in store.index()["sha256"]}


def ledger(folder):
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as opened:
        rows = opened.execute("SELECT path, sha256, planned, file.part, key FROM file, part")
        return rows.fetchall()


def log(folder):
    found = []
    for line in (folder / "decisions.jsonl").read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


@pytest.fixture(scope="module")
def write():
    """Return what has a value written by a process of its own, and returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )

    def write(kind, folder, value, broken=False, **environment):
        folder.mkdir(exist_ok=True)
        asked = [kind, str(folder), value, broken, environment]
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield write
    process.stdin.close()
    process.wait(30)


def left(folder):
    return [*folder.rglob(".partial-*"), *folder.rglob("*-journal")]


def killed(write, kind, tmp_path, broken):
    """Write an old value, kill the writing of a new one in its half, and return the old one."""
    here, peace, note = tmp_path / "here", tmp_path / "peace", tmp_path / "note"
    for value in ("old", "new"):
        assert write(kind, peace, value) == 0
    assert write(kind, here, "old") == 0
    before = globals()[kind](here)
    hit = {"USAM_FAULT": HIT[kind], "USAM_FAULT_NOTE": str(note)}
    assert write(kind, here, "new", broken, **hit) == -signal.SIGKILL
    said = json.loads(note.read_text())
    if kind == "ledger":
        assert broken or left(here), "no transaction was open"
    else:
        assert Path(said["written"]).stat().st_size == said["left"] < said["bytes"]
    return before


def check(write, kind, tmp_path, before, broken):
    """See that the old value holds; write again, and see the new one and nothing else."""
    read, here = globals()[kind], tmp_path / "here"
    assert read(here) == before
    assert write(kind, here, "new", broken) == 0
    sweep(here)
    assert left(here) == []
    assert read(here) == read(tmp_path / "peace") != before


@pytest.mark.parametrize("kind", HIT)
def test_killed_in_the_half_of_a_write(write, kind, tmp_path):
    check(write, kind, tmp_path, killed(write, kind, tmp_path, broken=False), broken=False)


@pytest.mark.parametrize("kind", HIT)
def test_written_in_place_or_without_a_transaction_it_is_seen(write, kind, tmp_path):
    before = killed(write, kind, tmp_path, broken=True)
    with pytest.raises((AssertionError, sqlite3.Error)):
        check(write, kind, tmp_path, before, broken=True)


@pytest.mark.parametrize("moment", ["rename", "renamed"])
def test_killed_before_and_after_the_rename(write, moment, tmp_path):
    assert write("text", tmp_path, "old") == 0
    fault = f"{moment}:1:*/a.txt"
    assert write("text", tmp_path, "new", USAM_FAULT=fault) == -signal.SIGKILL
    assert text(tmp_path) == 100 * ("old" if moment == "rename" else "new")
    assert sweep(tmp_path) == (moment == "rename")
    assert left(tmp_path) == []


def test_a_fault_is_counted_and_hits_one_process(write, tmp_path):
    note = str(tmp_path / "note")
    hit = {"USAM_FAULT": "half:2:*/a.txt", "USAM_FAULT_NOTE": note}
    assert write("text", tmp_path, "old", **hit) == 0, "the first of them was hit"
    hit["USAM_FAULT"] = "half:1:*/a.txt"
    assert write("text", tmp_path, "old", **hit) == -signal.SIGKILL
    assert write("text", tmp_path, "old", **hit) == 0, "the note was there already"
    assert text(tmp_path) == 100 * "old"


def test_a_living_writer_is_not_swept(tmp_path):
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        assert sweep(tmp_path) == 0
        temporary.write_text("whole")
    assert text(tmp_path) == "whole"
    (tmp_path / ".partial-a.txt-1").write_text("of a dead one")
    assert sweep(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.slow
def test_steps_are_killed_in_their_writes(monkeypatch, tmp_path):
    """A few of the hundred kills of benchmarks/kill_runs.py."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import kill_writes
    from kill_runs import peace

    nursery = kill_writes.Nursery(tmp_path / "log")
    try:
        file, calm = peace(tmp_path, 4, nursery, times=1)
        patterns = "*/fit/*.safetensors", "*/annotate/parts/*.parquet", "*/export/ledger.sqlite"
        for pattern in patterns:
            point = [one[1] for one in kill_writes.POINTS].index(pattern)
            one = kill_writes.one_write(
                0, point, kill_writes.HALF, nursery, tmp_path / "peace", file, calm
            )
            assert one.faults == []
            assert one.seen
    finally:
        nursery.close()


def test_a_step_removes_what_a_killed_run_of_it_left_also_when_nothing_is_to_be_done(tiny_project):
    project = load_project(tiny_project)
    run_step("collect", project)
    places = [project.out / "collect", project.out / "collect" / "found", project.out / "embed"]
    places.append(project.store_root / "nano-1")
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".partial-dead").touch()
    assert len(left(project.out)) == len(places)
    assert run_step("collect", project).reused
    assert left(project.out) == []
