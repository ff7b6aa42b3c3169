"""The listing is of contents, reads only what changed, and loses nothing in silence."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.errors import InputError
from usam_core.images.listing import row as listing_row
from usam_core.images.listing import scan as listing
from usam_core.images.listing.row import Row, batch_of
from usam_core.images.listing.scan import (
    COLUMNS,
    list_files,
    list_images,
    read_remembered,
    write_remembered,
)
from usam_core.images.read import UnusableImage, read_image


def picture(path: Path, color: str = "red", *, old: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), color).save(path)
    if old:
        os.utime(path, (1e9, 1e9))
    return path


def config(root: Path, **settings: object) -> ImagesConfig:
    return ImagesConfig(path=root, **settings)


@pytest.fixture
def settled(monkeypatch):
    """Let a file count as settled at once: the change time cannot be set back in a test."""
    monkeypatch.setattr(listing_row, "SETTLED_NS", -(10**10))


@pytest.fixture
def read_files(monkeypatch) -> list[str]:
    """Return the names of the files that were hashed, as they are."""
    names: list[str] = []
    key = listing_row.file_key

    def counting(path: str, file: BinaryIO) -> str:
        names.append(Path(path).name)
        return key(path, file)

    monkeypatch.setattr(listing_row, "file_key", counting)
    return names


def test_paths_digests_and_order(tmp_path):
    for name in ("b.png", "a/z.jpg", "a.JPEG", "a/deep/x.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    table = list_images(config(tmp_path), tmp_path)
    assert list(table.columns) == COLUMNS
    assert table["path"].tolist() == ["a.JPEG", "a/deep/x.png", "a/z.jpg", "b.png"]
    content = (tmp_path / "b.png").read_bytes()
    last = table.iloc[-1]
    assert last["sha256"] == sha256(content).hexdigest()
    assert last["bytes"] == len(content)
    assert last["mtime_ns"] == 10**18
    assert (last["status"], last["code"], last["reason"]) == ("ok", "", "")


def test_sub_folders_and_endings_are_settings(tmp_path):
    for name in ("a.png", "b.jpg", "sub/c.png"):
        picture(tmp_path / name)
    flat = list_images(config(tmp_path, recursive=False), tmp_path)
    assert flat["path"].tolist() == ["a.png", "b.jpg"]
    pngs = list_images(config(tmp_path, extensions=[".PNG"]), tmp_path)
    assert pngs["path"].tolist() == ["a.png", "sub/c.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a.png", "._a.png", ".partial-a.png", ".trash/b.png"):
        picture(tmp_path / name)
    assert list_images(config(tmp_path), tmp_path)["path"].tolist() == ["a.png"]


def test_an_empty_folder_is_an_empty_table(tmp_path):
    table = list_images(config(tmp_path), tmp_path, tmp_path / "cache.parquet")
    assert (len(table), list(table.columns)) == (0, COLUMNS)


@pytest.mark.parametrize(("name", "said"), [("none", "there is none"), ("file", "something else")])
def test_a_root_that_is_no_folder(tmp_path, name, said):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=said):
        list_images(config(tmp_path), tmp_path / name)


def test_bad_files_are_rows_with_their_reason(tmp_path):
    picture(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image at all, but long enough")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    Image.new("1", (2000, 1000)).save(tmp_path / "wide.png")
    table = list_images(config(tmp_path, max_megapixels=1), tmp_path).set_index("path")
    assert table["code"].to_dict() == {
        "dangling.png": "missing",
        "empty.png": "empty",
        "good.png": "",
        "pipe.png": "unreadable",
        "text.png": "not_an_image",
        "wide.png": "too_large",
    }
    assert (table["status"] == "quarantined").sum() == 5
    # What has bytes has a digest; what has none has none.
    assert table["sha256"].isna().to_dict() == {
        name: name in ("dangling.png", "pipe.png") for name in table.index
    }


def test_a_name_that_is_no_unicode(tmp_path):
    content = picture(tmp_path / "a.png").read_bytes()
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(content)
    cache = tmp_path / "cache.parquet"
    table = list_images(config(tmp_path), tmp_path, cache).set_index("path")
    assert table["code"].to_dict() == {"a.png": "", "caf?.png": "bad_name"}
    assert cache.exists()


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path, monkeypatch):
    picture(tmp_path / "open/a.png")
    picture(tmp_path / "shut/b.png")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    table = list_images(config(tmp_path), tmp_path).set_index("path")
    assert table["code"].to_dict() == {"open/a.png": "", "shut": "unreadable"}
    assert "cannot be listed" in table.loc["shut", "reason"]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    picture(root / "a.png")
    picture(other / "b.png")
    (root / "link").symlink_to(other)
    (other / "back").symlink_to(root)
    assert list_images(config(root), root)["path"].tolist() == ["a.png", "link/b.png"]


@pytest.mark.usefixtures("settled")
def test_a_second_listing_reads_only_what_changed(tmp_path, read_files):
    root, cache = tmp_path / "images", tmp_path / "cache.parquet"
    for name in ("a.png", "b.png", "c.png"):
        picture(root / name)
    first = list_images(config(root), root, cache)
    assert sorted(read_files) == ["a.png", "b.png", "c.png"]
    read_files.clear()
    assert list_images(config(root), root, cache).equals(first)
    assert read_files == []
    picture(root / "b.png", "blue")
    picture(root / "d.png")
    (root / "c.png").unlink()
    third = list_images(config(root), root, cache)
    assert sorted(read_files) == ["b.png", "d.png"]
    assert third["path"].tolist() == ["a.png", "b.png", "d.png"]
    assert third.loc[1, "sha256"] != first.loc[1, "sha256"]


@pytest.mark.usefixtures("settled")
def test_same_size_and_same_modification_time_do_not_hide_a_change(tmp_path):
    path = tmp_path / "images" / "a.bmp"
    picture(path, "red")
    cache = tmp_path / "cache.parquet"
    first = list_images(config(path.parent), path.parent, cache)
    time.sleep(0.02)
    picture(path, "blue")  # a bitmap of the same size, its time set back to the same second
    second = list_images(config(path.parent), path.parent, cache)
    assert second.loc[0, "mtime_ns"] == first.loc[0, "mtime_ns"]
    assert second.loc[0, "bytes"] == first.loc[0, "bytes"]
    assert second.loc[0, "sha256"] != first.loc[0, "sha256"]


def test_a_file_written_just_now_is_read_again(tmp_path, read_files):
    cache = tmp_path / "cache.parquet"
    picture(tmp_path / "a.png", old=False)
    for _ in range(2):
        list_images(config(tmp_path), tmp_path, cache)
    assert read_files == ["a.png", "a.png"]


@pytest.mark.usefixtures("settled")
def test_another_limit_on_pixels_gives_another_verdict(tmp_path):
    cache = tmp_path / "cache.parquet"
    Image.new("1", (2000, 1000)).save(tmp_path / "wide.png")
    for limit, code in ((1, "too_large"), (2, ""), (1, "too_large")):
        table = list_images(config(tmp_path, max_megapixels=limit), tmp_path, cache)
        assert table["code"].tolist() == [code]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["rubbish", "flip", "truncate"])
def test_a_damaged_cache_is_not_believed(tmp_path, damage):
    root, cache = tmp_path / "images", tmp_path / "cache.parquet"
    for number in range(20):
        picture(root / f"{number:02d}.png", f"rgb({number}, 0, 0)")
    first = list_images(config(root), root, cache)
    content = bytearray(cache.read_bytes())
    digits = first.loc[7, "sha256"].encode()
    place = content.find(digits[:20])
    if damage == "rubbish":
        content = bytearray(b"rubbish")
    elif damage == "truncate":
        del content[len(content) // 2 :]
    else:
        content[place if place >= 0 else 40] ^= 1
    cache.write_bytes(content)
    assert list_images(config(root), root, cache).equals(first)


@pytest.mark.usefixtures("settled")
def test_a_listing_that_is_killed_goes_on_from_its_last_saving(tmp_path, read_files, monkeypatch):
    root, cache = tmp_path / "images", tmp_path / "cache.parquet"
    for number in range(6):
        picture(root / f"{number}.png")
    monkeypatch.setattr(listing, "_SAVE_EVERY", 2)

    class KilledError(Exception):
        pass

    def die_at_the_fifth(path: str, *_: object) -> None:
        if Path(path).name == "4.png":
            raise KilledError

    monkeypatch.setattr(listing_row, "check_image", die_at_the_fifth)
    with pytest.raises(KilledError):
        list_images(config(root), root, cache)
    read_files.clear()
    monkeypatch.setattr(listing_row, "check_image", lambda *_: None)
    assert len(list_images(config(root), root, cache)) == 6
    assert sorted(read_files) == ["4.png", "5.png"]


@pytest.mark.usefixtures("settled")
def test_what_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    cache = tmp_path / "cache.parquet"
    picture(tmp_path / "a.png")

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(listing_row, "file_key", refuse)
        assert list_images(config(tmp_path), tmp_path, cache)["code"].tolist() == ["unreadable"]
    assert list_images(config(tmp_path), tmp_path, cache)["code"].tolist() == [""]


def test_progress_counts_the_files(tmp_path):
    class Counting:
        def __init__(self) -> None:
            self.total, self.done = 0, 0

        @contextmanager
        def bar(self, what: str, total: int | None) -> Iterator["Counting"]:
            self.total = total
            yield self

        def advance(self, count: int = 1) -> None:
            self.done += count

    for number in range(3):
        picture(tmp_path / f"{number}.png")
    progress = Counting()
    list_images(config(tmp_path), tmp_path, None, progress)
    assert (progress.total, progress.done) == (3, 3)


def test_what_the_listing_passes_by_the_reader_finds(tmp_path):
    # The header is whole, the pixels are not: the listing says ok, `read_image` quarantines.
    path = picture(tmp_path / "a.bmp")
    path.write_bytes(path.read_bytes()[:-5])
    assert list_images(config(tmp_path), tmp_path)["status"].tolist() == ["ok"]
    with pytest.raises(UnusableImage):
        read_image(path)


def stack(path: Path, planes: int = 3) -> Path:
    values = np.arange(planes * 20, dtype=np.uint8).reshape(planes, 4, 5)
    tifffile.imwrite(path, values, ome=True, metadata={"axes": "ZYX"})
    os.utime(path, (1e9, 1e9))
    return path


@pytest.mark.usefixtures("settled")
def test_a_file_of_several_planes_has_a_row_and_a_key_for_each(tmp_path, read_files):
    root, cache = tmp_path / "images", tmp_path / "cache.parquet"
    picture(root / "b.png")
    stack(root / "a.ome.tif")
    first = list_images(config(root), root, cache)
    names = [f"a.ome.tif#z={n}" for n in range(3)]
    assert first["path"].tolist() == [*names, "b.png"]
    assert first["sha256"].nunique() == 4
    assert first["sha256"].iloc[-1] == sha256((root / "b.png").read_bytes()).hexdigest()
    assert list(first.columns) == COLUMNS
    for row in first.itertuples():
        assert read_image(f"{root}/{row.path}", sha256=row.sha256).rgb.shape[2] == 3
    read_files.clear()
    assert list_images(config(root), root, cache).equals(first)
    assert read_files == []
    # Another projection is another list, of the same file, which is not read again.
    flat = list_images(config(root, projection="max"), root, cache)
    assert flat["path"].tolist() == ["a.ome.tif", "b.png"]
    assert flat["sha256"].iloc[0] == sha256((root / "a.ome.tif").read_bytes()).hexdigest()
    assert read_files == []


def test_a_plane_can_be_named_and_one_that_is_not_there_is_told(tmp_path):
    root = tmp_path
    stack(root / "a.tif")
    names = ["a.tif#z=2", "a.tif#z=7", "b.tif#z=0"]
    table = list_files(config(root), [(name, root / name) for name in names])
    assert table["path"].tolist() == names
    assert table["code"].tolist() == ["", "no_plane", "missing"]
    every = list_images(config(root), root).set_index("path")
    assert table["sha256"].iloc[0] == every.loc["a.tif#z=2", "sha256"]


@pytest.mark.usefixtures("settled")
def test_zarr_folders_are_images_and_a_changed_chunk_is_seen(tmp_path):
    root, cache = tmp_path / "images", tmp_path / "cache.parquet"
    values = np.arange(40, dtype=np.uint8).reshape(2, 4, 5)
    zarr.create_array(root / "a.zarr", data=values, dimension_names=["i", "y", "x"])
    zarr.open_group(root / "sub/two.zarr", mode="w").create_array("x", data=values[0])
    (root / "bad.zarr").mkdir()
    (root / "bad.zarr" / "zarr.json").write_text("rubbish")
    first = list_images(config(root), root, cache).set_index("path")
    names = ["a.zarr#i=0", "a.zarr#i=1", "bad.zarr", "sub/two.zarr/x"]
    assert first.index.tolist() == names
    assert first["status"].tolist() == ["ok", "ok", "quarantined", "ok"]
    assert list_images(config(root), root, cache).set_index("path").equals(first)
    zarr.open_array(root / "a.zarr", mode="r+")[1, 0, 0] = 99
    second = list_images(config(root), root, cache).set_index("path")
    assert second.loc["a.zarr#i=1", "sha256"] != first.loc["a.zarr#i=1", "sha256"]
    assert second.loc["sub/two.zarr/x", "sha256"] == first.loc["sub/two.zarr/x", "sha256"]
    with pytest.raises(UnusableImage) as caught:
        read_image(f"{root}/a.zarr#i=1", sha256=first.loc["a.zarr#i=1", "sha256"])
    assert caught.value.quarantined.code == "changed"


def test_what_a_listing_has_not_reached_stays_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_GROUP", 2)  # so that the rows come in several batches
    rows = [Row(f"{number}.png", "ab" * 32, number) for number in range(5)]
    cache = tmp_path / "cache.parquet"
    write_remembered(cache, [batch_of(rows[:3]), batch_of(rows[3:])])
    known = read_remembered(cache)
    assert len(known) == 5
    assert known.rows(["3.png", "new.png", "0.png"]) == {"0.png": rows[0], "3.png": rows[3]}
    left = [path for batch in known.left() for path in batch["path"].to_pylist()]
    assert left == ["1.png", "2.png", "4.png"]
    assert known.rows(["1.png", "2.png", "4.png"]).keys() == set(left)
    assert list(known.left()) == []
