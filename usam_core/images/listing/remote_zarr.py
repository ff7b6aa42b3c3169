"""Zarr behind a URL: its files are known from its metadata, so that nothing has to be listed.

Of a Zarr folder on this disk the files are found; a web server shows no folders, and a store of
objects may refuse to. Only a group that says nothing of what it holds has to be listed.
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
from usam_core.images.errors import library_verdicts, verdict_on
from usam_core.images.stores.anew import zarr_key_as_read
from usam_core.images.stores.limits import check_count
from usam_core.images.stores.zarr_store import array_names, images_in

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
        found = try_again(address, lambda: images_in(address))
        if not found:
            raise _silent(address)
        return found


def zarr_digest(address: str) -> tuple[str, int]:
    """Return the digest of an image's files, as a folder of them has it, and their bytes.

    Raises:
        UnusableImage: the image cannot be read.
        TransientError: the network failed.
    """

    def digest(name: str) -> tuple[str, str, int]:
        content = open_bytes(join(address, name))
        return name, hashlib.sha256(content).hexdigest(), len(content)

    node, each = _of_each(address, digest)
    found = sorted(each)
    key = zarr_key_as_read(value_digest([[name, sha256] for name, sha256, _ in found]), node)
    return key, sum(size for *_, size in found)


def zarr_info(address: str) -> FileInfo:
    """Return what is told of an image's files without reading their values.

    Raises:
        UnusableImage: the image cannot be read.
        TransientError: the network failed.
    """

    def look(name: str) -> tuple[str, FileInfo]:
        return name, info(join(address, name))

    found = sorted(_of_each(address, look)[1])
    stamps = [[name, told.stamp] for name, told in found]
    latest = max((told.mtime_ns for _, told in found), default=0)
    return FileInfo(None, latest, value_digest(stamps) if all(s for _, s in stamps) else "")


def _of_each(address: str, call: Callable[[str], _T]) -> tuple[zarr.Group | zarr.Array, list[_T]]:
    """Return an image, and what a call gives for each of its files that is there.

    Chunks without values have none.
    """

    def there(name: str) -> _T | None:
        try:
            return call(name)
        except FileNotFoundError:
            return None

    with (
        library_verdicts(address),
        verdict_on(address),
        ThreadPoolExecutor(_THREADS, thread_name_prefix="usam-zarr") as pool,
    ):
        node = try_again(address, lambda: zarr.open(address, mode="r"))
        names = _files(node, try_again(address, lambda: _arrays(address, node)))
        found: list[_T] = []
        while some := list(islice(names, _TOGETHER)):
            found += [one for one in pool.map(there, some) if one is not None]
        return node, found


def _files(node: zarr.Group | zarr.Array, arrays: dict[str, zarr.Array]) -> Iterator[str]:
    """Yield every file that an image or an array may have, from the URL on."""
    version = node.metadata.zarr_format
    if isinstance(node, zarr.Group):
        yield from _METADATA[version]
    for name, array in arrays.items():
        before = f"{name}/" if name else ""
        yield from (f"{before}{file}" for file in _METADATA[version])
        # Of a sharded array the grid of its files is the shards'.
        files = array.shards or array.chunks
        count = math.prod(-(-n // m) for n, m in zip(array.shape, files, strict=True))
        check_count(name, "chunks", count, None)
        for place in array.metadata.chunk_grid.all_chunk_coords(array.shape):
            yield before + array.metadata.encode_chunk_key(place)


def _arrays(address: str, node: zarr.Group | zarr.Array) -> dict[str, zarr.Array]:
    """Return the arrays of an image by where they lie below it."""
    if isinstance(node, zarr.Array):
        return {"": node}
    try:
        found = {name: node.get(name) for name in array_names(node)}
        # One that is missing is for who opens the image to tell.
        return {name: array for name, array in found.items() if isinstance(array, zarr.Array)}
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
