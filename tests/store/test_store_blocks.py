"""Blocks that are added to shards later: whole or absent, row by row, damaged alone."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.records import bad, good, sha
from tests.usam_process import python
from usam_core.errors import StoreError
from usam_core.files.atomic import TEMPORARY_PREFIX
from usam_core.store.reader import block_id
from usam_core.store.store import EmbeddingStore

SPEC = {"model": "nano"}
CLIP = {"family": "clip", "side": 224}
ID = block_id(CLIP)
ROOT = Path(__file__).parents[2]


def vectors(number: int, width: int = 5) -> np.ndarray:
    """Return an image's vectors, told by its number."""
    return np.random.default_rng(number).normal(size=(2, 4, width)).astype(np.float16)


@pytest.fixture
def store(tmp_path) -> EmbeddingStore:
    """Return a store of two shards: images 0 to 3, of which 1 is quarantined, and 4 to 6."""
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    store.write_shard([bad(n) if n == 1 else good(n) for n in range(4)])
    store.write_shard([good(n) for n in (4, 5, 6)])
    return store


IMAGES = [0, 2, 3, 4, 5, 6]


def shard_of(store: EmbeddingStore, number: int) -> str:
    index = store.index()
    return index.loc[index["sha256"] == sha(number), "shard"].item()


def add(store: EmbeddingStore, *numbers: int, spec: dict = CLIP) -> None:
    for shard in {shard_of(store, number) for number in numbers}:
        made = {sha(n): vectors(n) for n in numbers if shard_of(store, n) == shard}
        store.add_block(shard, spec, made)


def missing(store: EmbeddingStore, block: str = ID) -> list[int]:
    found = store.lacking([block], map(sha, range(9)))
    return sorted(int(one, 16) for blocks in found.values() for one in blocks[block])


def test_a_block_is_made_for_what_is_embedded_and_read_by_the_projects_name_for_it(store):
    assert missing(store) == IMAGES
    add(store, *IMAGES)
    assert missing(store) == []
    store.use_blocks({"mine": ID})
    assert store.block_names() == ["tokens", "encoder", "mine"]
    again = EmbeddingStore.open(store.path)
    again.use_blocks({"theirs": ID})
    for number in IMAGES:
        np.testing.assert_array_equal(store.read(sha(number)).features["mine"], vectors(number))
        ((_, row),) = again.read_rows([sha(number)], ["features/theirs"])
        np.testing.assert_array_equal(row["features/theirs"], vectors(number))
    ((_, masks),) = again.read_shard(shard_of(store, 5), [sha(5)], ["theirs"])
    assert list(masks.features) == ["theirs"]
    ((_, masks),) = again.read_shard(shard_of(store, 5), [sha(5)], [])
    assert masks.features == {}
    assert store.verify() == []


@settings(max_examples=12, deadline=None)
@given(
    parts=st.lists(st.sets(st.sampled_from(IMAGES), min_size=1), min_size=1, max_size=4),
    width=st.integers(1, 7),
)
def test_rows_come_in_any_portions_and_read_as_they_came(tmp_path_factory, parts, width):
    store = EmbeddingStore.create_or_open(tmp_path_factory.mktemp("store"), SPEC)
    store.write_shard([bad(n) if n == 1 else good(n) for n in range(7)])
    shard = shard_of(store, 0)
    store.use_blocks({"mine": ID})
    there: set[int] = set()
    for part in parts:
        # What is there already stays: another writer's zeros must not replace it.
        made = {sha(n): vectors(n, width) * (n not in there) for n in part}
        store.add_block(shard, CLIP, made)
        there |= part
    assert missing(store) == sorted(set(IMAGES) - there)
    rows = dict(store.read_rows([sha(n) for n in there], ["features/mine"]))
    for number in there:
        found = rows[sha(number)]["features/mine"]
        assert found.tobytes() == vectors(number, width).tobytes()
    assert store.verify() == []


def test_an_image_that_the_block_does_not_have_is_an_error_and_not_zeros(store):
    add(store, 4, 6)
    store.use_blocks({"mine": ID})
    assert missing(store) == [0, 2, 3, 5]
    with pytest.raises(StoreError, match=rf"1 images are not in.*{sha(5)}; run `usam describe`"):
        list(store.read_rows([sha(4), sha(5)], ["features/mine"]))
    with pytest.raises(StoreError, match=r"no column 'features/mine'.*usam describe"):
        list(store.read_rows([sha(0)], ["features/mine"]))


def test_another_encoder_gives_another_block(store):
    add(store, *IMAGES)
    other = {**CLIP, "side": 336}
    assert missing(store, block_id(other)) == IMAGES
    add(store, *IMAGES, spec=other)
    assert missing(store) == missing(store, block_id(other)) == []


@pytest.mark.parametrize("how", ["deleted", "cut", "lied"])
def test_a_damaged_block_is_found_and_made_again_alone(store, how):
    add(store, *IMAGES)
    shard = shard_of(store, 4)
    folder = store.path / "shards" / shard
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and ID not in p.parts}
    victim = folder / "features" / ID / ("zarr.json" if how == "lied" else "c/0/0/0/0")
    if how == "deleted":
        victim.unlink()
    elif how == "cut":
        victim.write_bytes(victim.read_bytes()[:-2])
    else:
        victim.write_text(victim.read_text().replace('"lacking_rows"', '"lacking_rowz"'))
    (found,) = store.verify(deep=False)
    assert (found.shard, found.block) == (shard, ID)
    assert victim.name in found.reason
    assert missing(store) == [4, 5, 6]
    add(store, 4, 5, 6)
    assert store.verify() == []
    assert missing(store) == []
    assert before == {path: path.read_bytes() for path in before}


def test_a_flipped_bit_is_never_read_as_values(store):
    add(store, *IMAGES)
    store.use_blocks({"mine": ID})
    file = store.path / "shards" / shard_of(store, 4) / "features" / ID / "c/0/0/0/0"
    content = bytearray(file.read_bytes())
    content[9] ^= 4
    file.write_bytes(content)
    assert [found.block for found in store.verify()] == [ID]
    with pytest.raises(StoreError, match=f"{ID} is damaged.*usam describe"):
        list(store.read_rows([sha(4), sha(5), sha(6)], ["features/mine"]))


def test_a_block_goes_with_its_shard(store):
    add(store, *IMAGES)
    shard = shard_of(store, 4)
    store.drop_shard(shard)
    assert store.write_shard([good(n) for n in (4, 5, 6)]) == shard
    assert missing(store) == [4, 5, 6]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({4: vectors(4).astype(np.float32)}, "expected float16"),
        ({4: vectors(4)[:1]}, "expected float16"),
        ({4: vectors(4, 5), 5: vectors(5, 6)}, "expected float16"),
    ],
)
def test_values_that_do_not_fit(store, made, why):
    with pytest.raises(ValueError, match=why):
        store.add_block(shard_of(store, 4), CLIP, {sha(n): v for n, v in made.items()})
    assert missing(store) == IMAGES


def test_images_of_another_shard_are_refused(store):
    with pytest.raises(StoreError, match="other shards"):
        store.add_block(shard_of(store, 4), CLIP, {sha(0): vectors(0)})
    add(store, 4)
    with pytest.raises(ValueError, match="expected vectors of 5"):
        store.add_block(shard_of(store, 4), CLIP, {sha(5): vectors(5, 6)})


# Killed by the kernel at the chosen call, as by `kill -9` or a power cut.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.store import test_store_blocks as t
from usam_core.store import reader
from usam_core.store.store import EmbeddingStore
store = EmbeddingStore.open(Path(sys.argv[1]))
name = sys.argv[2]
real = getattr(reader, name)
def killed(*arguments):
    if sys.argv[3] == "after":
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(reader, name, killed)
t.add(store, 5, 6)
"""


@pytest.mark.parametrize(
    "moment", [("write_array", "before"), ("write_array", "after"), ("remove_folder", "after")]
)
def test_a_kill_leaves_no_half_block(store, moment):
    add(store, 4)
    assert python(KILLED, store.path, *moment).returncode == -signal.SIGKILL
    assert store.verify() == []
    # Between the old block and the new one, the shard has none.
    lost = [4] if moment[0] == "remove_folder" else []
    assert missing(store) == [0, 2, 3, *lost, 5, 6]
    add(store, *IMAGES)
    assert missing(store) == []
    store.use_blocks({"mine": ID})
    for number in IMAGES:
        np.testing.assert_array_equal(store.read(sha(number)).features["mine"], vectors(number))
    left = list(store.path.rglob(f"{TEMPORARY_PREFIX}*"))
    assert left, "the killed writer's folder is there"
    for path in left:
        for part in (path, *path.rglob("*")):
            os.utime(part, (0, 0))
    EmbeddingStore.create_or_open(store.path.parent, SPEC)
    assert not list(store.path.rglob(f"{TEMPORARY_PREFIX}*"))


def test_a_copied_store_keeps_its_blocks(store, tmp_path):
    add(store, *IMAGES)
    copy = EmbeddingStore.open(Path(shutil.copytree(store.path, tmp_path / "x" / store.path.name)))
    assert missing(copy) == []
