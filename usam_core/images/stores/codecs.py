"""Zarr's codecs: those on a list, and none gives more bytes than its chunk can hold.

Zarr believes what a chunk says of its own size, and decodes whatever is registered, `pickle` too.
"""

import asyncio
import bz2
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.codec_pipeline import BatchedCodecPipeline

from usam_core.errors import InputError
from usam_core.images.errors import FREE_BYTES, check_part

_SLACK = 2**16
"""Bytes that a codec may give beyond the chunk's values: of checksums, or of another codec."""
_WIDEST = 8
"""How many times wider than an array's own type a filter's type may be."""
_NUMBERS = "biuf"
_TYPES = ("dtype", "astype", "encode_dtype", "decode_dtype")
_AS_THEY_ARE = (
    *("bytes", "transpose", "crc32c", "crc32", "adler32", "fletcher32", "shuffle"),
    *("delta", "fixedscaleoffset", "bitround", "quantize", "astype", "packbits"),
)
"""Codecs that give no more than they take, or some times that."""


def guard(address: str, array: "zarr.Array[Any]") -> None:
    """Have an array decoded by the codecs on the list alone, within the size of its chunks.

    Raises:
        InputError: it holds other values than numbers, or its codecs are not on the list.
        UnusableImage: its chunks are too large.
    """
    dtype = np.dtype(array.dtype)
    if dtype.kind not in f"{_NUMBERS}c":
        raise InputError(f"{address}: values of type {dtype}; expected numbers")
    chunk_bytes = math.prod(array.chunks) * dtype.itemsize
    pipeline: Any = array.async_array.codec_pipeline
    # A compressor around the shards decodes them as a whole.
    whole = array.shards if array.shards and not pipeline.supports_partial_decode else array.chunks
    check_part(address, math.prod(whole) * dtype.itemsize)
    codecs = [_guarded(address, codec, chunk_bytes) for codec in pipeline]
    # The class is frozen, and its own __init__ sets the pipeline in this way.
    guarded = BatchedCodecPipeline.from_codecs(codecs)
    object.__setattr__(array.async_array, "codec_pipeline", guarded)


def _guarded(address: str, codec: Any, chunk_bytes: int) -> Any:
    """Return a codec of an array's pipeline that keeps within its chunk."""
    if hasattr(codec, "compressor"):  # of Zarr 2, all codecs in one
        for inner in codec.filters or ():
            _check(address, inner.codec_id, inner.get_config(), _AS_THEY_ARE)
        if codec.compressor is None:
            return codec
        name, config = codec.compressor.codec_id, codec.compressor.get_config()
        _check(address, name, config, (*_AS_THEY_ARE, *_DECODERS))
        if name in _AS_THEY_ARE:
            return codec
        max_bytes = chunk_bytes * (_WIDEST if codec.filters else 1) + _SLACK
        return replace(codec, compressor=_Compressor(name, max_bytes))
    if isinstance(codec, ShardingCodec):
        return ShardingCodec(
            chunk_shape=codec.chunk_shape,
            codecs=[_guarded(address, inner, chunk_bytes) for inner in codec.codecs],
            index_codecs=[_guarded(address, inner, chunk_bytes) for inner in codec.index_codecs],
            index_location=codec.index_location,
        )
    settings = codec.to_dict()
    name = settings["name"].removeprefix("numcodecs.")
    _check(address, name, settings.get("configuration", {}), (*_AS_THEY_ARE, *_DECODERS))
    return codec if name in _AS_THEY_ARE else _Within(codec, name)


def _check(address: str, name: str, config: Mapping[str, Any], known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(
            f"{address}: the codec {name!r} is not read here; expected one of "
            f"{', '.join(sorted({*_AS_THEY_ARE, *_DECODERS}))}. Save it with one of these"
        )
    for key in _TYPES:
        if config.get(key) is not None and np.dtype(config[key]).kind not in _NUMBERS:
            raise InputError(f"{address}: the codec {name!r} with {key} {config[key]!r}")


@dataclass(frozen=True)
class _Compressor:
    """A compressor of Zarr 2 that only decodes."""

    name: str
    max_bytes: int

    def decode(self, data: Any) -> bytes:
        return _decode(self.name, data, self.max_bytes)


@dataclass(frozen=True)
class _Within(BytesBytesCodec):
    """A codec of Zarr 3 that only decodes; `inner` is the one that the metadata name."""

    inner: BytesBytesCodec
    name: str

    is_fixed_size = False

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        # Filters in front of it may store wider values than the array has.
        count, itemsize = math.prod(chunk_spec.shape), chunk_spec.dtype.to_native_dtype().itemsize
        max_bytes = max(count * itemsize, min(count * _WIDEST, FREE_BYTES)) + _SLACK
        data = chunk_bytes.as_numpy_array()
        values = await asyncio.to_thread(_decode, self.name, data, max_bytes)
        return chunk_spec.prototype.buffer.from_bytes(values)


def _decode(name: str, data: Any, max_bytes: int) -> bytes:
    """Decompress a chunk of at most `max_bytes`; damaged bytes raise anything."""
    values = _DECODERS[name](memoryview(data).cast("B"), max_bytes)
    if len(values) > max_bytes:
        raise ValueError(f"cannot decompress: a chunk of more than {max_bytes} bytes")
    return values


def _blosc(data: Any, max_bytes: int) -> bytes:
    """Decode Blosc 1, whose library believes the sizes in the header (numcodecs#228)."""
    if len(data) < 16:
        raise ValueError(f"cannot decompress: a Blosc chunk of {len(data)} bytes")
    version, _, flags, typesize, nbytes, blocksize, cbytes = struct.unpack("<4B3I", data[:16])
    starts = -(-nbytes // blocksize) if blocksize and not flags & 2 else 0
    right = (
        version == 2
        and cbytes <= len(data)
        and nbytes <= max_bytes
        and typesize > 0
        and 0 < max(blocksize, not nbytes) <= max(nbytes, 1)
        and 16 + 4 * starts <= cbytes
        and (not flags & 2 or cbytes == 16 + nbytes)
    )
    if right and starts:
        places = np.frombuffer(data, "<i4", starts, 16)
        right = bool((places >= 16 + 4 * starts).all() and (places < cbytes).all())
    if not right:
        raise ValueError(
            f"cannot decompress: a Blosc header of {nbytes} bytes in blocks of {blocksize}, "
            f"{cbytes} compressed; the chunk has {len(data)} and at most {max_bytes} decoded"
        )
    return numcodecs.Blosc().decode(data[:cbytes])


def _lz4(data: Any, max_bytes: int) -> Any:
    size = struct.unpack("<i", data[:4])[0]
    if not 0 <= size <= max_bytes:
        raise ValueError(
            f"cannot decompress: an LZ4 chunk of {size} bytes; expected {max_bytes} at most"
        )
    return imagecodecs.lz4_decode(data, header=True, out=size) if size else b""


def _until(make: Callable[[], Any]) -> Callable[[Any, int], bytes]:
    """Return a decoder by one of Python's own, which stop when told; members may follow another."""

    def decode(data: Any, max_bytes: int) -> bytes:
        parts, left, rest = [], max_bytes + 1, bytes(data)
        while rest and left > 0:
            member = make()
            parts.append(member.decompress(rest, left))
            left -= len(parts[-1])
            if not member.eof and left > 0:
                raise EOFError("cannot decompress: a chunk that ends early")
            rest = member.unused_data
        return b"".join(parts)

    return decode


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "blosc": _blosc,
    "zstd": lambda data, max_bytes: imagecodecs.zstd_decode(data, out=max_bytes),
    "lz4": _lz4,
    "gzip": _until(lambda: zlib.decompressobj(wbits=31)),
    "zlib": _until(zlib.decompressobj),
    "bz2": _until(bz2.BZ2Decompressor),
    "lzma": _until(lambda: lzma.LZMADecompressor(memlimit=2**28)),
}
