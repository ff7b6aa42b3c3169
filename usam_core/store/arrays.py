"""One array folder: a Zarr v3 array in a single sharded file, sealed against silent damage.

Zarr reads a missing file as zeros, and believes whatever the metadata say. So each array folder
holds `seal.json` with the digest of every file in it, metadata are compared with their seal when
the array is opened, a missing file raises, and the values themselves carry a checksum an image.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.storage import LocalStore
from zarrs import ZarrsCodecPipeline

from usam_core.files.atomic import fault_point, write_json
from usam_core.files.digest import file_digest
from usam_core.store.layout import Damaged

SEAL_FILE = "seal.json"
_METADATA_FILE = "zarr.json"
_ROWS8 = "usam_rows8"
_MAX_INT8 = 127
_SCALE_BYTES = 2
_OTHER = "the bytes are not the ones that were written"
_ZSTD_LEVEL = 3  # measured: masks 0.4 s for 64 images of 100 prompts; 0 and 1 are not faster


def encode_rows8(values: np.ndarray) -> np.ndarray:
    """Pack float16 (..., f) as int8 (..., f + 2): the numbers, then their scale's two bytes.

    A row that holds a number that is not finite is decoded as NaN.
    """
    wide = values.astype(np.float32)
    scale = (np.abs(wide).max(axis=-1, keepdims=True) / _MAX_INT8).astype(np.float16)
    with np.errstate(invalid="ignore"):
        steps = np.nan_to_num(wide / np.where(scale > 0, scale, 1).astype(np.float32))
    rounded = np.clip(np.rint(steps), -_MAX_INT8, _MAX_INT8).astype(np.int8)
    return np.concatenate([rounded, scale.astype("<f2").view(np.int8)], axis=-1)


def decode_rows8(packed: np.ndarray) -> np.ndarray:
    """Unpack the result of `encode_rows8`, float16 (..., f)."""
    scale = np.ascontiguousarray(packed[..., -_SCALE_BYTES:]).view("<f2")
    limit = float(np.finfo(np.float16).max)
    with np.errstate(invalid="ignore"):
        numbers = packed[..., :-_SCALE_BYTES].astype(np.float32) * scale.astype(np.float32)
        # A scale that was rounded up may reach beyond what float16 holds.
        return np.clip(numbers, -limit, limit).astype(np.float16)


def write_array(
    folder: Path,
    values: np.ndarray,
    attributes: dict[str, Any] | None = None,
    *,
    bytes8: bool = False,
) -> None:
    """Write `values` as a new array into `folder`, then its seal.

    (n, d, ...) is chunked image by image; (n, d, m, ...) mask by mask too, because labelling asks
    for one mask of each prompt: reading it costs a third of reading all four. `bytes8` keeps
    float16 as `encode_rows8` packs it. The attributes, JSON-like, are sealed with the metadata.

    Not atomic: `folder` must lie in a folder that is renamed when everything is in it.
    """
    if bytes8:
        values, attributes = encode_rows8(values), {**(attributes or {}), _ROWS8: True}
    by_mask = (*values.shape[1:2], 1, *values.shape[3:]) if values.ndim > 3 else values.shape[1:]
    array = zarr.create_array(
        LocalStore(folder),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, *by_mask),
        shards=values.shape,
        compressors=[ZstdCodec(level=_ZSTD_LEVEL, checksum=True)],
        fill_value=0,
        attributes=attributes,
        # A chunk that is not there could not be told from one of zeros.
        config={"write_empty_chunks": True},
    )
    _use(array, BatchedCodecPipeline.from_codecs(_codecs(array)))
    array[...] = values
    fault_point("half", folder, folder)
    seal(folder)


def seal(folder: Path) -> None:
    """Write the size and digest of every file of an array folder."""
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / SEAL_FILE, {"files": files}, sync=False)


@dataclass(frozen=True, slots=True)
class SealedArray:
    """An open array of one shard: the array, the one file of its values, and its sealed size."""

    array: zarr.Array[Any]
    file: Path
    file_bytes: int

    def row_bytes(self, *, single: bool = False) -> int:
        """Size of one image's values in memory; `single` as for `values`."""
        masks = self.array.shape[2] if single else 1
        return math.prod(self.array.shape[1:]) // masks * self.array.dtype.itemsize

    def values(self, start: int, stop: int, *, single: bool = False) -> np.ndarray:
        """Values of images `start` to `stop` (exclusive); the bytes of others are not read.

        `single` reads of columns (n, d, m, ...) mask 0 alone, with m = 1.

        Raises:
            Damaged: the file is missing, cut short, or its checksum is wrong.
        """
        # Looked at before and after, because zarr gives zeros for a file that is not there or
        # empty, and another process may drop the shard at any moment.
        before = self._inode()
        try:
            part = self.array[start:stop, :, :1] if single else self.array[start:stop]
            values = np.asarray(part)
        except Exception as error:  # decoders raise anything on damaged bytes
            raise Damaged(f"{self.file}: rows {start} to {stop - 1}: {error}") from error
        if self._inode() != before:
            raise Damaged(f"{self.file}: replaced while it was read")
        return decode_rows8(values) if self.array.attrs.get(_ROWS8) else values

    def _inode(self) -> int:
        try:
            stat = self.file.stat()
        except OSError as error:
            raise Damaged(f"{self.file}: {error.strerror or error}") from error
        if stat.st_size != self.file_bytes:
            raise Damaged(f"{self.file}: {stat.st_size} bytes, {self.file_bytes} were written")
        return stat.st_ino


def open_array(folder: Path, rows: int) -> SealedArray:
    """Open the array of a folder for reading, its metadata checked against the seal.

    Raises:
        Damaged: files are missing, the metadata are not as they were written, or there are not as
            many rows as the shard's index says.
    """
    files = _checked_seal(folder)
    try:
        array = zarr.open_array(LocalStore(folder, read_only=True), mode="r")
        # zarrs takes half the processor time of zarr's own pipeline, but believes a chunk whose
        # crc32c is wrong, as stores of before 2026-11-21 have; neither ignores zstd's checksum.
        (sharding,) = codecs = _codecs(array)
        if any(isinstance(codec, ZstdCodec) and codec.checksum for codec in sharding.codecs):
            _use(
                array, ZarrsCodecPipeline.from_array_metadata_and_store(array.metadata, array.store)
            )
        else:
            _use(array, BatchedCodecPipeline.from_codecs(codecs))
    except Exception as error:  # zarr raises anything on metadata that it does not like
        raise Damaged(f"{folder}: zarr cannot open it: {error}") from error
    if array.shape[0] != rows:
        raise Damaged(f"{folder}: {array.shape[0]} rows, the index has {rows}")
    (data,) = (name for name in files if name != _METADATA_FILE)
    return SealedArray(array, folder / data, files[data]["bytes"])


def _codecs(array: zarr.Array[Any]) -> Any:
    metadata: Any = array.metadata  # those of version 2 have none, and no array of ours is one
    return metadata.codecs


def _use(array: zarr.Array[Any], pipeline: BatchedCodecPipeline | ZarrsCodecPipeline) -> None:
    """Have an array go through a pipeline of its own.

    Not through `zarr.config`, which is the whole process's: two threads that open arrays would
    leave each other's choice behind, and zarrs does not write arrays of zeros.
    """
    # The class is frozen, and its own __init__ sets the pipeline in this way.
    object.__setattr__(array.async_array, "codec_pipeline", pipeline)


def check_array(folder: Path, *, deep: bool) -> None:
    """Compare every file of an array folder with its seal; not `deep`: sizes and metadata alone.

    Raises:
        Damaged: a file is missing, of another size, or (`deep`) of other bytes.
    """
    by = f", as {folder / SEAL_FILE} has it"
    for name, sealed in _checked_seal(folder).items():
        path = folder / name
        try:
            size = path.stat().st_size
            same = not deep or file_digest(path) == sealed["sha256"]
        except OSError as error:
            raise Damaged(
                f"{path}: {error.strerror or error}, but {folder / SEAL_FILE} names it"
            ) from error
        if size != sealed["bytes"]:
            raise Damaged(f"{path}: {size} bytes, {sealed['bytes']} were written{by}")
        if not same:
            raise Damaged(f"{path}: {_OTHER}{by}")


def _checked_seal(folder: Path) -> dict[str, dict[str, Any]]:
    """The seal's files, once the seal is whole and the metadata are as they were sealed."""
    path = folder / SEAL_FILE
    try:
        files = json.loads(path.read_bytes())["files"]
        for sealed in files.values():
            _ = sealed["bytes"], sealed["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: missing or not a seal: {error!r}") from error
    # A seal whose own list was cut would vouch for nothing.
    if _METADATA_FILE not in files or len(files) != 2:
        raise Damaged(f"{path}: names {sorted(files)}, expected the metadata and one data file")
    metadata = folder / _METADATA_FILE
    try:
        digest = file_digest(metadata)
    except OSError as error:
        raise Damaged(f"{metadata}: {error.strerror or error}") from error
    if digest != files[_METADATA_FILE]["sha256"]:
        raise Damaged(f"{metadata}: {_OTHER}, as {path} has it")
    return files
