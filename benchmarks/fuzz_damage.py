"""Damage to small files, drawn by a seed: for `fuzz.py` and its tests."""

import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_EXTREMES = (
    *(0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535),
    *(2**20, 10**9, 2**31 - 1, 2**31, 2**32 - 1),
)
_SIZES = dict.fromkeys((1, 2, 6, 7), 1) | dict.fromkeys((3, 8), 2)
_SIZES |= dict.fromkeys((4, 9, 11), 4) | dict.fromkeys((5, 10, 12, 16, 17, 18), 8)
"""Bytes of a TIFF tag's types."""


def damage(source: Path, target: Path, rng: np.random.Generator) -> str:
    """Write a damaged copy of a file or a Zarr folder; return what was done."""
    if source.is_file():
        content, how = _damaged(source.read_bytes(), source.suffix, rng)
        target.write_bytes(content)
        return how
    shutil.copytree(source, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    chunks = [path for path in files if not _describes(path)]
    done = []
    for _ in range(rng.integers(1, 3)):
        among = chunks if rng.random() < 0.5 else [path for path in files if _describes(path)]
        path = among[rng.integers(len(among))]
        suffix = ".json" if _describes(path) and not done else ".chunk"
        if not path.stat().st_size:
            continue
        content, how = _damaged(path.read_bytes(), suffix, rng)
        path.write_bytes(content)
        done.append(how)
    return "+".join(done)


def _describes(path: Path) -> bool:
    return path.name.startswith(".z") or path.suffix == ".json"


def _damaged(content: bytes, suffix: str, rng: np.random.Generator) -> tuple[bytes, str]:
    fields = {".tif": _tiff_field, ".png": _png_field, ".jpg": _jpeg_field, ".json": _json_field}
    ways = [_bytes, _bits, _head, _cut, _longer, _moved]
    if suffix in fields:
        ways += [fields[suffix]] * 5
    way = ways[rng.integers(len(ways))]
    return bytes(way(bytearray(content), rng)), way.__name__.strip("_")


def _bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(2 ** rng.integers(0, 6)):
        data[rng.integers(len(data))] = rng.integers(256)
    return data


def _bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(2 ** rng.integers(0, 4)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return data


def _head(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(min(len(data), 2 ** rng.integers(4, 11))))
        kind = "<>"[rng.integers(2)] + "BHIQ"[rng.integers(4)]
        value = int(rng.choice(_EXTREMES)) % 2 ** (8 * struct.calcsize(kind))
        data[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data))]


def _longer(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + rng.bytes(int(2 ** rng.integers(0, 13)))


def _moved(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Copy, move or take out a stretch of bytes."""
    start, place = sorted(rng.integers(len(data), size=2))
    part = data[start : start + rng.integers(1, 400)]
    way = rng.integers(3)
    if way == 0:
        return data[:start] + data[start + len(part) :]
    data[place : place + (len(part) if way == 1 else 0)] = part
    return data


def _png_field(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Change a number of the header, its checksum right again."""
    start = [16, 20, 24, 25, 28][rng.integers(5)]
    kind = ">I" if start < 24 else ">B"
    value = int(rng.choice(_EXTREMES)) % 2 ** (8 * struct.calcsize(kind))
    if start < 24 and rng.random() < 0.7:
        value = int(2 ** rng.uniform(0, 15))
    struct.pack_into(kind, data, start, value)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return data


def _jpeg_field(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Change a number of one of the segments: sizes of the frame, tables, scans."""
    marks = [i for i in range(2, len(data) - 20) if data[i] == 0xFF and data[i + 1] >= 0xC0]
    place = marks[rng.integers(min(len(marks), 12))] + 2
    struct.pack_into(">H", data, int(place + rng.integers(0, 12)), int(2 ** rng.uniform(0, 16)))
    return data


def _tiff_field(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Change a tag of one of the pages: its number, type, count or value."""
    tags = list(_tags(data))
    if not tags:
        return _bytes(data, rng)
    order, place, is_big = tags[rng.integers(len(tags))]
    kind, count = struct.unpack_from(f"{order}H{'Q' if is_big else 'I'}", data, place + 2)
    value = int(rng.choice(_EXTREMES)) if rng.random() < 0.7 else int(2 ** rng.uniform(0, 32))
    what = rng.integers(8)
    if what == 0:
        struct.pack_into(f"{order}H", data, place, value % 2**16)
    elif what == 1:
        struct.pack_into(f"{order}H", data, place + 2, value % 19)
    elif what == 2:
        struct.pack_into(f"{order}I", data, place + 4, value % 2**32)
    else:
        start, size = place + (12 if is_big else 8), _SIZES.get(kind, 1)
        if size * count > (8 if is_big else 4):
            (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, start)
            start += size * int(rng.integers(max(1, min(count, 64))))
        letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
        if start + size <= len(data):
            struct.pack_into(f"{order}{letter}", data, start, value % 2 ** (8 * size))
    return data


def _tags(data: bytearray) -> Iterator[tuple[str, int, bool]]:
    """Yield byte order, place and kind of the tags of the first pages of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2 if order == "<" else 3] == 43
    (place,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
    for _ in range(4):
        if not 0 < place < len(data) - 20:
            return
        (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, place)
        first, each = place + (8 if is_big else 2), 20 if is_big else 12
        yield from ((order, first + each * n, is_big) for n in range(min(count, 60)))
        place = first + each * count
        if place + 8 > len(data):
            return
        (place,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, place)


def _json_field(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Replace, drop or repeat one value somewhere in a JSON file."""
    said = json.loads(data)
    inner = list(_places(said))
    if not inner:
        return _bytes(data, rng)
    where, key = inner[rng.integers(len(inner))]
    old = where[key]
    values = [*_EXTREMES, -1, 1.5, None, True, "", "x" * 1000, [], {}]
    values += ["../..", "|O", "<f8", "pickle"]
    way = rng.integers(5)
    if way == 0:
        del where[key]
    elif way == 1 and isinstance(old, list):
        where[key] = old * int(rng.choice([0, 2, 1000]))
    elif way == 2 and isinstance(old, str):
        names = ("pickle", "vlen-utf8", "json2", "msgpack2", "zstd", "gzip", "blosc", "|V9", "<U8")
        where[key] = names[rng.integers(len(names))]
    else:
        where[key] = values[rng.integers(len(values))]
    return bytearray(json.dumps(said).encode())


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)
