"""From files to shards: the same records whatever the batches, bounded, and stopped cleanly."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usam_core.errors import StoreError
from usam_core.images.read import read_image
from usam_core.rng import generator
from usam_core.sam import pipeline
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.embedder import SamEmbedder
from usam_core.sam.nano import build_nano_sam
from usam_core.sam.pipeline import embed_shards
from usam_core.sources.scenes import SHAPES, TRAINING_LOOK, scene
from usam_core.types import ImageFile, MaskSet


class Kept:
    """A shard that keeps its records."""

    def __init__(self, files, known=()):
        self.files = files
        self.known = set(known)
        self.open = False
        self.closed = 0

    def begin(self):
        self.open = True
        return {file.sha256 for file in self.files} - self.known

    def commit(self, records):
        assert self.open
        self.records = records
        return len(records)

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def nano():
    return build_nano_sam()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven images of several sizes; the third is no image."""
    folder = tmp_path_factory.mktemp("images")
    found = []
    for number in range(7):
        path = folder / f"{number}.png"
        size = (64 + 16 * (number % 3), 96)
        Image.fromarray(scene(generator(1, number), list(SHAPES), size, TRAINING_LOOK).image).save(
            path
        )
        found.append(ImageFile(str(path), f"{number}"))
    Path(found[2].path).write_bytes(b"no image")
    return found


@pytest.fixture
def embedder(nano):
    return SamEmbedder(SegmentAnything(nano), "nano", "0", points_per_side=2)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def read(file):
    return read_image(file.path)


def run(embedder, shards, advance=lambda _: None):
    return embed_shards(embedder, shards, read, advance)


def outcome(shard):
    return [(record.image.sha256, record.embedded) for record in shard.records]


@pytest.mark.parametrize("size", [1, 3, 16])
def test_records_are_in_order_and_the_same_whatever_the_batches(embedder, files, size):
    embedder._images.most = size
    shards = [Kept(files[:4]), Kept(files[4:])]
    told = []
    assert run(embedder, shards, told.append) == [4, 3]
    assert sum(told) == 7
    assert outcome(shards[0]) == [("0", True), ("1", True), ("2", False), ("3", True)]
    assert outcome(shards[1]) == [("4", True), ("5", True), ("6", True)]
    for record in (*shards[0].records, *shards[1].records):
        if not record.embedded:
            assert record.result.code == "not_an_image"
            continue
        picture = read(record.image)
        (alone,) = embedder.embed([picture.rgb])
        assert isinstance(record.result, MaskSet)
        assert record.result.size_hw == picture.rgb.shape[:2]
        np.testing.assert_allclose(record.result.tokens, alone.tokens, rtol=0, atol=0.02)
        np.testing.assert_allclose(
            record.result.predicted_iou, alone.predicted_iou, rtol=0, atol=1e-4
        )
    assert all(shard.closed for shard in shards)


def test_what_was_stored_meanwhile_is_passed_over(embedder, files):
    shards = [
        Kept(files[:3], known={"0", "2"}),
        Kept(files[3:5], known={"3", "4"}),
        Kept(files[5:]),
    ]
    assert run(embedder, shards) == [1, 0, 2]
    assert outcome(shards[0]) == [("1", True)]
    assert outcome(shards[2]) == [("5", True), ("6", True)]


def test_a_shards_images_are_cut_into_equal_batches(embedder, files, monkeypatch):
    embedder._images.most = 3
    told = []
    run(embedder, [Kept(files[:4], known={"0"}), Kept(files[3:])], told.append)
    assert told == [3, 2, 2]


def test_a_shard_is_written_while_the_next_is_embedded(embedder, files):
    """The first is not written to its end before the second's images reach the device."""
    second_begun = threading.Event()

    class First(Kept):
        def commit(self, records):
            assert second_begun.wait(20)
            return super().commit(records)

    def advance(count):
        done.append(count)
        if sum(done) > 3:
            second_begun.set()

    done = []
    assert run(embedder, [First(files[:3]), Kept(files[3:])], advance) == [3, 4]


def test_files_are_read_no_further_ahead_than_the_bound(embedder, files, monkeypatch):
    monkeypatch.setattr(pipeline, "_BATCHES_AHEAD", 1)
    embedder._images.most = 1
    begun = []
    seen = []

    def counted(file):
        begun.append(file)
        return read(file)

    embed_shards(
        embedder, [Kept(files)], counted, lambda count: seen.append(len(begun) - len(seen) * count)
    )
    assert max(seen) <= 3


class Gated:
    """Counts what is given to the device, and can hold up what is behind it."""

    def __init__(self, embedder, monkeypatch):
        self.embedder = embedder
        self.given = 0
        self.gate = threading.Event()
        embedder._images.most = 1
        monkeypatch.setattr(embedder, "submit", self.submit)

    def submit(self, images):
        self.given += 1
        return lambda: self.land(images)

    def land(self, images):
        return [None] * len(images)

    def far(self, shards, most):
        """Return how many batches the device gets while the gate is shut, and run to the end."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run, self.embedder, shards)
            try:
                deadline = time.monotonic() + 20
                while self.given < most and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(0.5)  # all seven images are read and given in a tenth of that
                given = self.given
            finally:
                self.gate.set()
            running.result()
        return given


@pytest.mark.parametrize("writers", [1, 2])
def test_the_device_is_one_shard_ahead_of_those_being_written(
    embedder, files, monkeypatch, writers
):
    class Slow(Kept):
        def commit(self, records):
            assert gated.gate.wait(20)
            return super().commit(records)

    monkeypatch.setattr(pipeline, "_WRITERS", {"cpu": writers})
    gated = Gated(embedder, monkeypatch)
    assert gated.far([Slow([file]) for file in files], writers + 1) == writers + 1
    assert gated.given == 7


def test_the_device_waits_for_batches_that_are_still_to_land(embedder, files, monkeypatch):
    class SlowToLand(Gated):
        def land(self, images):
            assert self.gate.wait(20)
            return super().land(images)

    gated = SlowToLand(embedder, monkeypatch)
    # One that lands, one that waits for it, and one that the device has begun meanwhile.
    assert gated.far([Kept(files)], 3) == 3
    assert gated.given == 7


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_stopped_in_the_middle_all_threads_end_and_all_shards_are_let_go(embedder, files, error):
    shards = [Kept(files[:3]), Kept(files[3:5]), Kept(files[5:])]

    def advance(_):
        raise error

    with pytest.raises(error):
        run(embedder, shards, advance)
    assert shards[0].closed
    assert not shards[2].open


def test_a_run_that_shall_stop_seals_the_shard_at_hand_with_what_it_has(
    embedder, files, monkeypatch
):
    embedder._images.most = 1
    shards = [Kept(files[:5]), Kept(files[5:])]
    given = []
    monkeypatch.setattr(pipeline, "stopping", lambda: sum(given) >= 2)
    assert run(embedder, shards, given.append) == [sum(given)]
    assert len(shards[0].records) == 2
    assert [r.image for r in shards[0].records] == files[: len(shards[0].records)]
    assert shards[0].closed
    assert not shards[1].open


def test_a_disk_that_is_full_stops_the_run(embedder, files):
    class Full(Kept):
        def commit(self, records):
            raise StoreError("disk full")

    shards = [Full(files[:1]), *(Kept([file]) for file in files[1:])]
    with pytest.raises(StoreError, match="disk full"):
        run(embedder, shards)
    assert all(shard.closed for shard in shards if shard.open)
