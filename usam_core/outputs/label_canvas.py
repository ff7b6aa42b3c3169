"""The label map of a large image: on the disk while it is painted, written as PNG row by row."""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from usam_core.config.training import voc_palette
from usam_core.files.atomic import whole_file
from usam_core.images.ref import Tile
from usam_core.masks.label_png import SIGNATURE
from usam_core.masks.rle import Crop

_BYTES = 2**24
"""Pixels that are in memory at a time when all are looked at."""


class LabelCanvas:
    """A label map of which only what is looked at is in memory.

    Args:
        file: an open file that holds it meanwhile.
        size_hw: rows and columns.
        dtype: uint8 or uint16.
    """

    def __init__(
        self, file: BinaryIO, size_hw: tuple[int, int], dtype: type[np.uint8] | type[np.uint16]
    ) -> None:
        file.truncate(size_hw[0] * size_hw[1] * np.dtype(dtype).itemsize)
        self._labels = np.memmap(file, dtype, "r+", shape=size_hw)

    def put(self, tile: Tile, labels: np.ndarray) -> None:
        """Paint a tile's labels: in its core over all, beyond it only where there are none.

        What the tile that answers for a pixel leaves empty, a neighbour may have seen.
        """
        here = self._labels[tile.box.slices]
        core = np.zeros(labels.shape, bool)
        (top, bottom), (left, right) = tile.core
        rows = slice(top - tile.box.rows[0], bottom - tile.box.rows[0])
        columns = slice(left - tile.box.columns[0], right - tile.box.columns[0])
        core[rows, columns] = True
        np.copyto(here, labels, where=(labels > 0) & (core | (here == 0)))

    def rename(self, part: Crop, before: int, after: int) -> None:
        """Give the pixels of a part that have one label another."""
        rows, columns = part.mask.shape
        here = self._labels[part.top : part.top + rows, part.left : part.left + columns]
        here[part.mask & (here == before)] = after

    def labels(self) -> np.ndarray:
        """A copy of the label map in memory, (h, w)."""
        return np.array(self._labels)

    def counts(self) -> dict[int, int]:
        """Return how many pixels each label has."""
        found = np.zeros(np.iinfo(self._labels.dtype).max + 1, np.int64)
        for rows in self._rows():
            found += np.bincount(rows.ravel(), minlength=len(found))
        return {int(label): int(found[label]) for label in np.flatnonzero(found)}

    def save(self, path: Path) -> None:
        """Write the PNG that `voc_png.save_label_png` writes of a smaller map, signed."""
        said = hashlib.sha256()
        for rows in self._rows():
            said.update(rows.astype("<u2").tobytes())
        with whole_file(path, sync=False) as temporary, open(temporary, "wb") as file:
            self._write(file, said.hexdigest())

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
