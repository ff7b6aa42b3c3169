"""One file's row in a listing: its digest and its header's verdict, or what is known already."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from usam_core.config.images import ImagesConfig
from usam_core.files.digest import SETTLED_NS
from usam_core.files.fsspec_io import FileInfo, is_url, open_bytes
from usam_core.images.listing.cache import Row
from usam_core.images.listing.content import (
    Stamp,
    bytes_key,
    file_key,
    folder_digest,
    is_zarr_url,
    told_of,
)
from usam_core.images.listing.planes import check_named, named_key, planes_of, stamp_of
from usam_core.images.read import UnusableImage, check_bytes, check_image, verdict_on
from usam_core.images.ref import ImageRef, is_large
from usam_core.images.stores.factory import Source, is_tiff

Looked = tuple[Row, bool]
"""A file's row, and whether it was not known already."""


def look_at(
    name: str,
    address: str | Path,
    told: FileInfo | None,
    before: Row | None,
    config: ImagesConfig,
) -> Looked:
    """Return a file's row, and whether it had to be made.

    Args:
        name: the path as it is listed.
        address: where the file lies.
        told: what its store said of it when it was found, if it did.
        before: the row of an earlier listing.
        config: the limit on pixels, and how planes and large images are dealt with.

    Raises:
        TransientError: the network failed.
    """
    limit = config.max_megapixels
    row = Row(name, seen_ns=time.time_ns(), max_megapixels=limit, tile=config.tile or 0)
    try:
        if not _is_unicode(name):
            row = row._replace(path=name.encode("utf-8", "replace").decode("utf-8"))
            raise UnusableImage("bad_name", f"{row.path}: the name is not valid Unicode; rename it")
        if is_url(address):
            return _look_remote(row, address, told, before)
        ref = ImageRef.parse(os.fspath(address))
        found = stamp_of(ref.file)
        if before is not None and _is_unchanged(before, row, found):
            return before, False
        row = row._replace(**found._asdict())
        if ref.plane or ref.box is not None:
            row = row._replace(sha256=named_key(ref))
            planes = check_named(ref, limit, config.projection, config.tile)
            return row._replace(planes=planes), True
        with _opened(ref.file) as file:
            row = row._replace(sha256=_digest(ref.file, file))
            row = row._replace(planes=_check(ref.file, row, file))
    except UnusableImage as error:
        row = _quarantined(row, error)
    return row, True


def _quarantined(row: Row, error: UnusableImage) -> Row:
    bad = error.quarantined
    reason = bad.reason.encode("utf-8", "replace").decode("utf-8")
    return row._replace(status="quarantined", code=bad.code, reason=reason)


def _look_remote(row: Row, address: str, told: FileInfo | None, before: Row | None) -> Looked:
    """Read a file of a store once, for its digest and its header, unless its mark is known."""
    if any(part in ("", ".", "..") for part in row.path.split("/")):
        raise UnusableImage(
            "bad_name", f"{address}: outputs take the images' names; expected one without .. in it"
        )
    limit = row.max_megapixels
    with verdict_on(address):
        told = told or told_of(address)
    if (
        before is not None
        and told.stamp
        and before.stamp == told.stamp
        and (before.max_megapixels, before.tile) == (limit, row.tile)
        and before.sha256 is not None
    ):
        return before, False
    if is_zarr_url(address):
        return _look_at_zarr(row, address, told), True
    with verdict_on(address):
        content = open_bytes(address)
    row = row._replace(
        sha256=bytes_key(content),
        bytes=len(content),
        mtime_ns=told.mtime_ns,
        stamp=told.stamp,
    )
    try:
        row = row._replace(
            planes=_planes(lambda: check_bytes(content, address, limit), row, address, content)
        )
    except UnusableImage as error:
        row = _quarantined(row, error)
    return row, True


def _look_at_zarr(row: Row, address: str, told: FileInfo) -> Row:
    from usam_core.images.listing.remote_zarr import zarr_digest

    sha256, size = zarr_digest(address)
    row = row._replace(sha256=sha256, bytes=size, mtime_ns=told.mtime_ns, stamp=told.stamp)
    try:
        return row._replace(planes=planes_of(address, row.max_megapixels, tile=row.tile))
    except UnusableImage as error:
        return _quarantined(row, error)


def _check(path: str, row: Row, file: BinaryIO | None) -> str:
    """Return the planes of a file that holds several or large ones; "" for any other picture."""
    if os.path.isdir(path):
        return planes_of(path, row.max_megapixels, tile=row.tile)
    return _planes(lambda: check_image(path, row.max_megapixels, file), row, path, file)


def _planes(
    check: Callable[[], tuple[int, int]], row: Row, address: str, content: Source = None
) -> str:
    """Return the planes of a TIFF, and of a picture that is to be cut into tiles.

    Args:
        check: checks a picture's header, and returns its size.
        row: with the settings.
        address: the file or URL.
        content: what it holds.
    """
    if not is_tiff(address, content) and not is_large(check(), row.tile):
        return ""
    held = content if isinstance(content, bytes) else None
    return planes_of(address, row.max_megapixels, held, row.tile)


def _digest(path: str, file: BinaryIO | None) -> str | None:
    try:
        if os.path.isdir(path):
            return folder_digest(path)
        return None if file is None else file_key(path, file)
    except OSError as error:
        raise _unreadable(path, error) from error


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO | None]:
    """Open a plain file once for all that a listing wants of it; None for anything else."""
    if not os.path.isfile(path):
        yield None
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise _unreadable(path, error) from error
        yield file


def _unreadable(path: str, error: OSError) -> UnusableImage:
    return UnusableImage("unreadable", f"{path}: {error.strerror}; check its permissions")


def _is_unchanged(before: Row, row: Row, found: Stamp) -> bool:
    return (
        (before.bytes, before.mtime_ns, before.ctime_ns) == found
        and (before.max_megapixels, before.tile) == (row.max_megapixels, row.tile)
        and before.sha256 is not None
        and max(before.mtime_ns, before.ctime_ns) < before.seen_ns - SETTLED_NS
    )


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
