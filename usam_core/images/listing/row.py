"""One file's row in a listing: its digest and its header's verdict, or the row of an earlier time.

A file of several planes is one row with all of them as a text, `t=0,z=1;t=0,z=2`; planes that are
cut into tiles have their size behind them, `t=0,z=1@20000x30000`, and `@20000x30000` alone where a
file holds only one. `expand` makes a row of each plane.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from usam_core.config.images import ImagesConfig
from usam_core.files.digest import SETTLED_NS
from usam_core.files.fsspec_io import FileInfo, is_url, open_bytes
from usam_core.images.errors import UnusableImage, check_file, verdict_on
from usam_core.images.listing.content import (
    Stamp,
    bytes_key,
    file_key,
    folder_digest,
    folder_stamp,
    is_zarr_url,
    plane_digest,
    remembered_content,
    url_info,
)
from usam_core.images.ref import ImageRef, is_large
from usam_core.images.stores.base import depth_axis, flat
from usam_core.images.stores.factory import (
    Source,
    check_image,
    check_plane,
    is_store_folder,
    is_tiff,
    open_image,
    opened,
)

_BETWEEN, _SIZE = ";", "@"


class Row(NamedTuple):
    """A file as it is listed, and what tells whether that still holds.

    `planes` are those of a file that holds several or large ones, "" for one picture.
    `max_megapixels` and `tile` are the settings that the row was made with.
    """

    path: str
    sha256: str | None = None
    bytes: int = 0
    mtime_ns: int = 0
    status: str = "ok"
    code: str = ""
    reason: str = ""
    ctime_ns: int = 0
    seen_ns: int = 0
    max_megapixels: float = 0.0
    stamp: str = ""
    planes: str = ""
    tile: int = 0


SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),  # large ones become a table's columns uncopied
        ("sha256", pa.large_string()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("status", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("ctime_ns", pa.int64()),
        ("seen_ns", pa.int64()),
        ("max_megapixels", pa.float64()),
        ("stamp", pa.string()),
        ("planes", pa.string()),
        ("tile", pa.int32()),
    ],
    metadata={"reading": "3"},
)
"""`reading` is raised when the same file gets another key, other planes or another verdict."""


def batch_of(rows: Sequence[Row]) -> pa.RecordBatch:
    """Return rows as columns: a third of the memory and less."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def look_at(
    name: str, address: str | Path, info: FileInfo | None, before: Row | None, config: ImagesConfig
) -> tuple[Row, bool]:
    """Return a file's row, and whether it had to be made.

    Args:
        name: the path as it is listed.
        address: where the file lies.
        info: its store's metadata, if the listing had them.
        before: the row of an earlier listing.
        config: the limit on pixels, and how planes and large images are dealt with.

    Raises:
        TransientError: the network failed.
    """
    row: dict[str, Any] = {
        "path": name,
        "seen_ns": time.time_ns(),
        "max_megapixels": config.max_megapixels,
        "tile": config.tile or 0,
    }
    if before is not None and (
        before.sha256 is None
        or (before.max_megapixels, before.tile) != (row["max_megapixels"], row["tile"])
    ):
        before = None
    try:
        if name != _unicode(name):
            row["path"] = _unicode(name)
            raise UnusableImage(
                "bad_name", f"{row['path']}: the name is not valid Unicode; rename it"
            )
        if is_url(address):
            holds = _look_remote(row, address, info, before)
        else:
            holds = _look_local(row, ImageRef.parse(os.fspath(address)), before, config)
        if holds and before is not None:
            return before, False
    except UnusableImage as error:
        verdict = error.quarantined
        row |= {"status": "quarantined", "code": verdict.code, "reason": _unicode(verdict.reason)}
    return Row(**row), True


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _look_local(
    row: dict[str, Any], ref: ImageRef, before: Row | None, config: ImagesConfig
) -> bool:
    """Fill in the row of a file; return whether the row from before still holds instead."""
    stamp = _stamp(ref.file)
    if (
        before is not None
        and (before.bytes, before.mtime_ns, before.ctime_ns) == stamp
        and max(before.mtime_ns, before.ctime_ns) < before.seen_ns - SETTLED_NS
    ):
        return True
    row |= stamp._asdict()
    with verdict_on(ref.file):
        if ref.plane or ref.box is not None:
            row["sha256"] = plane_digest(remembered_content(ref.file), ref.plane)
            row["planes"] = check_named(ref, config.max_megapixels, config.projection, config.tile)
        elif os.path.isdir(ref.file):
            row["sha256"] = folder_digest(ref.file)
            row["planes"] = _planes(ref.file, row, is_store=True)
        else:
            if not os.path.isfile(ref.file):
                check_file(ref.file)  # refuses a pipe, which would be waited for
            with open(ref.file, "rb") as file:
                row["sha256"] = file_key(ref.file, file)
                row["planes"] = _planes(ref.file, row, file)
    return False


def _look_remote(
    row: dict[str, Any], address: str, info: FileInfo | None, before: Row | None
) -> bool:
    """As `_look_local`; a file is read once, for its digest and its header."""
    if any(part in ("", ".", "..") for part in row["path"].split("/")):
        raise UnusableImage(
            "bad_name", f"{address}: outputs take the images' names; expected one without .. in it"
        )
    with verdict_on(address):
        info = info or url_info(address)
        if before is not None and info.stamp and before.stamp == info.stamp:
            return True
        if is_zarr_url(address):
            from usam_core.images.listing.remote_zarr import zarr_digest

            row["sha256"], row["bytes"] = zarr_digest(address)
            content = None
        else:
            content = open_bytes(address)
            row |= {"sha256": bytes_key(content), "bytes": len(content)}
    row |= {"mtime_ns": info.mtime_ns, "stamp": info.stamp}
    row["planes"] = _planes(address, row, content, is_store=content is None)
    return False


def _stamp(path: str) -> Stamp:
    """Return size and times of a file or of a Zarr folder."""
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if is_store_folder(path):
            return folder_stamp(path)
    except FileNotFoundError as error:
        raise UnusableImage(
            "missing", f"{path}: no such file, or a link that leads nowhere"
        ) from error
    except (OSError, ValueError) as error:  # a name may be too long, or hold a NUL
        raise UnusableImage("unreadable", f"{path}: {getattr(error, 'strerror', error)}") from error
    raise UnusableImage("unreadable", f"{path}: the folder cannot be listed; check its permissions")


def _planes(
    address: str, row: dict[str, Any], content: Source = None, is_store: bool = False
) -> str:
    """Check a file's header; return its planes as text, "" for a picture that is not cut up."""
    limit, tile = row["max_megapixels"], row["tile"]
    if (
        not is_store
        and not is_tiff(address, content)
        and not is_large(check_image(address, limit, content), tile)
    ):
        return ""
    held = content if isinstance(content, bytes) else None
    with open_image(address, limit, content=held) as store:
        planes = store.planes()
        if len(planes) == 1:
            check_plane(store, ImageRef(address, planes[0]), limit, bool(tile))
        return _BETWEEN.join(
            str(ImageRef("", plane))[1:] + _size(store.size(plane), tile) for plane in planes
        )


def check_named(
    ref: ImageRef, max_megapixels: float, projection: str, tile: int | None = None
) -> str:
    """Check a plane that somebody has named, without reading its values.

    Returns:
        `@` and its size, if it is cut into tiles; else "".

    Raises:
        UnusableImage: the file cannot be used, or there is no such plane.
    """
    if ref.box is not None:
        raise UnusableImage(
            "unsupported", f"{ref}: expected an image or a plane, got a tile of one"
        )
    with opened(ref.file, max_megapixels, projection) as store:
        check_plane(store, ref, max_megapixels, bool(tile))
        return _size(store.size(ref.plane), tile)


def _size(size_hw: tuple[int, int], tile: int | None) -> str:
    return f"{_SIZE}{size_hw[0]}x{size_hw[1]}" if is_large(size_hw, tile) else ""


def large_size(text: str) -> tuple[int, int]:
    """Return rows and columns of a plane that is cut into tiles, as `expand` left them."""
    height, width = text.split("x")
    return int(height), int(width)


def expand(batch: pa.RecordBatch, projection: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a listing with one row for each plane, in the order of the file.

    `planes` is then the size of a plane that is cut into tiles (`large_size`), "" for all others.

    Args:
        batch: rows of `SCHEMA`.
        projection: anything but "none" takes the planes of all z as one.
    """
    done = 0
    for number, text in enumerate(batch["planes"].to_pylist()):
        # A file that is left out is one row, whatever it holds.
        if not text or batch["status"][number].as_py() != "ok":
            continue
        yield batch.slice(done, number - done)
        row = Row(*(column[number].as_py() for column in batch.columns))
        yield batch_of(
            [
                row._replace(
                    path=str(ImageRef(row.path, plane)),
                    sha256=plane_digest(row.sha256 or "", plane),
                    planes=size,
                )
                for plane, size in _parse_planes(row.path, text, projection)
            ]
        )
        done = number + 1
    yield batch.slice(done)


def _parse_planes(
    path: str, text: str, projection: str
) -> list[tuple[tuple[tuple[str, int], ...], str]]:
    """Return each plane with the text of its size, "" where it is not cut into tiles."""
    parts = [part.partition(_SIZE) for part in text.split(_BETWEEN)]
    planes = [
        (ImageRef.parse(f"_#{plane}").plane if plane else (), size) for plane, _, size in parts
    ]
    if projection == "none":
        return planes
    axis = depth_axis(path, [plane for plane, _ in planes])
    return list(dict.fromkeys((flat(plane, axis), size) for plane, size in planes))
