"""Zarr behind a URL: its files are known from its metadata, so that nothing has to be listed.

A web server shows no folders, and a store of objects may refuse to. Only a group that says nothing
of what it holds has to be listed.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import zarr

from usam_core.errors import InputError, StoreAccessError
from usam_core.files.digest import value_digest
from usam_core.files.fsspec_io import FileInfo, info, join, open_bytes, try_again
from usam_core.images.errors import check_count, library_verdicts, verdict_on
from usam_core.images.stores.anew import zarr_key_as_read
from usam_core.images.stores.zarr_store import Array, Node, array_names, images_in

_T = TypeVar("_T")

_METADATA = {2: (".zarray", ".zattrs", ".zgroup"), 3: ("zarr.json",)}
_TOGETHER = 1024
_THREADS = 16
"""Files asked for at once: a store answers each after a while."""


def images_behind(address: str) -> list[str]:
    """Return where the images of a Zarr group lie below its URL, as `zarr_store.images_in`.

    Raises:
        UnusableImage: it cannot be read, or does not say what it holds.
        TransientError: the network failed.
    """
    with library_verdicts(address), verdict_on(address):
        images = try_again(address, lambda: images_in(address))
        if not images:
            raise _silent(address)
        return images


def zarr_digest(address: str) -> tuple[str, int]:
    """Return the digest of an image's files, as a folder of them has it, and their bytes."""

    def digest(name: str) -> tuple[str, str, int]:
        content = open_bytes(join(address, name))
        return name, hashlib.sha256(content).hexdigest(), len(content)

    node, each = _of_each(address, digest)
    files = value_digest([[name, sha256] for name, sha256, _ in sorted(each)])
    return zarr_key_as_read(files, node), sum(size for *_, size in each)


def zarr_info(address: str) -> FileInfo:
    """Return the metadata of an image's files without reading their values."""
    _, each = _of_each(address, lambda name: (name, info(join(address, name))))
    stamps = [[name, file.stamp] for name, file in sorted(each)]
    latest = max((file.mtime_ns for _, file in each), default=0)
    return FileInfo(None, latest, value_digest(stamps) if all(s for _, s in stamps) else "")


def _of_each(address: str, call: Callable[[str], _T]) -> tuple[Node, list[_T]]:
    """Open an image; return it, and what a call gives for each of its files.

    Chunks without values have no file.
    """

    def present(name: str) -> _T | None:
        try:
            return call(name)
        except FileNotFoundError:
            return None

    with (
        library_verdicts(address),
        verdict_on(address),
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-zarr") as pool,
    ):
        node: Node = try_again(address, lambda: zarr.open(address, mode="r"))
        names = _files(node, try_again(address, lambda: _arrays(address, node)))
        results: list[_T] = []
        while some := list(islice(names, _TOGETHER)):
            results += [one for one in pool.map(present, some) if one is not None]
        return node, results


def _files(node: Node, arrays: dict[str, Array]) -> Iterator[str]:
    """Yield every file that an image or an array may have, from the URL on."""
    version = node.metadata.zarr_format
    if isinstance(node, zarr.Group):
        yield from _METADATA[version]
    for name, array in arrays.items():
        before = f"{name}/" if name else ""
        yield from (f"{before}{file}" for file in _METADATA[version])
        # The grid of a sharded array's files is the shards'.
        files = array.shards or array.chunks
        count = math.prod(-(-n // m) for n, m in zip(array.shape, files, strict=True))
        check_count(name, "chunks", count, None)
        for place in array.metadata.chunk_grid.all_chunk_coords(array.shape):
            yield before + array.metadata.encode_chunk_key(place)


def _arrays(address: str, node: Node) -> dict[str, Array]:
    """Return the arrays of an image by where they lie below it."""
    if isinstance(node, zarr.Array):
        return {"": node}
    try:
        arrays = {name: node.get(name) for name in array_names(node)}
        # A missing one is found out when the image is opened.
        return {name: array for name, array in arrays.items() if isinstance(array, zarr.Array)}
    except StoreAccessError:
        raise
    except InputError as error:
        inside = images_in(address)
        if not inside:
            raise _silent(address) from error
        raise InputError(
            f"{address}: a Zarr group of images; expected the address of one, such as "
            f"{join(address, inside[0])}"
        ) from error


def _silent(address: str) -> InputError:
    return InputError(
        f"{address}: a Zarr group that does not say what it holds, in a store that lists nothing "
        "there; expected OME-Zarr, or consolidated metadata (zarr.consolidate_metadata), or the "
        f"address of an array, such as {join(address, '0')}"
    )
