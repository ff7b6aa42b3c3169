"""Files made to do harm: each becomes a verdict, within little memory, and the process lives on."""

import io
import json
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from usam_core.images.read import UnusableImage, read_image
from usam_core.images.stores import apart as apart_module
from usam_core.images.stores.apart import apart
from usam_core.images.stores.codecs import _decode
from usam_core.images.stores.limits import FREE, MAX, check_count, check_values
from usam_core.truth.voc import VocTruth

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MAX_MIB = 400
"""Over what the process took before; 1 GB is what is promised."""
READ_ALL = f"""
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
import fuzz
from usam_core.images.stores import factory, zarr_store, tiff
def status(word):
    said = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in said if line.startswith(word)) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + 2**31, -1))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    fuzz._forget_peak()
    before = fuzz._peak_mib()
    try:
        found = fuzz._read_all(folder, None)
    except BaseException as error:
        found = dict(end="error", error=repr(error))
    print(json.dumps(dict(found, name=folder.name, mib=fuzz._peak_mib() - before)), flush=True)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@pytest.fixture
def fuzz(monkeypatch):
    """Return the module of the harness; it finds its parts beside it, as when it is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz

    return fuzz


def ome(path: Path, change: str, into: str) -> None:
    """Write an OME-TIFF of two planes whose XML says something else."""
    file = io.BytesIO()
    values = np.zeros((2, 40, 56), np.uint16)
    tifffile.imwrite(file, values, ome=True, metadata={"axes": "ZYX"}, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        said = tiff.ome_metadata
    changed = re.sub(change, into, said)
    assert changed != said
    tifffile.imwrite(
        path, values, description=changed.encode(), metadata=None, compression="zlib", ome=False
    )


def tags(path: Path, number: int = 0, **changed: int) -> None:
    """Change the values of tags of one page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in changed.items():
            file.pages[number].tags[name].overwrite(value)


def write_tiffs(folder: Path) -> None:
    deep, place = np.zeros((40, 56), np.uint16), folder / "a.tif"
    kind = folder.name
    if kind == "ome_planes":
        ome(folder / "a.ome.tif", 'SizeZ="2"', 'SizeZ="1000000000"')
    elif kind == "ome_some_planes":
        ome(folder / "a.ome.tif", 'SizeZ="2"', 'SizeZ="1000000"')
    elif kind == "ome_rows":
        ome(folder / "a.ome.tif", 'SizeY="40"', 'SizeY="2000000000"')
    elif kind == "ome_count":
        ome(folder / "a.ome.tif", 'PlaneCount="2"', 'PlaneCount="1000000000"')
    elif kind == "imagej":
        said = "ImageJ=1.11a\nimages=1000000000\nslices=1000000000\nhyperstack=true\n"
        tifffile.imwrite(place, np.stack([deep] * 2), description=said, metadata=None)
    elif kind == "shaped":
        said = json.dumps({"shape": [1000000000, 40, 56]})
        tifffile.imwrite(place, deep, description=said, metadata=None)
    elif kind == "rows":
        tifffile.imwrite(place, deep, metadata=None)
        tags(place, ImageLength=3400)
    elif kind == "tile":
        tifffile.imwrite(place, deep, metadata=None, compression="zlib", tile=(16, 16))
        tags(place, TileWidth=32_768, TileLength=32_768)
    elif kind == "compressed":
        tifffile.imwrite(place, np.zeros((40, 56, 3), "u2"), photometric="rgb", compression="lzw")
        tags(place, ImageWidth=9000, ImageLength=9000, RowsPerStrip=9000)
    elif kind == "jpeg":
        stack = np.zeros((2, 64, 64), "u1")
        tifffile.imwrite(place, stack, photometric="minisblack", compression="jpeg", tile=(64, 64))
        content = place.read_bytes()
        size = b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 64, 64)
        assert size in content
        place.write_bytes(content.replace(size, size[:5] + struct.pack(">HH", 60000, 60000)))


TIFFS = (
    *("ome_planes", "ome_some_planes", "ome_rows", "ome_count", "imagej", "shaped", "rows", "tile"),
    *("compressed", "jpeg"),
)
NOTHING = 300 * 2**20
"""So many zeros are what a chunk of a few values holds."""
ZARRS = {
    "planes": {"shape": [10**9, 96, 128], "chunks": [1, 96, 128]},
    "some_planes": {"shape": [10**6, 96, 128], "chunks": [1, 96, 128]},
    "chunk": {"shape": [1, 9000, 9000], "chunks": [1000, 9000, 9000]},
    "plane": {"shape": [1, 9900, 9900], "chunks": [1, 100, 100], "dtype": "<f8"},
    "chunks": {"shape": [1, 7000, 7000], "chunks": [1, 1, 1]},
    "channels": {"shape": [1, 96, 128, 10**9], "chunks": [1, 96, 128, 1]},
    "zstd": {"compressor": {"id": "zstd", "level": 1}},
    "gzip": {"compressor": {"id": "gzip", "level": 1}},
    "zlib": {"compressor": {"id": "zlib", "level": 1}},
    "bz2": {"compressor": {"id": "bz2", "level": 1}},
    "lz4": {"compressor": {"id": "lz4"}},
    "blosc": {"compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0}},
}


def write_zarr(folder: Path, said: dict) -> None:
    array = folder / "a.zarr"
    array.mkdir()
    plain = {"zarr_format": 2, "shape": [1, 20, 28], "chunks": [1, 20, 28], "dtype": "|u1"}
    plain |= {"fill_value": 0, "order": "C", "filters": None, "compressor": None}
    (array / ".zarray").write_text(json.dumps(plain | said))
    if "compressor" in said:
        codec = numcodecs.get_codec(said["compressor"])
        (array / "0.0.0").write_bytes(codec.encode(bytes(NOTHING)))
    else:
        (array / "0.0.0").write_bytes(b"\0" * 100)


def write_group(folder: Path, said: dict, zarr_format: int = 2) -> None:
    zarr.open_group(folder / "a.zarr", mode="w", zarr_format=zarr_format).attrs.update(said)


def write_others(folder: Path) -> None:
    kind = folder.name
    if kind == "wells":
        write_group(folder, {"plate": {"wells": [{"path": f"A/{n}"} for n in range(10**6)]}})
    elif kind == "same_well":
        zarr.open_group(folder / "a.zarr/A", mode="w", zarr_format=2).attrs["plate"] = {
            "wells": [{"path": ""}] * 100
        }
        write_group(folder, {"plate": {"wells": [{"path": "A"}] * 100}})
    elif kind == "v3_planes":
        shape, names = (10**9, 96, 128), ["i", "y", "x"]
        zarr.create_array(
            folder / "a.zarr", shape=shape, chunks=(1, 96, 128), dtype="u1", dimension_names=names
        )
    elif kind == "shard":
        shape = (1, 8192, 8192)
        zarr.create_array(
            folder / "a.zarr", shape=shape, chunks=(1, 1, 1), shards=shape, dtype="u1",
            dimension_names=["i", "y", "x"],
        )  # fmt: skip
        (folder / "a.zarr/c/0/0").mkdir(parents=True)
        (folder / "a.zarr/c/0/0/0").write_bytes(bytes(1000))
    elif kind == "png":
        (folder / "a.png").write_bytes(png(9900, 9900))
    elif kind == "png16":
        (folder / "a.png").write_bytes(png(9900, 9900, 16))
    elif kind == "pages":
        with tifffile.TiffWriter(folder / "a.tif") as file:
            for _ in range(20_000):
                file.write(np.zeros((8, 8), np.uint8), metadata=None, contiguous=False)


OTHERS = ("wells", "same_well", "v3_planes", "shard", "png", "png16", "pages")


def png(width: int, height: int, bits: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">2I5B", width, height, bits, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Return what became of each file, read in a process whose memory is limited."""
    root = tmp_path_factory.mktemp("bombs")
    for name in (*TIFFS, *ZARRS, *OTHERS):
        (root / name).mkdir()
    for name in TIFFS:
        write_tiffs(root / name)
    for name, said in ZARRS.items():
        write_zarr(root / name, said)
    for name in OTHERS:
        write_others(root / name)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(root)], capture_output=True, text=True, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.returncode, [one["name"] for one in found], done.stderr)
    return {one["name"]: one for one in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TIFFS, *ZARRS, *(n for n in OTHERS if n != "pages")])
def test_a_bomb_is_a_verdict_within_little_memory(bombs, name):
    found = bombs[name]
    assert found["mib"] < MAX_MIB, found
    if name == "imagej":  # its library looks at the pages alone when the text cannot be right
        assert found["end"] == "read"
        return
    assert found["end"] == "quarantined", found
    assert found["code"] in ("implausible", "truncated", "unsupported", "no_values"), found


@pytest.mark.slow
def test_twenty_thousand_pages_are_so_many_images(bombs):
    assert bombs["pages"]["end"] == "read"
    assert bombs["pages"]["mib"] < MAX_MIB


BLOSC = numcodecs.Blosc("lz4", clevel=5, shuffle=1).encode(np.arange(560, dtype="<u2") % 90)


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        (0, "B", 9),  # version
        (3, "B", 0),  # size of a value
        (4, "<I", 2**31 - 1),  # bytes
        (8, "<I", 0),  # a block
        (8, "<I", 2**30),
        (12, "<I", len(BLOSC) + 1),  # compressed
        (12, "<I", 2**28),
        (16, "<i", -5),  # where the first block starts
        (16, "<i", 2**30),
    ],
)
def test_a_blosc_header_is_held_against_its_chunk(place, kind, value):
    damaged = bytearray(BLOSC)
    struct.pack_into(kind, damaged, place, value)
    with pytest.raises(ValueError, match="cannot decompress: a Blosc header"):
        _decode("blosc", bytes(damaged), 1120)
    assert _decode("blosc", BLOSC + b"beyond", 1120) == _decode("blosc", BLOSC, 1120)


def test_a_chunk_of_damaged_blosc_cannot_end_the_process(tmp_path):
    """As of numcodecs#228: read in another process, for it may do that."""
    for number, (place, value) in enumerate([(4, 2**31), (8, 2**21), (12, 2**28), (15, 127)]):
        path = tmp_path / str(number) / "a.zarr"
        values = (np.arange(1120) % 90).astype("<u2").reshape(40, 28)
        array = zarr.create_array(
            path, shape=(40, 28), chunks=(20, 28), dtype="<u2", zarr_format=2,
            compressors=numcodecs.Blosc("lz4", shuffle=1),
        )  # fmt: skip
        array[:] = values
        chunk = bytearray((path / "1.0").read_bytes())
        struct.pack_into("<I" if place < 15 else "B", chunk, place, value)
        (path / "1.0").write_bytes(chunk)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    codes = [json.loads(line)["code"] for line in done.stdout.splitlines()]
    assert codes == ["truncated"] * 4


@pytest.mark.parametrize("name", ["pickle", "json2", "msgpack2", "vlen-utf8", "base64"])
@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_codecs_that_are_not_on_the_list_are_refused(tmp_path, name, where):
    path, planted = tmp_path / "a.zarr", tmp_path / "planted"
    path.mkdir()
    dtype = "|O" if name in ("json2", "pickle", "vlen-utf8", "msgpack2") else "|u1"
    said = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": dtype, "order": "C"}
    said |= {"fill_value": 0, "filters": None, "compressor": None}
    said[where] = [{"id": name}] if where == "filters" else {"id": name}
    (path / ".zarray").write_text(json.dumps(said))

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(planted),)

    (path / "0.0").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(UnusableImage) as caught:
        read_image(path)
    assert caught.value.quarantined.code == "unsupported"
    assert not planted.exists()


def test_a_filter_cannot_make_objects_of_bytes(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    said = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "<f8", "order": "C"}
    said |= {"fill_value": 0, "compressor": None}
    said["filters"] = [{"id": "astype", "encode_dtype": "|O", "decode_dtype": "<f8"}]
    (path / ".zarray").write_text(json.dumps(said))
    (path / "0.0").write_bytes(b"\x10" * 128)
    with pytest.raises(UnusableImage, match="astype") as caught:
        read_image(path)
    assert caught.value.quarantined.code == "unsupported"


def test_whole_containers_come_back_as_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from fuzz_inputs import _values, write_containers

    from usam_core.images.stores.factory import open_image

    stack = _values("uint16", 3, 40, 56)
    read = 0
    for path in write_containers(tmp_path):
        if not path.name.startswith(("v2", "v3")):
            continue
        with open_image(str(path)) as store:
            found = np.concatenate([store.read(plane) for plane in store.planes()])
        np.testing.assert_array_equal(found, stack)
        read += 1
    assert read == 18


def test_a_picture_with_fewer_strips_than_rows_is_no_black_picture(tmp_path):
    for dtype, compression in (("u1", None), ("u2", None), ("u2", "zlib"), ("u1", "lzw")):
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            path, np.full((40, 56), 7, dtype), rowsperstrip=8, compression=compression,
            metadata=None,
        )  # fmt: skip
        read_image(path)
        tags(path, ImageLength=80)
        with pytest.raises(UnusableImage) as caught:
            read_image(path)
        assert caught.value.quarantined.code == "truncated"


def test_counts_are_held_against_the_size():
    check_count("a", "planes", FREE, 0)
    check_count("a", "planes", FREE + 5, 5)
    check_count("a", "planes", MAX, None)
    check_values("a", 2**26, 1)
    check_values("a", 2**26 + 1, None)
    for count, size in ((FREE + 6, 5), (MAX + 1, None), (10**9, lambda: 10**9)):
        with pytest.raises(UnusableImage, match=f"speaks of {count} planes") as caught:
            check_count("a", "planes", count, size)
        assert caught.value.quarantined.code == "implausible"
    with pytest.raises(UnusableImage, match="the file has 16383"):
        check_values("a", 2**26 + 1, lambda: 2**14 - 1)


def test_a_decoder_that_crashes_apart_is_a_verdict_and_the_next_call_works(monkeypatch):
    assert apart("a", 0, math.sqrt, 9.0) == 3
    for function, code in ((os.abort, "undecodable"), (os._exit, "undecodable")):
        arguments = (3,) if function is os._exit else ()
        with pytest.raises(UnusableImage, match="crashed") as caught:
            apart("a.tif", 0, function, *arguments)
        assert caught.value.quarantined.code == code
        assert apart("a", 0, math.sqrt, 9.0) == 3
    with pytest.raises(UnusableImage) as caught:
        apart("a.tif", 0, bytes, 2**31)
    assert caught.value.quarantined.code == "too_large"
    assert len(apart("a.tif", 2**28, bytes, 2**28)) == 2**28
    monkeypatch.setattr(apart_module, "_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(UnusableImage, match=r"more than 0\.2 seconds"):
        apart("a.tif", 0, time.sleep, 500)
    assert time.monotonic() - began < 400


@pytest.mark.parametrize("kind", ["GIF", "bomb"])
def test_truth_that_is_no_png_or_a_bomb_is_refused(tmp_path, kind):
    file = io.BytesIO()
    Image.new("P", (9, 9)).save(file, "GIF")
    (tmp_path / "a.png").write_bytes(file.getvalue() if kind == "GIF" else png(9000, 9000))
    truth = VocTruth(tmp_path, ["dog"], {"dog": "dog"}, ["dog"])
    assert truth.label_map("a.jpg") is None
    assert any("cannot be read as a label PNG" in note for note in truth.notes)


@pytest.mark.slow
def test_some_damaged_files_of_each_kind(tmp_path, fuzz):
    cases = [("image", n) for n in range(120)] + [("container", n) for n in range(80)]
    found = list(fuzz.run(tmp_path, cases, seed=20261128))
    assert [(one["kind"], one["number"]) for one in found] == cases
    assert {one["end"] for one in found} == {"read", "quarantined"}
    assert max(one["mib"] for one in found) < MAX_MIB
    assert "container Zarr v3" in fuzz.table(found, 20261128)


@pytest.mark.slow
def test_the_harness_counts_a_child_that_dies_and_goes_on(tmp_path, fuzz, monkeypatch):
    script = Path(fuzz.__file__).read_text(encoding="utf-8")
    broken = script.replace(
        "            found = _read_all(target, tile)\n",
        "            if number == '1':\n                os.abort()\n"
        "            if number == '2':\n                time.sleep(99)\n"
        "            found = _read_all(target, tile)\n",
    )
    assert broken != script
    place = tmp_path / "fuzz.py"
    place.write_text(broken, encoding="utf-8")
    monkeypatch.setattr(fuzz, "__file__", str(place))
    monkeypatch.setattr(fuzz, "_SECONDS", 5.0)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    (tmp_path / "out").mkdir()
    found = list(fuzz.run(tmp_path / "out", [("image", n) for n in range(4)], seed=1))
    assert [one["end"] for one in found][1:3] == ["died", "hung"]
    assert len(list((tmp_path / "out/failed").iterdir())) == 2


@pytest.mark.parametrize(
    ("claimed", "size", "held"),
    [
        (2**26, 1, True),  # a blank frame of 64 MiB may come from nothing
        (2**28, 2**17, True),
        (2**28 + 1, 2**20, False),  # 9999 x 9999 of 16 bit and four channels in 777 KB
        (2**28 + 1, 2**23, True),  # a photograph of 100 megapixels
    ],
)
def test_what_is_large_is_held_more_closely_against_its_file(claimed, size, held):
    if held:
        check_values("a.png", claimed, size)
    else:
        with pytest.raises(UnusableImage, match="at most 64 times"):
            check_values("a.png", claimed, size)
