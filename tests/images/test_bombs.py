"""Files of a few bytes that claim gigabytes: each is a verdict, within little memory."""

import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

from tests.hostile_files import MAX_MIB, READ_ALL, png, tags

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


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
