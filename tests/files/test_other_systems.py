"""Windows and macOS, as far as this system can play them; neither was ever run."""

import errno
import ntpath
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_tiny_project
from tests.export_data import image_of
from tests.outputs.exported import written
from tests.windows import make_windows
from usam_core.errors import StoreError
from usam_core.files import atomic
from usam_core.files.atomic import scratch_file, sweep, whole_file, whole_folder, write_json
from usam_core.files.paths import inside, way_to

ROOT = Path(__file__).parents[2]


@pytest.fixture
def windows(monkeypatch):
    make_windows(monkeypatch.setattr)


def test_files_and_folders_are_whole_without_locks_and_open_folders(windows, tmp_path):
    write_json(tmp_path / "a" / "one.json", {"a": 1})
    write_json(tmp_path / "a" / "one.json", {"a": 2})
    assert '"a": 2' in (tmp_path / "a" / "one.json").read_text()
    with whole_folder(tmp_path / "folder") as made:
        (made / "x").write_text("x")
    assert (tmp_path / "folder" / "x").read_text() == "x"
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "two") as made:
        made.write_text(str(1 / 0))
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]


def test_what_is_being_written_is_not_swept_and_what_is_old_is(windows, tmp_path):
    with scratch_file(tmp_path / "x") as made:
        assert sweep(tmp_path) == 0
        assert made.exists()
    for name in ("file", "folder"):
        left = tmp_path / f"{atomic.TEMPORARY_PREFIX}{name}"
        left.touch() if name == "file" else left.mkdir()
        long_ago = time.time() - 2 * atomic._STALE_SECONDS
        os.utime(left, (long_ago, long_ago))
    assert sweep(tmp_path) == 2
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_being_read_is_replaced_a_moment_later(windows, tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_text("old")
    reader, waits = file.open(), []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            reader.close()

    monkeypatch.setattr(atomic.time, "sleep", wait)
    with whole_file(file) as made:
        made.write_text("new")
    assert file.read_text() == "new"
    assert len(waits) == 3


def test_a_reader_that_never_ends_is_a_sentence(windows, tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_text("old")
    monkeypatch.setattr(atomic.time, "sleep", lambda _: None)
    refused = pytest.raises(StoreError, match="x: cannot be written")
    with file.open(), refused, whole_file(file) as made:
        made.write_text("new")
    assert file.read_text() == "old"


def test_here_a_refusal_is_not_waited_for(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(atomic.os, "replace", refuse)
    monkeypatch.setattr(atomic.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(StoreError, match="cannot be written"), whole_file(tmp_path / "x"):
        pass


def test_macos_is_asked_for_the_whole_way_to_the_disk(tmp_path, monkeypatch):
    asked, plain = [], []
    monkeypatch.setattr(atomic.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(atomic.fcntl, "fcntl", lambda handle, what: asked.append(what))
    monkeypatch.setattr(atomic.os, "fsync", plain.append)
    write_json(tmp_path / "x", 1)
    assert (asked, plain) == ([51, 51], []), "the file and its folder"

    def unknown(*_):
        raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(atomic.fcntl, "fcntl", unknown)
    write_json(tmp_path / "x", 1)
    assert len(plain) == 2


def test_another_drive_has_no_relative_way(monkeypatch):
    monkeypatch.setattr(os.path, "relpath", ntpath.relpath)
    assert way_to("D:/lab/a.png", "C:/project") == "D:/lab/a.png"
    assert way_to("C:/project/a.png", "C:/project") == "a.png"


def test_names_with_a_drive_are_refused_on_windows_even_where_links_are_not(windows, tmp_path):
    for name in ("C:/Windows/x", "c:x", r"..\x", r"a\b"):
        with pytest.raises(StoreError):
            inside(tmp_path, name, linked=True)


def test_yolo_says_so_where_no_links_can_be_made(tmp_path, monkeypatch):

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    image = image_of([np.ones((4, 4), bool)], (4, 4), images=str(tmp_path))
    writer, _, _ = written("yolo", image, tmp_path)
    writer.placed(image)
    assert "Developer Mode); copy your images into yolo/images yourself" in writer.notes[0]


WINDOWS_RUN = """
import sys
from tests.export_data import image_of
from tests.outputs.exported import written
from tests.windows import make_windows
make_windows()
from flows import environment
from usam_core.config.project import load_project
from usam_core.steps import STEPS, run_step
project = load_project(sys.argv[1])
for step in STEPS:
    print(step, run_step(step, project).reused)
for step in STEPS:
    print(step, run_step(step, project).reused)
assert environment.temporary().is_dir()
"""


@pytest.mark.slow
def test_a_whole_project_runs_and_is_reused(tmp_path):
    file = write_tiny_project(tmp_path)
    (tmp_path / "run.py").write_text(WINDOWS_RUN)
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", file],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.split("\n")
    first, second = lines[: len(lines) // 2], lines[len(lines) // 2 : -1]
    assert "annotate False" in first
    assert all(line.endswith("True") for line in second)
    assert not list(tmp_path.rglob(".partial-*"))


def test_nothing_else_of_ours_imports_what_windows_lacks():
    import ast

    lacking = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}
    for top in ("usam_core", "tasks", "flows"):
        for file in (ROOT / top).rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            guarded = {id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) for n in ast.walk(t)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Import) and id(node) not in guarded:
                    assert not lacking & {alias.name for alias in node.names}, file


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_workers_are_given_can_be_spawned(method, tmp_path):
    """Windows and macOS start processes anew: what is sent must be found by its name."""
    import multiprocessing

    with multiprocessing.get_context(method).Pool(1) as pool:
        pool.apply(write_json, (tmp_path / f"{method}.json", {"a": 1}))
    assert (tmp_path / f"{method}.json").exists()
