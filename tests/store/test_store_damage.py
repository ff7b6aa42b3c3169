"""No damage to a file ever reads as values: it raises, is found by `verify`, and can be mended."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from usam_core.errors import StoreError
from usam_core.store.arrays import Damaged, check_array, open_array, seal, write_array
from usam_core.store.layout import COLUMNS
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile, MaskSet, Quarantined

SPEC = {"model": "nano"}
BLOCK = "features/encoder"
PIPELINES = ["zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"]
"""What a program may set zarr to."""


def sha(number: int) -> str:
    return f"{number:064x}"


def records(first: int = 0) -> list[ShardRecord]:
    rng = np.random.default_rng(first)
    made = [
        ShardRecord(
            ImageFile(f"/{number}.png", sha(number)),
            MaskSet(
                tokens=rng.normal(size=(2, 1024)).astype(np.float16),
                packed_masks=rng.integers(0, 256, (2, 4, 8, 1), dtype=np.uint8),
                predicted_iou=rng.random((2, 4), np.float32),
                stability=rng.random((2, 4), np.float32),
                points_xy=rng.random((2, 2), np.float32),
                size_hw=(8, 9),
                features={"encoder": rng.normal(size=(2, 4, 3)).astype(np.float16)},
            ),
        )
        for number in range(first, first + 3)
    ]
    return [*made, ShardRecord(ImageFile("/bad.png", sha(first + 3)), Quarantined("empty", "why"))]


def data_file(shard: Path, column: str) -> Path:
    (file,) = [path for path in (shard / column / "c").rglob("*") if path.is_file()]
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    """Return the folder and the one shard of a store that is not to be changed."""
    store = EmbeddingStore.create_or_open(tmp_path_factory.mktemp("whole"), SPEC)
    return store.path, store.write_shard(records())


@pytest.fixture
def store(whole, tmp_path) -> EmbeddingStore:
    """Return a copy of it that may be."""
    return EmbeddingStore.open(Path(shutil.copytree(whole[0], tmp_path / whole[0].name)))


@pytest.fixture
def shard(store, whole) -> Path:
    return store.path / "shards" / whole[1]


def all_files(shard: Path) -> list[Path]:
    return sorted(path for path in shard.rglob("*") if path.is_file())


def as_written_or_error(store: EmbeddingStore) -> str:
    """Read every image; return "whole" or "error", and fail on any other value."""
    for record in records()[:3]:
        try:
            found = store.read(record.image.sha256)
        except StoreError:
            return "error"
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(found, name), getattr(record.result, name))
        np.testing.assert_array_equal(found.features["encoder"], record.result.features["encoder"])
        assert found.size_hw == (8, 9)
    return "whole"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_and_never_read_as_values(whole, tmp_path_factory, data):
    source, name = whole
    copy = tmp_path_factory.mktemp("flip") / source.name
    shutil.copytree(source, copy)
    shard = copy / "shards" / name
    file = data.draw(st.sampled_from([path.relative_to(shard) for path in all_files(shard)]))
    content = bytearray((shard / file).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (shard / file).write_bytes(content)
    store = EmbeddingStore.open(copy)
    as_written_or_error(store)
    assert [bad.shard for bad in store.verify()] == [name]
    shutil.rmtree(copy)


@pytest.mark.parametrize("column", [*COLUMNS, BLOCK])
@pytest.mark.parametrize("how", ["missing", "empty", "short", "long", "other"])
def test_a_damaged_data_file_raises_and_names_the_fix(store, shard, column, how):
    file = data_file(shard, column)
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        other = bytes(len(content))
        changed = {"empty": b"", "short": content[:-1], "long": content + b"x", "other": other}
        file.write_bytes(changed[how])
    said = rf"shard {shard.name} is damaged: .*{column}.*Run `usam embed`"
    with pytest.raises(StoreError, match=said):
        list(store.read_rows([sha(0), sha(1), sha(2)], [column]))
    (found,) = store.verify()
    assert found.shard == shard.name
    assert str(file) in found.reason
    if how != "other":
        assert len(store.verify(deep=False)) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_flipped_byte_is_found_by_the_quick_check_too(store, shard, known):
    file = data_file(shard, "packed_masks")
    if known:
        assert store.verify() == []
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert [bad.shard for bad in store.verify(deep=False)] == [shard.name]
    assert [bad.shard for bad in store.verify(deep=False)] == [shard.name], "it stays damaged"


def test_what_reading_finds_damaged_is_looked_through_again(store, shard):
    old = 1_000_000_000
    for file in [shard, *shard.rglob("*")]:
        os.utime(file, (old, old))
    checked = store.path / ".checked.json"
    checked.write_text("{}")
    data_file(shard, "tokens").write_bytes(b"x")
    with pytest.raises(StoreError, match="Run `usam embed`"):
        list(store.read_rows([sha(0)], ["tokens"]))
    assert not checked.exists()


@pytest.mark.parametrize("column", ["tokens", BLOCK])
def test_metadata_that_zarr_would_believe(store, shard, column):
    file = shard / column / "zarr.json"
    file.write_text(file.read_text().replace('"float16"', '"uint16"'))
    with pytest.raises(StoreError, match="the bytes are not the ones that were written"):
        list(store.read_rows([sha(0)], [column]))
    assert len(store.verify(deep=False)) == 1


@pytest.mark.parametrize("folder", [".", "features"])
@pytest.mark.parametrize(("old", "new"), [('"group"', '"groop"'), ('format": 3', 'format": 2')])
def test_a_group_that_zarr_would_not_open(store, shard, folder, old, new):
    file = shard / folder / "zarr.json"
    file.write_text(file.read_text().replace(old, new))
    assert [bad.shard for bad in store.verify(deep=False)] == [shard.name]


@pytest.mark.parametrize("name", ["tokens", "features/encoder", "features", "tokens/c"])
def test_a_missing_folder_is_found(store, shard, name):
    shutil.rmtree(shard / name)
    assert [bad.shard for bad in store.verify(deep=False)] == [shard.name]
    column = BLOCK if name.startswith("features") else "tokens"
    with pytest.raises(StoreError):
        list(store.read_rows([sha(0)], [column]))


def test_a_file_that_goes_between_opening_and_reading(store, shard):
    rows = store.read_rows([sha(0), sha(1), sha(2)], ["tokens"])
    store.read(sha(0))  # every array is open now
    data_file(shard, "tokens").unlink()
    with pytest.raises(StoreError, match="tokens"):
        list(rows)


def test_a_shard_dropped_by_another_process_while_it_is_read(store):
    store.read(sha(0))
    EmbeddingStore.open(store.path).drop_shard(store.index()["shard"].iloc[0])
    with pytest.raises(StoreError):
        store.read(sha(1))
    assert store.plan([sha(1)]) == [[sha(1)]]


@pytest.mark.parametrize("name", ["index.parquet", "zarr.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut"])
def test_a_shard_with_a_damaged_index_is_left_out_with_a_warning(store, shard, name, how, caplog):
    other = store.write_shard(records(10))
    content = (shard / name).read_bytes()
    (shard / name).unlink()
    if how != "missing":
        (shard / name).write_bytes(b"" if how == "empty" else content[:-20])
    again = EmbeddingStore.open(store.path)
    assert set(again.index()["shard"]) == {other}
    assert again.plan([sha(0), sha(10)]) == [[sha(0)]]
    assert f"shard {shard.name} is left out" in caplog.text
    assert [bad.shard for bad in again.verify()] == [shard.name]
    assert len([line for line in caplog.messages if "left out" in line]) == 1
    # Embedding its images again puts it right.
    assert again.write_shard(records()) == shard.name
    assert again.verify() == []
    assert as_written_or_error(again) == "whole"


@pytest.mark.parametrize("column", ["tokens", "features/encoder"])
def test_writing_a_shard_again_mends_it(store, shard, column):
    file = data_file(shard, column)
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    assert as_written_or_error(store) == "error"
    store.write_shard(records())
    assert as_written_or_error(store) == "whole"
    assert store.verify() == []


def test_dropping_a_shard_gives_its_images_back_to_the_plan(store, shard):
    kept = store.write_shard(records(10))
    store.drop_shard(shard.name)
    store.drop_shard(shard.name)
    assert not shard.exists()
    assert set(store.index()["shard"]) == {kept}
    assert store.plan([sha(0), sha(10), sha(1)]) == [[sha(0), sha(1)]]
    with pytest.raises(ValueError, match="expected an id"):
        store.drop_shard("../" + store.path.name)


def test_a_shard_of_another_encoder_is_not_taken(store, shard, tmp_path):
    other = EmbeddingStore.create_or_open(tmp_path, {"model": "other"})
    shutil.copytree(shard, other.path / "shards" / shard.name)
    assert other.index(refresh=True).empty
    (found,) = other.verify()
    assert "made by another encoder" in found.reason


def test_damaged_metadata_of_the_store(store, tmp_path):
    group = store.path / "zarr.json"
    group.write_text(group.read_text().replace('"nano"', '"vit_b"'))
    with pytest.raises(StoreError, match="not the metadata of a usam store"):
        EmbeddingStore.open(store.path)
    # Who knows the encoder can write them again: the folder's name proves the spec.
    mended = EmbeddingStore.create_or_open(store.path.parent, SPEC)
    assert mended.spec == SPEC
    assert as_written_or_error(mended) == "whole"


def test_a_store_under_another_name_is_refused(store, tmp_path):
    moved = store.path.rename(tmp_path / "nano-0000000000000000")
    with pytest.raises(StoreError, match="Rename it back"):
        EmbeddingStore.open(moved)


def test_a_format_of_another_day_is_refused(store, monkeypatch):
    monkeypatch.setattr("usam_core.store.layout.FORMAT", 2)
    with pytest.raises(StoreError, match="format 1, expected 2"):
        EmbeddingStore.open(store.path)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_changed_bit_is_found_whichever_checksum_and_whatever_zarr_is_set_to(tmp_path, pipeline):
    values = np.random.default_rng(0).integers(0, 255, (8, 10, 64), np.uint8)
    folders = {"before 2026-11-21": tmp_path / "old", "now": tmp_path / "new"}
    zarr.create_array(
        LocalStore(tmp_path / "old"),
        data=values,
        chunks=(1, 10, 64),
        shards=values.shape,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
    )
    seal(tmp_path / "old")
    write_array(tmp_path / "new", values)
    for folder in folders.values():
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            one = open_array(folder, len(values))
            assert (one.values(0, 2) == values[:2]).all()
            content = bytearray(one.file.read_bytes())
            content[300] ^= 1
            one.file.write_bytes(content)
            with pytest.raises(Damaged):
                open_array(folder, len(values)).values(0, 2)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_zeros_are_written_whatever_zarr_is_set_to(tmp_path, pipeline):
    zeros = np.zeros((3, 4, 8), np.uint8)
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        write_array(tmp_path, zeros)
    check_array(tmp_path, deep=True)
    assert (open_array(tmp_path, 3).values(0, 3) == zeros).all()


def test_opening_an_array_leaves_zarr_as_it_was(tmp_path, monkeypatch):
    write_array(tmp_path, np.zeros((3, 4, 8), np.uint8))
    monkeypatch.setattr(zarr.config, "set", None)  # it is the whole process's, all threads'
    open_array(tmp_path, 3).values(0, 3)
