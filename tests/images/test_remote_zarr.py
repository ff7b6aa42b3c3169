"""Zarr behind URLs: listed where nothing can be listed, the same image as on the disk."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

from tests import image_server
from tests.image_server import ImageServer
from tests.images.test_imagestores_zarr import image, noise
from usam_core.config.images import ImagesConfig
from usam_core.errors import StoreAccessError, TransientError
from usam_core.files import fsspec_io as opener
from usam_core.images.listing import content, remote_zarr
from usam_core.images.listing.content import content_key, is_zarr_url
from usam_core.images.listing.scan import list_images, list_names
from usam_core.images.listing.walk import Globs
from usam_core.images.read import UnusableImage, read_image

VALUES = noise((2, 3, 1, 20, 30), "uint16")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Let failed requests be made again at once, and count files of this moment as settled."""
    monkeypatch.setattr(opener, "_WAITS", (0.0, 0.0))
    monkeypatch.setattr(opener, "SETTLED_NS", -(10**11))
    content._MARKS.clear()


@pytest.fixture
def site(tmp_path) -> Path:
    """Return a folder of plain arrays, images of both versions, and groups of either."""
    folder = tmp_path / "site"
    image(folder / "old.zarr", VALUES, "0.4")
    image(folder / "new.zarr", VALUES, "0.5")
    stack = {"chunks": (1, 16, 16), "dimension_names": ["i", "y", "x"]}
    zarr.create_array(folder / "p" / "plain.zarr", data=VALUES[0, :, 0], **stack)
    sharded = {"chunks": (8, 8), "shards": (16, 16)}
    zarr.create_array(folder / "sharded.zarr", data=VALUES[0, 0, 0], **sharded)
    # Chunks of nothing but zeros are not written.
    zarr.create_array(folder / "empty.zarr", shape=(20, 30), dtype="uint8", chunks=(16, 16))
    for name in ("silent", "said"):
        group = zarr.open_group(folder / f"{name}.zarr", mode="w", zarr_format=2)
        group.create_array("a", data=VALUES[0, 0, 0], chunks=(16, 16))
        group.create_array("b", data=VALUES[1, 0, 0], chunks=(16, 16))
    zarr.consolidate_metadata(folder / "said.zarr")
    return folder


@pytest.fixture
def memory(site) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    system.put(str(site), "/lab", recursive=True)
    yield "memory://lab"
    system.rm("/", recursive=True)


@pytest.fixture
def web(site) -> Iterator[ImageServer]:
    with ImageServer(site) as server:
        yield server


@pytest.fixture
def blind(web, monkeypatch) -> ImageServer:
    """Return a web server that shows no folder."""
    monkeypatch.setattr(
        image_server._Handler, "list_directory", lambda handler, _: handler.send_error(404)
    )
    return web


def by_path(table):
    return dict(zip(table["path"], zip(table["code"], table["sha256"], strict=True), strict=True))


def local(site):
    return by_path(list_images(ImagesConfig(path=str(site)), site))


@pytest.mark.parametrize("where", ["memory", "web"])
def test_the_same_images_as_on_the_disk(site, where, request):
    store = request.getfixturevalue(where)
    url = store if isinstance(store, str) else store.url
    found = by_path(list_images(ImagesConfig(path=url), url))
    on_disk = local(site)
    if where == "web":
        # The server here is one that sends whole files alone.
        assert found.pop("sharded.zarr") == ("unsupported", on_disk.pop("sharded.zarr")[1])
        with pytest.raises(UnusableImage, match="HTTP ranges"):
            read_image(f"{url}sharded.zarr")
    else:
        assert read_image(f"{url}/sharded.zarr").rgb.shape == (20, 30, 3)
    assert found == on_disk
    assert {code for code, _ in found.values()} == {""}
    assert len(found) == 6 + 6 + 3 + 1 + 2 + 2 + (where == "memory")
    address = f"{url.rstrip('/')}/old.zarr#t=1,z=2"
    assert content_key(address) == found["old.zarr#t=1,z=2"][1]
    rgb = read_image(address, window="full", sha256=found["old.zarr#t=1,z=2"][1]).rgb
    expected = read_image(f"{site}/old.zarr#t=1,z=2", window="full").rgb
    np.testing.assert_array_equal(rgb, expected)
    assert len(list_images(ImagesConfig(path=url), url, globs=Globs(["p/"]))) == 3


def test_images_that_are_named_need_no_listing(site, blind):
    names = ["new.zarr", "p/plain.zarr", "said.zarr/b", "silent.zarr/b"]
    found = by_path(list_names(ImagesConfig(path=blind.url), blind.url, names))
    on_disk = by_path(list_names(ImagesConfig(path=str(site)), str(site), names))
    assert found == on_disk
    assert len(found) == 6 + 3 + 1 + 1
    assert read_image(f"{blind.url}p/plain.zarr#i=2").rgb.shape == (20, 30, 3)


def test_a_group_that_cannot_be_listed_says_what_to_do(blind):
    names = ["said.zarr", "silent.zarr", "gone.zarr"]
    table = list_names(ImagesConfig(path=blind.url), blind.url, names).set_index("path")
    assert table["code"].to_dict() == {
        "said.zarr": "unsupported",
        "silent.zarr": "unsupported",
        "gone.zarr": "missing",
    }
    assert "expected the address of one, such as" in table.loc["said.zarr", "reason"]
    assert f"{blind.url}said.zarr/a" in table.loc["said.zarr", "reason"]
    assert "consolidate_metadata" in table.loc["silent.zarr", "reason"]
    assert remote_zarr.images_behind(f"{blind.url}said.zarr") == ["a", "b"]
    with pytest.raises(UnusableImage, match="in a store that lists nothing there"):
        remote_zarr.images_behind(f"{blind.url}silent.zarr")


def test_what_did_not_change_is_not_read_again(memory, tmp_path, monkeypatch):
    cache, config = tmp_path / "cache.parquet", ImagesConfig(path=memory)
    first = list_images(config, memory, cache)
    reads = []
    read = remote_zarr.open_bytes
    monkeypatch.setattr(remote_zarr, "open_bytes", lambda at: reads.append(at) or read(at))
    assert list_images(config, memory, cache).equals(first)
    assert reads == []
    zarr.open_array(f"{memory}/sharded.zarr", mode="r+")[3, 3] += 1
    second = list_images(config, memory, cache)
    changed = first["path"][first["sha256"] != second["sha256"]].tolist()
    assert changed == ["sharded.zarr"]
    assert {at.rpartition("/c/")[0] or at for at in reads} == {
        f"{memory}/sharded.zarr",
        f"{memory}/sharded.zarr/zarr.json",
    }


def test_an_image_that_changed_since_it_was_listed_is_not_read(memory):
    key = content_key(f"{memory}/sharded.zarr")
    zarr.open_array(f"{memory}/sharded.zarr", mode="r+")[3, 3] += 1
    content._MARKS.clear()
    with pytest.raises(UnusableImage) as caught:
        read_image(f"{memory}/sharded.zarr", sha256=key)
    assert caught.value.quarantined.code == "changed"


@pytest.mark.slow
def test_damage_is_the_images_and_the_network_is_nobodys(site, web):
    (site / "new.zarr" / "0" / "zarr.json").write_text('{"zarr_format": 3,')
    shutil.rmtree(site / "sharded.zarr" / "c")
    (site / "sharded.zarr" / "zarr.json").write_text("{}")
    found = by_path(list_images(ImagesConfig(path=web.url), web.url))
    assert found["new.zarr"][0] == "truncated"
    assert found["sharded.zarr"][0] in ("missing", "truncated", "undecodable", "unsupported")
    web.fails["p/plain.zarr/c/1/0/0"] = 503
    with pytest.raises(TransientError, match="503"):
        list_images(ImagesConfig(path=web.url), web.url)
    with pytest.raises(TransientError, match="503"):
        read_image(f"{web.url}p/plain.zarr#i=1")
    web.fails.clear()
    web.fails["p/plain.zarr/zarr.json"] = 403
    table = list_names(ImagesConfig(path=web.url), web.url, ["p/plain.zarr"])
    assert table["code"].tolist() == ["unreadable"]


def test_which_urls_are_of_zarr():
    assert is_zarr_url("https://a/b/Plate.ZARR")
    assert is_zarr_url("s3://lab/plate.zarr/A/1/0/")
    assert not is_zarr_url("s3://lab/plate.zarr/thumb.png")
    assert not is_zarr_url("s3://lab/zarr")
    assert not is_zarr_url("/lab/plate.zarr")


@pytest.mark.parametrize("lasts", [1, 4])
def test_keys_that_expire_in_the_midst_stop_the_run_and_leave_no_image_out(
    memory, monkeypatch, lasts
):
    def expired(address, call):
        nonlocal lasts
        lasts -= 1
        if lasts < 0:
            raise StoreAccessError(f"{address}: ExpiredToken; expected keys")
        return call()

    address = f"{memory}/sharded.zarr"
    for module in (opener, remote_zarr):
        monkeypatch.setattr(module, "try_again", expired)
    with pytest.raises(StoreAccessError, match="ExpiredToken"):
        read_image(address)
    with pytest.raises(StoreAccessError, match="ExpiredToken"):
        list_images(ImagesConfig(path=memory), memory)


def test_many_threads_look_once_at_an_image_that_takes_long_to_look_at(memory, monkeypatch):
    looks = []

    def slow(address):
        looks.append(address)
        time.sleep(0.2)
        return opener.FileInfo(None, 0, "mark")

    monkeypatch.setattr(content, "url_info", slow)
    monkeypatch.setattr(content, "_TRUSTED_S", 0.1)
    address = f"{memory}/sharded.zarr"
    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(content.content_mark, [address] * 16)} == {"mark"}
    assert looks == [address]
