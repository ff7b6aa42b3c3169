"""Rows are read shard by shard, only the wanted ones; feature blocks can be added later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.store.records import bad, good, sha
from usam_core.errors import StoreError
from usam_core.store import index as index_module
from usam_core.store import reader
from usam_core.store.arrays import SealedArray
from usam_core.store.store import EmbeddingStore
from usam_core.types import ImageFile

SPEC = {"model": "nano"}


@pytest.fixture
def store(tmp_path) -> EmbeddingStore:
    """Return a store of two shards: images 0 to 19, and 20 to 22; 3 is quarantined."""
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    store.write_shard([bad(n) if n == 3 else good(n) for n in range(20)])
    store.write_shard([good(n) for n in (20, 21, 22)])
    return store


def numbers(rows: object, column: str) -> list[int]:
    for sha256, values in rows:
        assert list(values) == [column]
        assert np.unique(values[column]).tolist() == [int(sha256, 16)]
        yield int(sha256, 16)


@pytest.mark.parametrize(
    "column",
    ["tokens", "packed_masks", "predicted_iou", "stability", "points_xy", "features/encoder"],
)
def test_rows_come_by_shard_in_row_order_each_once(store, column):
    wanted = [sha(n) for n in (21, 7, 4, 5, 21, 20, 0, 19)]
    # The shard of image 21 comes first, because it is named first.
    assert list(numbers(store.read_rows(wanted, [column]), column)) == [20, 21, 0, 4, 5, 7, 19]


@pytest.mark.parametrize(("rows", "size"), [(1, 2**20), (4, 2**20), (16, 1), (16, 2**20)])
def test_the_result_does_not_depend_on_how_many_are_read_at_once(store, monkeypatch, rows, size):
    monkeypatch.setattr(reader, "_RUN_ROWS", rows)
    monkeypatch.setattr(reader, "_RUN_BYTES", size)
    wanted = [n for n in range(23) if n not in (3, 11)]
    found = store.read_rows([sha(n) for n in wanted], ["tokens"])
    assert list(numbers(found, "tokens")) == wanted


def test_only_the_wanted_rows_are_read(store, monkeypatch):
    read = []
    values = SealedArray.values

    def counting(self: SealedArray, start: int, stop: int, **how: bool) -> np.ndarray:
        read.append((start, stop))
        return values(self, start, stop, **how)

    monkeypatch.setattr(SealedArray, "values", counting)
    list(store.read_rows([sha(0), sha(5), sha(6)], ["tokens"]))
    assert read == [(0, 1), (4, 6)]  # image 3 has no row


def test_rows_are_copies(store):
    rows = store.read_rows([sha(0), sha(1)], ["tokens"])
    assert all(values["tokens"].base is None for _, values in rows)


def test_a_column_that_is_not_there_names_those_that_are(store):
    with pytest.raises(StoreError, match=r"no column 'features/clip'.*\['tokens', 'encoder'\]"):
        list(store.read_rows([sha(0)], ["features/clip"]))


@pytest.fixture
def index_reads(monkeypatch) -> list[str]:
    """Return the ids of the shards whose index file was read, as they are."""
    names: list[str] = []
    read = index_module.read_index

    def counting(folder: Path, fingerprint: str) -> object:
        names.append(folder.name)
        return read(folder, fingerprint)

    monkeypatch.setattr(index_module, "read_index", counting)
    return names


def test_the_index_reads_new_shards_only(tmp_path, index_reads):
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    for number in range(40):
        store.write_shard([bad(number)])
    assert index_reads == []  # who only writes needs none
    index_reads.clear()
    # A new process reads all, and writes the cache; the next reads none.
    assert len(EmbeddingStore.open(store.path).index()) == 40
    assert len(index_reads) == 40
    index_reads.clear()
    third = EmbeddingStore.open(store.path)
    assert third.index().equals(store.index())
    assert index_reads == []
    shard = store.write_shard([bad(40)])
    index_reads.clear()
    assert len(third.index(refresh=True)) == 41
    assert index_reads == [shard]


@pytest.mark.parametrize("damage", ["delete", "empty", "flip", "older"])
def test_the_cache_is_never_believed_over_the_shards(tmp_path, damage, index_reads):
    store = EmbeddingStore.create_or_open(tmp_path, SPEC)
    shards = [store.write_shard([bad(number)]) for number in range(40)]
    expected = EmbeddingStore.open(store.path).index()
    cache = store.path / ".index-cache"
    content = bytearray(cache.read_bytes())
    if damage == "delete":
        cache.unlink()
    elif damage == "empty":
        cache.write_bytes(b"")
    elif damage == "flip":
        for place in range(0, len(content), len(content) // 20):
            flipped = content.copy()
            flipped[place] ^= 1
            cache.write_bytes(flipped)
            assert EmbeddingStore.open(store.path).index().equals(expected)
        cache.write_bytes(flipped)
    else:
        # Behind the cache's back one shard goes, one image gets another verdict, one moves.
        for shard in shards[:3]:
            store.drop_shard(shard)
        store.write_shard([good(0)])
        moved = replace(bad(1), image=ImageFile("/moved.png", sha(1)))
        assert store.write_shard([moved]) == shards[1]
        expected = EmbeddingStore.open(store.path).index()
        rows = expected.set_index("sha256")
        assert rows.loc[sha(0), "status"] == "ok"
        assert rows.loc[sha(1), "source"] == "/moved.png"
        assert sha(2) not in rows.index
    assert EmbeddingStore.open(store.path).index().equals(expected)
