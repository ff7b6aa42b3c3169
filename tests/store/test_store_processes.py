"""Writers that are killed, and writers at the same time, leave whole shards and nothing else."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from usam_core.errors import StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX, whole_folder
from usam_core.store.layout import sweep_store
from usam_core.store.shard import check_shard
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile, Quarantined

SPEC = {"model": "nano"}
IMAGES = 24
SHARD_SIZE = 2

# Imports once, then for every line of its input forks a writer, which embeds what is missing.
NURSERY = """
import os, sys, time
from pathlib import Path
import numpy as np
from usam_core.store.shard import check_shard
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile, MaskSet

def record(sha256):
    rng = np.random.default_rng(int(sha256, 16))
    d, u = 64, 64
    return ShardRecord(ImageFile("/x.png", sha256), MaskSet(
        rng.normal(size=(d, 1024)).astype(np.float16),
        rng.integers(0, 256, (d, 4, u, u // 8), dtype=np.uint8),
        rng.random((d, 4), np.float32), rng.random((d, 4), np.float32),
        rng.random((d, 2), np.float32), (8, 8),
        {"encoder": rng.normal(size=(d, 4, 16)).astype(np.float16)}))

def write(root, images, shard_size):
    store = EmbeddingStore.create_or_open(Path(root), {"model": "nano"})
    for group in store.plan([f"{n:064x}" for n in range(images)], shard_size):
        store.write_shard([record(sha256) for sha256 in group])

root, images, shard_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for line in sys.stdin:
    writers = []
    for _ in range(int(line)):
        writer = os.fork()
        if not writer:
            try:
                write(root, images, shard_size)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        writers.append(writer)
    print(*writers, flush=True)
    sys.stdin.readline()  # until then an ended writer keeps its process id
    print(*(os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in writers), flush=True)
"""


class Nursery:
    """Starts writers."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(root), str(IMAGES), str(SHARD_SIZE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def start(self, writers: int) -> list[int]:
        """Fork writers and return their process ids."""
        return self._ask(f"{writers}\n")

    def wait(self) -> list[int]:
        """Return the exit codes of the writers that were started last, when all have ended."""
        return self._ask("\n")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, line: str) -> list[int]:
        self._process.stdin.write(line)
        self._process.stdin.flush()
        return [int(word) for word in self._process.stdout.readline().split()]


@pytest.fixture
def nursery(tmp_path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


def leftovers(root: Path) -> list[Path]:
    return list(root.glob(f"**/{TEMPORARY_PREFIX}*"))


def assert_whole(store: EmbeddingStore) -> None:
    """Every shard folder that can be seen is whole, and every image in it can be read."""
    assert store.verify() == []
    index = store.index()
    names = {path.name for path in (store.path / "shards").iterdir() if path.is_dir()}
    assert set(index["shard"]) == {name for name in names if not name.startswith(".")}
    columns = ["tokens", "packed_masks", "predicted_iou", "features/encoder"]
    assert sum(1 for _ in store.read_rows(index["sha256"], columns)) == len(index)


def test_kill_at_any_moment_loses_only_the_shard_in_flight(tmp_path, nursery):
    chance = random.Random(0)
    seen, killed, done = 0, 0, 0
    for _ in range(30):
        (writer,) = nursery.start(1)
        time.sleep(chance.uniform(0.0, 0.15))
        os.kill(writer, signal.SIGKILL)
        killed += nursery.wait() == [-signal.SIGKILL]
        seen = max(seen, len(leftovers(tmp_path)))
        store = EmbeddingStore.create_or_open(tmp_path, SPEC)
        assert_whole(store)
        assert len(store.index()) >= done, "a shard that was there is gone"
        done = len(store.index())
        if killed >= 10 and seen:
            break
        if done == IMAGES:  # a fast machine: begin again
            for shard in store.index()["shard"].unique():
                store.drop_shard(shard)
            done = 0
    # Without these the test would have shown nothing.
    assert killed >= 10
    assert seen, "no kill fell into the writing of a shard"
    nursery.start(1)
    assert nursery.wait() == [0]
    store = EmbeddingStore.open(store.path)
    assert_whole(store)
    assert len(store.index()) == IMAGES
    assert store.plan([f"{number:064x}" for number in range(IMAGES)]) == []


def test_a_shard_appears_by_one_renaming_of_what_is_whole_already(tmp_path, monkeypatch):
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    record = ShardRecord(ImageFile("/x.png", f"{1:064x}"), Quarantined("empty", "why"))
    rename, seen = os.rename, []

    def watching(source: Path, target: Path) -> None:
        check_shard(Path(source), store.fingerprint, deep=True)
        seen.append((Path(target).name, Path(target).exists()))
        rename(source, target)

    monkeypatch.setattr("usam_core.files.atomic.os.rename", watching)
    shard = store.write_shard([record])
    assert seen == [(shard, False)]


def test_writers_of_the_same_shards_at_the_same_time(tmp_path, nursery):
    nursery.start(3)
    assert nursery.wait() == [0, 0, 0]
    (path,) = tmp_path.iterdir()
    store = EmbeddingStore.open(path)
    assert_whole(store)
    assert len(store.index()) == IMAGES
    assert len(store.index()["shard"].unique()) == IMAGES // SHARD_SIZE
    assert leftovers(tmp_path) == []


def test_a_writer_killed_beside_another_does_not_disturb_it(tmp_path, nursery):
    first, _ = nursery.start(2)
    time.sleep(0.1)
    os.kill(first, signal.SIGKILL)
    assert nursery.wait()[1] == 0
    (path,) = tmp_path.iterdir()
    store = EmbeddingStore.open(path)
    assert_whole(store)
    assert len(store.index()) == IMAGES


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(tmp_path):
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    record = ShardRecord(ImageFile("/x.png", f"{1:064x}"), Quarantined("empty", "why"))
    shard = store.path / "shards" / store.write_shard([record])
    places = [store.path / "shards", shard / "features"]
    with ExitStack() as writers:
        for place in places:
            living = writers.enter_context(whole_folder(place / "living"))
            (living / "c").touch()
            (place / ".partial-dead" / "c").mkdir(parents=True)
            (place / ".partial-dead" / "c" / "0").touch()
        (store.path / ".partial-.index-cache-1").touch()
        assert len(leftovers(tmp_path)) == 5
        EmbeddingStore.create_or_open(tmp_path, SPEC)
        assert {path.name.split("-")[1] for path in leftovers(tmp_path)} == {"living"}
        assert sweep_store(store.path) == 0
        assert store.verify() == []
    assert leftovers(tmp_path) == []
    assert all((place / "living" / "c").is_file() for place in places)


def test_where_nothing_can_be_locked_only_old_leftovers_go(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("usam_core.files.atomic.fcntl.flock", refuse)
    (tmp_path / "shards").mkdir()
    for name, seconds in (("old", 7200), ("young", 1800), ("busy", 7200)):
        folder = tmp_path / "shards" / f".partial-{name}"
        folder.mkdir()
        (folder / "0").touch()
        then = time.time() - seconds
        for part in (folder / "0", folder):
            os.utime(part, (then, then))
    # A large array is written into one file for a while: the folder looks old, the file not.
    (tmp_path / "shards" / ".partial-busy" / "0").touch()
    assert sweep_store(tmp_path) == 1
    assert {path.name for path in leftovers(tmp_path)} == {".partial-young", ".partial-busy"}


def test_leftovers_are_never_read(tmp_path):
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    record = ShardRecord(ImageFile("/x.png", f"{1:064x}"), Quarantined("empty", "why"))
    shard = store.path / "shards" / store.write_shard([record])
    shard.rename(shard.with_name(f".partial-{shard.name}-1"))
    assert EmbeddingStore.open(store.path).index().empty
    assert EmbeddingStore.open(store.path).verify() == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("usam_core.store.shard.pq.write_table", full)
    record = ShardRecord(ImageFile("/x.png", f"{1:064x}"), Quarantined("empty", "why"))
    with pytest.raises(StoreError, match="No space left on device; free disk space"):
        store.write_shard([record])
    assert store.index(refresh=True).empty
    assert leftovers(tmp_path) == []
