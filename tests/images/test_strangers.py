"""Files made to do harm: each becomes a verdict, within little memory, and the process lives on."""

import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.hostile_files import BENCHMARKS, MAX_MIB, READ_ALL, png, tags
from usam_core.images.errors import FREE_COUNT, MAX_COUNT, check_count, check_values
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.stores import apart as apart_module
from usam_core.images.stores.apart import apart
from usam_core.images.stores.codecs import _decode
from usam_core.truth.voc import VocTruth

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@pytest.fixture
def fuzz(monkeypatch):
    """Return the module of the harness; it finds its parts beside it, as when it is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz

    return fuzz


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
    check_count("a", "planes", FREE_COUNT, 0)
    check_count("a", "planes", FREE_COUNT + 5, 5)
    check_count("a", "planes", MAX_COUNT, None)
    check_values("a", 2**26, 1)
    check_values("a", 2**26 + 1, None)
    for count, size in ((FREE_COUNT + 6, 5), (MAX_COUNT + 1, None), (10**9, lambda: 10**9)):
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
