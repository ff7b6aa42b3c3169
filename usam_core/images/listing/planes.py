"""What planes a listed file holds: as one text beside its row, and as rows of their own.

Planes that are to be cut into tiles have their size behind them: `t=0,z=1@20000x30000`, and
`@20000x30000` where a file holds but one.
"""

import os
import stat
from collections.abc import Iterator, Sequence

import pyarrow as pa

from usam_core.images.errors import UnusableImage, verdict_on
from usam_core.images.listing.content import Stamp, folder_stamp, plane_digest, remembered_content
from usam_core.images.ref import ImageRef, is_large
from usam_core.images.stores.base import Plane
from usam_core.images.stores.factory import (
    check_plane,
    is_store_folder,
    needs_store,
    open_image,
    opened,
)
from usam_core.images.stores.show import depth_axis, flat

_BETWEEN = ";"
_SIZE = "@"


def planes_of(
    address: str, max_megapixels: float, content: bytes | None = None, tile: int | None = None
) -> str:
    """Return the planes of a file as `expand` reads them; "" for a single picture.

    Args:
        address: the file, the URL or the Zarr folder.
        max_megapixels: the most that may be decoded at once.
        content: what a URL holds.
        tile: larger planes are cut into tiles; None or 0 cuts none.

    Raises:
        UnusableImage: the file cannot be used.
    """
    if not tile and not needs_store(address, max_megapixels, content):
        return ""
    with open_image(address, max_megapixels, content=content) as store:
        planes = store.planes()
        if len(planes) == 1:
            check_plane(store, ImageRef(address, planes[0]), max_megapixels, bool(tile))
        return _BETWEEN.join(
            str(ImageRef("", plane))[1:] + _size(store.size(plane), tile) for plane in planes
        )


def named_key(ref: ImageRef) -> str:
    """Return the content key of a plane that somebody has named.

    A file is read once, however many of its planes are named.

    Raises:
        UnusableImage: the file cannot be read.
    """
    with verdict_on(ref.file):
        return plane_digest(remembered_content(ref.file), ref.plane)


def check_named(
    ref: ImageRef, max_megapixels: float, projection: str, tile: int | None = None
) -> str:
    """Check a plane that somebody has named; its file is opened, no value is read.

    Returns:
        The plane, as `planes_of` does for those to be cut into tiles; else "".

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


def stamp_of(path: str) -> Stamp:
    """Return size and times of a file or of a Zarr folder.

    Raises:
        UnusableImage: it is not there, or cannot be looked at.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if is_store_folder(path):
            return folder_stamp(path)
    except FileNotFoundError as error:
        raise UnusableImage(
            "missing", f"{path}: no such file, or a link that leads nowhere"
        ) from error
    except (OSError, ValueError) as error:  # a name may be too long, or hold a NUL
        raise UnusableImage("unreadable", f"{path}: {getattr(error, 'strerror', error)}") from error
    raise UnusableImage("unreadable", f"{path}: the folder cannot be listed; check its permissions")


def expand(batch: pa.RecordBatch, projection: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a listing with one row for each plane, in the order of the file.

    What is left in `planes` is the size of a plane that is cut into tiles, as `large_size` reads
    it, and "" for all others.

    Args:
        batch: rows with the columns `path`, `sha256` and `planes`.
        projection: anything but "none" takes the planes of all z as one.
    """
    done = 0
    paths = batch["path"]
    for number, text in enumerate(batch["planes"].to_pylist()):
        # A file that is to be left out is one row, whatever it holds.
        if not text or batch["status"][number].as_py() != "ok":
            continue
        yield batch.slice(done, number - done)
        yield _rows(batch.slice(number, 1), _planes(paths[number].as_py(), text, projection))
        done = number + 1
    yield batch.slice(done)


def large_size(text: str) -> tuple[int, int]:
    """Return rows and columns of a plane, of what `expand` left in `planes`."""
    height, width = text.split("x")
    return int(height), int(width)


def _size(size_hw: tuple[int, int], tile: int | None) -> str:
    return f"{_SIZE}{size_hw[0]}x{size_hw[1]}" if is_large(size_hw, tile) else ""


def _rows(row: pa.RecordBatch, planes: Sequence[tuple[Plane, str]]) -> pa.RecordBatch:
    path, sha256 = row["path"][0].as_py(), row["sha256"][0].as_py()
    # The text of all planes, once for each of them, would be as many squared.
    place = row.schema.get_field_index("planes")
    field = row.schema.field(place)
    row = row.set_column(place, field, pa.array([""], field.type))
    many = row.take(pa.array([0] * len(planes)))
    columns = {
        "path": [str(ImageRef(path, plane)) for plane, _ in planes],
        "sha256": [plane_digest(sha256, plane) for plane, _ in planes],
        "planes": [size for _, size in planes],
    }
    for name, values in columns.items():
        place = many.schema.get_field_index(name)
        field = many.schema.field(place)
        many = many.set_column(place, field, pa.array(values, field.type))
    return many


def _planes(path: str, text: str, projection: str) -> list[tuple[Plane, str]]:
    """Return each plane with the text of its size, "" where it is not cut into tiles."""
    parts = [part.partition(_SIZE) for part in text.split(_BETWEEN)]
    planes = [
        (ImageRef.parse(f"_#{plane}").plane if plane else (), size) for plane, _, size in parts
    ]
    if projection == "none":
        return planes
    axis = depth_axis(path, [plane for plane, _ in planes])
    return list(dict.fromkeys((flat(plane, axis), size) for plane, size in planes))
