"""Content keys of files and Zarr folders, and what tells cheaply that a content did not change."""

import errno
import functools
import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from usam_core.files.digest import file_digest, value_digest
from usam_core.files.fsspec_io import FileInfo, info, is_url, open_bytes
from usam_core.images.ref import ImageRef, tile_digest
from usam_core.images.stores.base import Plane

ENDING = ".zarr"
"""Folders of this ending are image stores, not folders of images."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF."""

_BESIDE = "labels"
_COPIES = (".zmetadata",)
_TRUSTED_S = 60
"""Seconds for which the metadata of a Zarr behind a URL hold, or ten times as long as the look
took: each asks for each of its files."""
_MAX_MARKS = 256
_MARKS: dict[str, tuple[str, float]] = {}
"""The last mark of a Zarr behind a URL, and until when that holds, by its address."""
_LOOKING = threading.Lock()


class Stamp(NamedTuple):
    """Of a Zarr folder the sum of its files' sizes, and the latest of their times."""

    bytes: int
    mtime_ns: int
    ctime_ns: int


def folder_stamp(path: str | Path) -> Stamp:
    """Return the stamp of a Zarr folder; OSError if a file in it cannot be looked at."""
    stamps = [os.stat(file) for file in _files(str(path))]
    return Stamp(
        sum(status.st_size for status in stamps),
        max((status.st_mtime_ns for status in stamps), default=0),
        max((status.st_ctime_ns for status in stamps), default=0),
    )


def folder_digest(path: str | Path) -> str:
    """Return the digest of a Zarr folder: of its files' names and contents (but see `anew`).

    Label images inside and copies of metadata do not count: writing labels into an image does not
    make it another image. OSError if a file cannot be read.
    """
    # Only who has one pays for the import.
    from usam_core.images.stores.anew import zarr_key_as_read

    names = ((os.path.relpath(file, path).replace(os.sep, "/"), file) for file in _files(str(path)))
    digest = value_digest([[name, file_digest(file)] for name, file in sorted(names)])
    return zarr_key_as_read(digest, str(path))


def _files(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if name != _BESIDE]
        yield from (os.path.join(root, name) for name in names if name not in _COPIES)


def file_key(path: str, file: io.BufferedReader) -> str:
    """Return the content key of a file that is open; OSError if it cannot be read."""
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return _as_read(hashlib.file_digest(file, "sha256").hexdigest(), head, path)


def bytes_key(content: bytes) -> str:
    """Return the content key of a file that holds these bytes."""
    return _as_read(hashlib.sha256(content).hexdigest(), content[:4], content)


def _as_read(digest: str, head: bytes, source: str | bytes) -> str:
    """Return the digest of a file's bytes, but for some TIFFs (`anew`)."""
    if head not in TIFF:
        return digest
    from usam_core.images.stores.anew import key_as_read

    return key_as_read(digest, source)


def ref_digest(content: str, ref: ImageRef) -> str:
    """Return the content key of a file, a plane, or a tile of one; `content` is the file's."""
    key = plane_digest(content, ref.plane)
    return key if ref.box is None else tile_digest(key, ref.box)


def plane_digest(content: str, plane: Plane) -> str:
    """Return the content key of a plane; a file of a single picture keeps its own digest."""
    return value_digest([content, str(ImageRef("", plane))]) if plane else content


def content_key(address: str | Path) -> str:
    """Return the content key of an image: of a file, a URL, or the plane of one."""
    ref = ImageRef.parse(os.fspath(address))
    if ref.file == str(ref) and not (is_url(ref.file) or os.path.isdir(ref.file)):
        return _read_key(ref.file)
    return ref_digest(remembered_content(ref.file), ref)


def mismatch(address: str | Path, sha256: str | None) -> str:
    """Return how a file, a URL or a plane differs from its content key; "" if it is as it was."""
    try:
        # A pipe or a device in a file's place is not waited for.
        file = ImageRef.parse(os.fspath(address)).file
        if not is_url(file) and not (os.path.isfile(file) or os.path.isdir(file)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        key = content_key(address)
    except OSError as error:
        key, got = "", error.strerror or repr(error)
    else:
        got = key[:12]
    expected = sha256[:12] if sha256 else "none"
    return "" if key and key == sha256 else f"expected SHA-256 {expected}, got {got}"


def remembered_content(address: str) -> str:
    """Return the digest of a file, a URL or a Zarr folder; it is read only if its mark differs."""
    return _remembered(address, content_mark(address))


@functools.lru_cache(maxsize=256)
def _remembered(address: str, _mark: str) -> str:
    return _read_key(address)


def _read_key(address: str) -> str:
    if is_zarr_url(address):
        from usam_core.images.listing.remote_zarr import zarr_digest

        return zarr_digest(address)[0]
    if is_url(address):
        return bytes_key(open_bytes(address))
    if os.path.isdir(address):
        return folder_digest(address)
    with open(address, "rb") as file:
        return file_key(address, file)


def content_mark(address: str) -> str:
    """Return a mark that differs when the content of a file, a URL or a Zarr folder does."""
    if not is_url(address) and os.path.isdir(address):
        return str(folder_stamp(address))
    if not is_zarr_url(address):
        # Of a store that marks nothing, each look may find something else.
        return info(address).stamp or str(time.monotonic_ns())
    # One thread looks, at all the image's files; the others wait for its result.
    with _LOOKING:
        mark, until = _MARKS.pop(address, ("", 0.0))
        began = time.monotonic()
        if began >= until:
            mark = url_info(address).stamp or str(time.monotonic_ns())
            ended = time.monotonic()
            # A look that took long is trusted for long, or there would be nothing but looks.
            until = ended + max(_TRUSTED_S, 10 * (ended - began))
        _MARKS[address] = mark, until
        if len(_MARKS) > _MAX_MARKS:
            del _MARKS[next(iter(_MARKS))]
        return mark


def is_zarr_url(address: object) -> bool:
    """Return whether a URL is of a Zarr group or array, as its name says.

    >>> is_zarr_url("s3://lab/plate.zarr/A/1/0"), is_zarr_url("s3://lab/plate.zarr/thumb.png")
    (True, False)
    """
    if not is_url(address):
        return False
    *above, last = address.lower().rstrip("/").split("/")
    return last.endswith(ENDING) or ("." not in last and any(a.endswith(ENDING) for a in above))


def url_info(address: str) -> FileInfo:
    """Return the metadata of a file or a Zarr behind a URL."""
    if not is_zarr_url(address):
        return info(address)
    from usam_core.images.listing.remote_zarr import zarr_info

    return zarr_info(address)
