"""What is written into the store comes back bit for bit, once per image, under its content."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from usam_core.errors import StoreError
from usam_core.store.arrays import open_array, seal, write_array
from usam_core.store.layout import COLUMNS, PRECISION, folder_name
from usam_core.store.store import EmbeddingStore, ShardRecord, column_of, fingerprint
from usam_core.types import ImageFile, MaskSet, Quarantined

SPEC = {"model": "nano", "points_per_side": 2}


def sha(number: int) -> str:
    return f"{number:064x}"


def mask_set(seed: int, d: int = 4, u: int = 8, blocks: tuple[str, ...] = ("encoder",)) -> MaskSet:
    rng = np.random.default_rng(seed)
    return MaskSet(
        tokens=rng.normal(size=(d, 1024)).astype(np.float16),
        packed_masks=rng.integers(0, 256, (d, 4, u, u // 8), dtype=np.uint8),
        predicted_iou=rng.random((d, 4), np.float32),
        stability=rng.random((d, 4), np.float32),
        points_xy=rng.random((d, 2), np.float32),
        size_hw=(10 + seed, 20 + seed),
        features={name: rng.normal(size=(d, 4, 3)).astype(np.float16) for name in blocks},
    )


def good(number: int, **options: object) -> ShardRecord:
    return ShardRecord(ImageFile(f"/images/{number}.png", sha(number)), mask_set(number, **options))


def bad(number: int, code: str = "empty") -> ShardRecord:
    return ShardRecord(ImageFile(f"/images/{number}.png", sha(number)), Quarantined(code, "why"))


def columns_of(one: MaskSet) -> dict[str, np.ndarray]:
    blocks = {column_of(name): block for name, block in one.features.items()}
    return {name: getattr(one, name) for name in COLUMNS} | blocks


def assert_same(found: MaskSet, expected: MaskSet) -> None:
    assert found.size_hw == expected.size_hw
    ours, theirs = columns_of(found), columns_of(expected)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].dtype == values.dtype
        # Bytes, because NaN is not equal to itself and -0 is equal to 0.
        assert ours[name].tobytes() == values.tobytes(), name


@pytest.fixture
def store(tmp_path) -> EmbeddingStore:
    return EmbeddingStore.create_or_open(tmp_path, SPEC)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    d = data.draw(st.integers(1, 5), "prompts")
    u = data.draw(st.sampled_from([8, 16, 24]), "mask side")
    blocks = data.draw(st.sampled_from([(), ("encoder",), ("a", "b.c-d_2")]), "blocks")
    kinds = data.draw(st.lists(st.booleans(), min_size=1, max_size=6), "which are good")
    records = [
        good(number, d=d, u=u, blocks=blocks) if is_good else bad(number)
        for number, is_good in enumerate(kinds)
    ]
    root = tmp_path_factory.mktemp("store")
    EmbeddingStore.create_or_open(root, SPEC).write_shard(records)
    again = EmbeddingStore.find(root, SPEC)
    assert again.index()["sha256"].tolist() == [sha(number) for number in range(len(kinds))]
    for record in records:
        if record.embedded:
            assert_same(again.read(record.image.sha256), record.result)
    assert again.verify() == []
    assert again.block_names() == (["tokens", *sorted(blocks)] if any(kinds) else [])


def test_zeros_infinities_and_nan_come_back_as_they_were(store):
    one = mask_set(0)
    one.tokens[:] = 0
    one.tokens[0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    one.packed_masks[:] = 0
    one.predicted_iou[:] = np.nan
    store.write_shard([ShardRecord(ImageFile("x", sha(0)), one), good(1)])
    assert_same(store.read(sha(0)), one)
    assert store.verify() == []


def test_tokens_are_left_out_where_they_are_not_wanted(store):
    shard = store.write_shard([good(0), good(1)])
    whole = dict(store.read_shard(shard, [sha(0), sha(1)]))
    for sha256, found in store.read_shard(shard, [sha(0), sha(1)], tokens=False):
        assert found.tokens is None
        assert len(found) == len(whole[sha256])
        assert_same(replace(found, tokens=whole[sha256].tokens), whole[sha256])


@pytest.mark.parametrize("bytes8", [False, True])
def test_the_single_masks_alone_are_those_of_all_masks(tmp_path, bytes8):
    spec = SPEC | ({PRECISION: "int8"} if bytes8 else {})
    store = EmbeddingStore.create_or_open(tmp_path, spec)
    shard = store.write_shard([good(0), good(1)])
    whole = dict(store.read_shard(shard, [sha(0), sha(1)]))
    for sha256, found in store.read_shard(shard, [sha(0), sha(1)], single=True):
        every = whole[sha256]
        first = {name: block[:, :1] for name, block in every.features.items()}
        columns = ("packed_masks", "predicted_iou", "stability")
        some = {name: getattr(every, name)[:, :1] for name in columns}
        assert_same(found, replace(every, **some, features=first))


def test_what_is_kept_mask_by_mask_is_also_read_where_it_was_kept_image_by_image(tmp_path):
    values = mask_set(0).packed_masks[None]
    write_array(tmp_path / "new", values)
    old = {"chunks": values.shape, "shards": values.shape}
    array = zarr.create_array(LocalStore(tmp_path / "old"), data=values, **old)
    seal(tmp_path / "old")
    assert array.chunks != open_array(tmp_path / "new", 1).array.chunks
    for folder in ("new", "old"):
        one = open_array(tmp_path / folder, 1)
        assert (one.values(0, 1) == values).all()
        assert (one.values(0, 1, single=True) == values[:, :, :1]).all()


def test_a_column_of_nothing_but_zeros_is_not_taken_for_a_missing_one(store):
    one = mask_set(0)
    one.packed_masks[:] = 0
    store.write_shard([ShardRecord(ImageFile("x", sha(0)), one)])
    assert store.verify() == []
    assert_same(store.read(sha(0)), one)


def test_plain_zarr_reads_it(store):
    records = [good(0), bad(1), good(2)]
    shard = store.write_shard(records)
    group = zarr.open_group(store.path, mode="r")
    tokens = group[f"shards/{shard}/tokens"]
    np.testing.assert_array_equal(
        tokens[...], np.stack([records[0].result.tokens, records[2].result.tokens])
    )
    assert group[f"shards/{shard}/features/encoder"].shape == (2, 4, 4, 3)
    assert group.attrs["usam"]["spec"] == SPEC
    # One file a column, one chunk an image.
    assert tokens.shards == tokens.shape
    assert tokens.chunks == (1, 4, 1024)


def test_the_index_says_everything_about_an_image(store):
    deep = ShardRecord(ImageFile("/a.tif", sha(5)), mask_set(5), "I;16", (3.0, 900.0))
    shard = store.write_shard([bad(4, "truncated"), deep])
    first, second = store.index().to_dict("records")
    assert np.isnan([first.pop("window_low"), first.pop("window_high")]).all()
    assert first == {
        "sha256": sha(4),
        "source": "/images/4.png",
        "height": 0,
        "width": 0,
        "status": "quarantined",
        "code": "truncated",
        "reason": "why",
        "row": -1,
        "mode": "",
        "shard": shard,
    }
    assert second == {
        "sha256": sha(5),
        "source": "/a.tif",
        "height": 15,
        "width": 25,
        "status": "ok",
        "code": "",
        "reason": "",
        "row": 0,
        "mode": "I;16",
        "window_low": 3.0,
        "window_high": 900.0,
        "shard": shard,
    }


def test_a_path_that_is_no_unicode_is_stored_readably(store):
    store.write_shard([ShardRecord(ImageFile("/caf\udce9.png", sha(0)), mask_set(0))])
    assert store.index()["source"].tolist() == ["/caf?.png"]


def test_the_index_that_is_given_out_is_the_callers(store):
    store.write_shard([good(0)])
    given = store.index()
    given.loc[0, "row"] = 99
    assert store.index()["row"].tolist() == [0]


def test_plan_gives_what_is_missing_once_in_order_cut_into_shards(store):
    store.write_shard([good(1), bad(2)])
    wanted = [sha(number) for number in (5, 1, 3, 5, 2, 4, 3, 0)]
    assert store.plan(wanted, 2) == [[sha(5), sha(3)], [sha(4), sha(0)]]
    assert store.plan(wanted, 64) == [[sha(5), sha(3), sha(4), sha(0)]]
    assert store.plan([sha(1), sha(2)], 2) == []
    with pytest.raises(ValueError, match="shard_size: expected at least 1, got 0"):
        store.plan(wanted, 0)


@pytest.mark.parametrize("code", ["missing", "unreadable", "changed"])
def test_a_quarantine_that_speaks_of_the_path_is_tried_again(store, code):
    store.write_shard([bad(0, code), bad(1, "truncated")])
    assert store.plan([sha(0), sha(1)]) == [[sha(0)]]
    store.write_shard([good(0)])
    assert store.plan([sha(0), sha(1)]) == []
    # Both shards hold the image; the one with masks counts.
    index = store.index()
    assert index["sha256"].is_unique
    assert index.set_index("sha256")["status"].to_dict() == {sha(0): "ok", sha(1): "quarantined"}
    assert_same(store.read(sha(0)), mask_set(0))


def test_an_image_in_two_shards_counts_once(store):
    store.write_shard([good(0), good(1)])
    store.write_shard([good(1), good(2)])
    assert sorted(store.index()["sha256"]) == [sha(0), sha(1), sha(2)]
    # Rows are counted in each shard as it was written, not as it counts.
    for number in range(3):
        assert_same(store.read(sha(number)), mask_set(number))


def test_the_same_shard_again_writes_nothing(store, monkeypatch):
    first = store.write_shard([good(0), bad(1)])
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("usam_core.store.store.fill_shard", lambda *_: pytest.fail("written"))
        assert store.write_shard([good(0), bad(1)]) == first
    assert before == {
        path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()
    }
    assert store.write_shard([bad(0), good(1)]) != first


def test_what_another_writes_is_seen_on_refresh(store, tmp_path):
    assert store.index().empty
    other = EmbeddingStore.create_or_open(tmp_path, SPEC)
    shard = other.write_shard([good(0)])
    assert store.index().empty
    assert store.index(refresh=True)["sha256"].tolist() == [sha(0)]
    other.drop_shard(shard)
    assert store.index(refresh=True).empty
    other.write_shard([good(7)])
    assert_same(store.read(sha(7)), mask_set(7))  # reading looks again by itself


def test_a_shard_dropped_and_written_again_by_another_is_read_anew(store, tmp_path):
    shard = store.write_shard([good(0)])
    store.read(sha(0))
    other = EmbeddingStore.create_or_open(tmp_path, SPEC)
    other.drop_shard(shard)
    again = mask_set(5)
    again.tokens[:] = 0
    assert other.write_shard([ShardRecord(ImageFile("x", sha(0)), again)]) == shard
    store.index(refresh=True)
    assert_same(store.read(sha(0)), again)


def test_each_encoder_has_its_own_folder(tmp_path):
    one = EmbeddingStore.create_or_open(tmp_path, SPEC)
    other = EmbeddingStore.create_or_open(tmp_path, {**SPEC, "points_per_side": 3})
    one.write_shard([good(0)])
    assert other.index().empty
    assert one.path.name == f"nano-{fingerprint(SPEC)[:16]}" == folder_name(SPEC)
    assert folder_name({"model": "../a b/"}).startswith("a-b-")
    assert EmbeddingStore.open(one.path).spec == SPEC


def test_find_and_open_make_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no embedding store"):
        EmbeddingStore.find(tmp_path, SPEC)
    with pytest.raises(FileNotFoundError, match="no embedding store"):
        EmbeddingStore.open(Path(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_killed_while_it_was_made(tmp_path):
    path = EmbeddingStore.create_or_open(tmp_path, SPEC).path
    (path / "zarr.json").unlink()
    with pytest.raises(FileNotFoundError, match="no embedding store"):
        EmbeddingStore.find(tmp_path, SPEC)
    assert EmbeddingStore.create_or_open(tmp_path, SPEC).spec == SPEC


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "expected at least one, each image once"),
        ([good(0), good(0)], "expected at least one, each image once"),
        ([good(0), good(1, d=5)], "all images of a shard need the same"),
        ([good(0), good(1, blocks=("encoder", "clip"))], "all images of a shard need the same"),
        ([good(0, blocks=("../x",))], "feature block '../x': expected letters"),
        ([good(0, blocks=("tokens",))], "feature block 'tokens': expected letters"),
    ],
)
def test_records_that_do_not_fit_together(store, records, said):
    with pytest.raises(ValueError, match=said):
        store.write_shard(records)
    assert list((store.path / "shards").iterdir()) == [store.path / "shards" / "zarr.json"]


def test_an_image_that_is_not_there_or_was_quarantined(store):
    store.write_shard([good(0), bad(1)])
    with pytest.raises(StoreError, match=f"{sha(9)} is not in the store; run `usam embed`"):
        store.read(sha(9))
    with pytest.raises(StoreError, match=f"{sha(1)} was quarantined"):
        store.read_rows([sha(0), sha(1)], ["tokens"])
