"""Label PNGs of `annotate`: their names, and those of large images, written row by row."""

import hashlib
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from usam_core.config.training import voc_palette
from usam_core.files.atomic import LONGEST_NAME, whole_file
from usam_core.images.ref import ImageRef, Tile
from usam_core.masks.label_png import SIGNATURE
from usam_core.masks.rle import Crop

_BYTES = 2**24
"""Pixels in memory at a time when all are looked at."""
_UNSAFE = re.compile(r'[#=,:*?"<>|\\\x00-\x1f]+')
"""What means something in a URL, or is refused by some disks."""
_LEADING = re.compile(r"\\|^[A-Za-z]:")
"""What leads to other folders where paths are written otherwise (`paths.inside` refuses it)."""
_LONGEST_STEM = 200
"""Bytes: endings and marks come behind."""
_LONGEST_WAY = 1500
"""Bytes of folders and name together: systems take 4096 for a whole path."""


def output_names(paths: Iterable[str]) -> dict[str, str]:
    """A relative name without ending for each image path; no two are the same.

    Folders are kept. The name is the image's own, of a plane with the plane behind it, of a URL
    with `_` for what means something there. Names that more than one image would have keep the
    image's ending too; if that does not tell them apart either, a digest of the path does. Names
    that differ in case alone count as the same, as they are on some disks. Of what is too long for
    a disk once an ending stands behind it, the beginning is kept and a digest of the path.

    >>> output_names(["a/b.png", "w.ome.tif#t=3,z=0"])
    {'a/b.png': 'a/b', 'w.ome.tif#t=3,z=0': 'w.ome_t3_z0'}
    >>> output_names(["b.png", "b.jpg"])
    {'b.png': 'b.png', 'b.jpg': 'b.jpg'}
    """
    wishes = {path: _wishes(path) for path in paths}
    count = Counter(wish.casefold() for both in wishes.values() for wish in set(both))
    return {
        path: next((wish for wish in both if count[wish.casefold()] == 1), None)
        or f"{both[1]}-{_digest(path)}"
        for path, both in wishes.items()
    }


def _wishes(path: str) -> tuple[str, str]:
    """The short and the full name of an image, the full one with its ending."""
    ref = ImageRef.parse(path)
    parts = [
        _LEADING.sub("_", part)
        for part in ref.file.replace("://", "/").split("/")
        if part not in ("", ".")
    ]
    if "://" in ref.file:
        parts = [_UNSAFE.sub("_", part) for part in parts]
    file = PurePosixPath(*("_" if part == ".." else part for part in parts))
    plane = "".join(f"_{axis}{index}" for axis, index in ref.plane)
    stem = file.name.removesuffix(file.suffix)
    short = file.with_name("_" if stem in (".", "..") else stem)
    return _bounded(path, str(short) + plane), _bounded(path, str(file) + plane)


def _bounded(path: str, name: str) -> str:
    *folders, stem = name.split("/")
    folders = [_cut(folder, LONGEST_NAME, folder) for folder in folders]
    if len(os.fsencode(name)) > _LONGEST_WAY:
        folders = [_digest("/".join(folders))]
    return "/".join([*folders, _cut(stem, _LONGEST_STEM, path)])


def _cut(name: str, longest: int, of: str) -> str:
    """A name, or its beginning and a digest where it has too many bytes."""
    content = os.fsencode(name)
    if len(content) <= longest:
        return name
    mark = f"-{_digest(of)}"
    return content[: longest - len(mark)].decode("utf-8", "ignore") + mark


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


class LabelCanvas:
    """The label map of a large image, uint8 or uint16, on the disk while it is painted.

    `file` is an open file that holds it meanwhile.
    """

    def __init__(
        self, file: BinaryIO, size_hw: tuple[int, int], dtype: type[np.uint8] | type[np.uint16]
    ) -> None:
        file.truncate(size_hw[0] * size_hw[1] * np.dtype(dtype).itemsize)
        self._labels = np.memmap(file, dtype, "r+", shape=size_hw)

    def put(self, tile: Tile, labels: np.ndarray) -> None:
        """Paint a tile's labels: in its core over all, beyond it only where there are none.

        A neighbor may have seen what the tile that answers for a pixel leaves empty.
        """
        here = self._labels[tile.box.slices]
        core = np.zeros(labels.shape, bool)
        (top, bottom), (left, right) = tile.core
        rows = slice(top - tile.box.rows[0], bottom - tile.box.rows[0])
        columns = slice(left - tile.box.columns[0], right - tile.box.columns[0])
        core[rows, columns] = True
        np.copyto(here, labels, where=(labels > 0) & (core | (here == 0)))

    def rename(self, part: Crop, before: int, after: int) -> None:
        """Change one label to another within a part."""
        rows, columns = part.mask.shape
        here = self._labels[part.top : part.top + rows, part.left : part.left + columns]
        here[part.mask & (here == before)] = after

    @property
    def on_disk(self) -> np.ndarray:
        """The label map itself, (h, w); only what is looked at comes into memory."""
        return self._labels

    def labels(self) -> np.ndarray:
        """A copy of the label map in memory, (h, w)."""
        return np.array(self._labels)

    def counts(self) -> dict[int, int]:
        """Number of pixels of each label."""
        counts = np.zeros(np.iinfo(self._labels.dtype).max + 1, np.int64)
        for rows in self._rows():
            counts += np.bincount(rows.ravel(), minlength=len(counts))
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}

    def save(self, path: Path) -> None:
        """Write the PNG that `save_label_png` writes of a smaller map, signed."""
        digest = hashlib.sha256()
        for rows in self._rows():
            digest.update(rows.astype("<u2").tobytes())
        with whole_file(path, sync=False) as temporary, open(temporary, "wb") as file:
            self._write(file, digest.hexdigest())

    def _rows(self) -> Iterator[np.ndarray]:
        step = max(1, _BYTES // self._labels.shape[1])
        for start in range(0, len(self._labels), step):
            yield np.asarray(self._labels[start : start + step])

    def _write(self, file: BinaryIO, signature: str) -> None:
        height, width = self._labels.shape
        is_small = self._labels.dtype == np.uint8
        depth, color = (8, 3) if is_small else (16, 0)
        file.write(b"\x89PNG\r\n\x1a\n")
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        if is_small:
            _chunk(file, b"PLTE", voc_palette().tobytes())
        _chunk(file, b"tEXt", f"{SIGNATURE}\0{signature}".encode("ascii"))
        packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        for rows in self._rows():
            values = rows.astype(">u1" if is_small else ">u2").view(np.uint8)
            # Each row begins with the number of its filter: 0, none.
            _chunk(file, b"IDAT", packer.compress(np.pad(values, ((0, 0), (1, 0))).tobytes()))
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content)
    file.write(struct.pack(">I", zlib.crc32(kind + content)))
