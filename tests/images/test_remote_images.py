"""Images behind URLs: listed and read from there, once, and never blamed for the network."""

import importlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from PIL import Image

from tests.conftest import write_tiny_project
from tests.image_server import ImageServer
from tests.images.test_imagestores_zarr import write_image
from usam_core.config.images import ImagesConfig
from usam_core.config.project import load_project
from usam_core.errors import InputError, TransientError, install
from usam_core.files import fsspec_io as opener
from usam_core.images.listing import row as listing_row
from usam_core.images.listing import scan as listing
from usam_core.images.listing.scan import list_images, list_names
from usam_core.images.read import UnusableImage, read_image
from usam_core.lineage.chain import read_chain
from usam_core.steps import STEPS, run_step
from usam_core.steps.images_to_label import labelled_images
from usam_core.steps.lineage_checks import check_chain


def png(color: str = "red", size: tuple[int, int] = (4, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def listed(url: str, cache: Path | None = None, **settings: object) -> dict[str, str]:
    table = list_images(ImagesConfig(path=url, **settings), url, cache)
    return dict(zip(table["path"], table["code"], strict=True))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Let failed requests be made again at once, and count files of this moment as settled."""
    monkeypatch.setattr(opener, "_WAITS", (0.0, 0.0))
    monkeypatch.setattr(opener, "SETTLED_NS", -(10**11))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Return the addresses whose bytes are read by listings."""
    seen: list[str] = []
    read = listing_row.open_bytes
    monkeypatch.setattr(listing_row, "open_bytes", lambda at: seen.append(at) or read(at))
    return seen


@pytest.fixture
def memory() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """Return what fills a store in memory and tells its URL."""
    system = fsspec.filesystem("memory")

    def fill(files: dict[str, bytes]) -> str:
        for name, content in files.items():
            system.pipe_file(f"/lab/{name}", content)
        return "memory://lab"

    yield fill
    system.rm("/", recursive=True)


@pytest.fixture
def web(tmp_path) -> Iterator[ImageServer]:
    """Return a web server of three images in two folders."""
    for name in ("a.png", "well 1/b.png", "well 1/deep/c.png"):
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(f"rgb({len(name)}, 0, 0)"))
        os.utime(path, (1e9, 1e9))
    with ImageServer(tmp_path / "site") as server:
        yield server


def test_a_store_is_listed_by_content_and_again_without_reading(memory, reads, tmp_path):
    files = {"b.png": png("blue"), "p/a.PNG": png(), "notes.txt": b"x", ".trash/c.png": png()}
    url, cache = memory(files), tmp_path / "cache.parquet"
    first = list_images(ImagesConfig(path=url), url, cache)
    assert first["path"].tolist() == ["b.png", "p/a.PNG"]
    assert first["sha256"].tolist() == [
        opener.hashlib.sha256(files[n]).hexdigest() for n in ("b.png", "p/a.PNG")
    ]
    assert sorted(reads) == ["memory://lab/b.png", "memory://lab/p/a.PNG"]
    reads.clear()
    assert list_images(ImagesConfig(path=url), url, cache).equals(first)
    assert reads == []
    memory({"b.png": png("green")})
    assert list_images(ImagesConfig(path=url), url, cache).loc[0, "sha256"] != first.iloc[0, 1]
    assert reads == ["memory://lab/b.png"]


def test_bad_files_of_a_store_are_rows_with_their_reason(memory):
    url = memory({"a.png": b"", "b.png": b"no image at all, but long", "c.png": png(size=(999, 9))})
    assert listed(url) == {"a.png": "empty", "b.png": "not_an_image", "c.png": "elongated"}


def test_a_name_that_would_leave_the_outputs_is_refused(memory, monkeypatch):
    url = memory({"a.png": png()})
    told = opener.FileInfo(3, 1, "stamp")
    monkeypatch.setattr(
        listing, "find_images", lambda *_: iter([("../../a.png", told), ("x//b.png", told)])
    )
    assert listed(url) == {"../../a.png": "bad_name", "x//b.png": "bad_name"}


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_of_a_stack_are_read_from_a_store(memory, compression):
    values = np.arange(2 * 3 * 20 * 30, dtype=np.uint16).reshape(2, 3, 20, 30)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        values,
        ome=True,
        photometric="minisblack",
        compression=compression,
        metadata={"axes": "TZYX"},
    )
    url = memory({"w.ome.tif": file.getvalue()})
    assert len(listed(url)) == 6
    rgb = read_image(f"{url}/w.ome.tif#t=1,z=2", window=(0, 3600)).rgb
    np.testing.assert_allclose(rgb[..., 0], values[1, 2] / 3600 * 255, atol=1)


def test_a_plane_that_is_named_beside_its_stack_is_listed_once(tmp_path):
    tifffile.imwrite(tmp_path / "w.tif", np.zeros((3, 20, 30), np.uint16), photometric="minisblack")
    names = ["w.tif", "w.tif#i=1"]
    table = list_names(ImagesConfig(path=str(tmp_path)), str(tmp_path), names)
    assert table["path"].tolist() == ["w.tif#i=0", "w.tif#i=1", "w.tif#i=2"]


def test_the_order_is_that_of_the_whole_paths(memory):
    names = ["a-b/x.png", "a.png", "a/z.png", "a/b/y.png", "a0.png", "ab/x.png"]
    assert list(listed(memory(dict.fromkeys(names, png())))) == sorted(names)


def test_sub_folders_and_patterns_hold_for_stores_too(memory):
    url = memory({"a.png": png(), "p/b.png": png(), "p/c.png": png()})
    assert list(listed(url, recursive=False)) == ["a.png"]
    globs = listing.Globs(["p/"], ["c.*"])
    table = list_images(ImagesConfig(path=url), url, globs=globs)
    assert table["path"].tolist() == ["p/b.png"]


@pytest.mark.parametrize("url", ["memory://nothing/here", "http://127.0.0.1:9/x/"])
def test_nothing_at_the_address(url):
    expected = InputError if url.startswith("memory") else TransientError
    with pytest.raises(expected, match=url):
        listed(url)


def test_a_web_server_is_listed_and_read(web, tmp_path):
    cache = tmp_path / "cache.parquet"
    names = ["a.png", "well%201/b.png", "well%201/deep/c.png"]
    assert listed(web.url, cache) == dict.fromkeys(names, "")
    assert sorted(web.reads) == names
    web.reads.clear()
    assert list(listed(web.url, cache)) == names
    assert web.reads == []
    assert read_image(f"{web.url}well%201/b.png").rgb[0, 0].tolist() == [12, 0, 0]


def test_a_server_that_tells_nothing_of_changes_is_read_again(web, tmp_path):
    web.without_times = True
    for _ in range(2):
        listed(web.url, tmp_path / "cache.parquet")
    assert web.reads.count("a.png") == 2


@pytest.mark.parametrize(("status", "code"), [(404, "missing"), (403, "unreadable")])
def test_a_file_that_is_not_to_be_had_is_quarantined(web, status, code):
    web.fails["a.png"] = status
    found = listed(web.url)
    assert (found["a.png"], found["well%201/b.png"]) == (code, "")
    with pytest.raises(UnusableImage) as error:
        read_image(f"{web.url}a.png")
    assert error.value.quarantined.code == code


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_failing_server_quarantines_no_image(web, status, tmp_path):
    web.fails["well%201/deep/c.png"] = status
    with pytest.raises(TransientError, match="try again"):
        listed(web.url, tmp_path / "cache.parquet")
    with pytest.raises(TransientError):
        read_image(f"{web.url}well%201/deep/c.png")
    # What was read before the failure is not read again.
    web.fails.clear()
    web.reads.clear()
    assert set(listed(web.url, tmp_path / "cache.parquet").values()) == {""}
    assert "a.png" not in web.reads


def test_a_page_that_fails_is_no_empty_folder(web):
    # fsspec's own `find` passes by folders that it cannot list.
    web.fails["well%201/deep/"] = 503
    with pytest.raises(TransientError):
        listed(web.url)


def test_a_short_failure_is_not_noticed(web):
    web.fails, web.only = {"*": 503}, 1
    assert set(listed(web.url).values()) == {""}


def test_a_server_that_is_gone(web):
    web.stop()
    with pytest.raises(TransientError, match="cannot be reached"):
        read_image(f"{web.url}a.png")


def test_only_some_files_are_in_flight(memory, monkeypatch):
    url = memory({f"{number:03}.png": png() for number in range(200)})
    monkeypatch.setattr(listing, "_BATCH", 1)  # else there is no more to hand out than threads
    now, most, lock = 0, 0, threading.Lock()
    read = listing_row.open_bytes

    def watched(address: str) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        content = read(address)
        with lock:
            now -= 1
        return content

    monkeypatch.setattr(listing_row, "open_bytes", watched)
    assert len(listed(url)) == 200
    assert 1 < most <= listing._THREADS


@pytest.mark.parametrize(
    ("url", "module", "said"),
    [
        ("s3://lab/x", "s3fs", f"run: {install('s3')}"),
        ("gs://lab/x", "gcsfs", f"run: {install('gs')}"),
        ("nosuch://lab/x", "", "expected a local path or a URL"),
    ],
)
def test_a_missing_package_is_named(url, module, said, monkeypatch):
    if module:
        monkeypatch.setitem(sys.modules, module, None)
        known = importlib.import_module("fsspec.registry")._registry
        monkeypatch.delitem(known, url.partition("://")[0], raising=False)
    with pytest.raises(InputError) as error:
        listed(url)
    assert said in str(error.value)


def test_lists_lie_behind_urls_too(memory, tmp_path):
    coco = {"images": [{"file_name": "a.png"}, {"file_name": "gone.png"}]}
    url = memory({"a.png": png(), "b.png": png(), "c.json": json.dumps(coco).encode()})
    file = tmp_path / "project.yaml"
    settings = {"classes": ["x", "y"], "training": {"source": "render"}}
    file.write_text(yaml.safe_dump({**settings, "images": {"path": f"{url}/c.json"}}))
    table = labelled_images(load_project(file)).set_index("path")
    assert table["code"].to_dict() == {"a.png": "", "gone.png": "missing"}


@pytest.mark.slow
def test_a_store_is_labelled_like_a_folder(tmp_path, memory):
    file = write_tiny_project(tmp_path)
    images = tmp_path / "images"
    with Image.open(images / "s3.png") as picture:
        values = np.asarray(picture).transpose(2, 0, 1)
    write_image(zarr.open_group(images / "s3.zarr"), values, "cyx")
    (images / "s3.png").unlink()
    files = [path for path in images.rglob("*") if path.is_file()]
    url = memory({path.relative_to(images).as_posix(): path.read_bytes() for path in files})
    images.rename(tmp_path / "elsewhere")
    local = file.read_text()
    file.write_text(local.replace("path: images", f"path: {url}"))
    project = load_project(file)
    for step in STEPS:
        run_step(step, project)
    results = project.out / "annotate"
    assert len(list((results / "masks").glob("*.png"))) == 4
    assert len(list((results / "overlays").iterdir())) == 2
    assert (project.out / "evaluate" / "contact_sheet.png").exists()
    assert json.loads((results / "lineage.json").read_text())["inputs"]["images"]["path"] == url
    chain = read_chain(results / "coco.json")
    found = {one.name: (one.verdict, one.text) for one in check_chain(chain)}
    assert found["labels"] == found["images"] == ("ok", "4 files")
    fsspec.filesystem("memory").pipe_file("/lab/s0.png", png())
    (broken,) = (one for one in check_chain(chain) if one.verdict == "broken")
    assert broken.text.startswith(f"{url}/s0.png: expected SHA-256")
    # The same images in a folder are known by their content.
    (tmp_path / "elsewhere").rename(images)
    file.write_text(local)
    assert run_step("embed", load_project(file)).summary["embedded"] == 0
    assert run_step("annotate", load_project(file)).summary["labelled"] == 0
