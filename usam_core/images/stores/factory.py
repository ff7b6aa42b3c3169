"""Opens the store that a file belongs to, and checks headers without decoding a pixel."""

import functools
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from usam_core.files.fsspec_io import is_url, open_bytes, try_again
from usam_core.images.errors import (
    UnusableImage,
    check_file,
    check_size,
    library_verdicts,
    verdict_on,
)
from usam_core.images.listing.content import TIFF, content_mark, is_zarr_url
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import DEEP
from usam_core.images.stores.base import ImageStore, Projected, depth_axis
from usam_core.images.stores.picture import HEADER_BYTES, PictureStore, deep_colors, open_picture
from usam_core.images.stores.tiff import TiffStore
from usam_core.images.stores.zarr_store import ZarrStore

_ZARR = ("zarr.json", ".zgroup", ".zarray")

Source = bytes | BinaryIO | None
"""A file's content: its bytes, the open file, or None to open it by its path."""


@contextmanager
def _file(path: str, content: Source) -> Iterator[BinaryIO]:
    """Open a file's content at its first byte."""
    if content is None:
        check_file(path)
        with verdict_on(path), open(path, "rb") as file:
            yield file
    elif isinstance(content, bytes):
        yield io.BytesIO(content)
    else:
        content.seek(0)
        yield content


def is_tiff(path: str, content: Source = None) -> bool:
    """Return whether a plain file with bytes in it begins like a TIFF."""
    with _file(path, content) as file:
        head = file.read(4)
    if not head:
        raise UnusableImage("empty", f"{path}: the file is empty (0 bytes)")
    return head in TIFF


def check_image(
    path: str | Path, max_megapixels: float = 100.0, content: Source = None
) -> tuple[int, int]:
    """Check a single picture's header, decoding no pixel; `read_image` checks the rest.

    Returns:
        Rows and columns; of other files than TIFF before they are turned upright.

    Raises:
        UnusableImage: the file cannot be used as a single picture, with one of `REASONS`.
    """
    path = os.fspath(path)
    if is_tiff(path, content):
        held = content if isinstance(content, bytes) else None
        with open_image(path, max_megapixels, content=held) as store:
            check_plane(store, ImageRef(path, ()), max_megapixels)
            return store.size(())
    with _file(path, content) as file, open_picture(file, path, max_megapixels) as image:
        width, height = image.size
        return height, width


def may_be_deep(path: str, max_megapixels: float) -> bool:
    """Return whether a file may hold more than 8 bit a channel, as far as its header says."""
    if is_url(path) or os.path.isdir(path) or is_tiff(path):
        return True
    with _file(path, None) as file, open_picture(file, path, max_megapixels) as image:
        file.seek(0)
        return image.mode in DEEP or deep_colors(image, file.read(HEADER_BYTES)) > 0


def open_image(
    path: str, max_megapixels: float = 100.0, projection: str = "none", content: bytes | None = None
) -> ImageStore:
    """Open the store of a file or of a Zarr group; the caller closes it.

    Args:
        path: the file or the folder, without a plane.
        max_megapixels: limit on a picture that can only be decoded whole.
        projection: "none", or how all z become one plane.
        content: the file's bytes, if they have been read.

    Raises:
        UnusableImage: it cannot be used, whichever plane is meant.
    """
    with library_verdicts(path):
        store = _open(path, max_megapixels, content)
        if projection == "none":
            return store
        return Projected(store, projection, depth_axis(path, store.planes()))


def _open(path: str, max_megapixels: float, content: bytes | None) -> ImageStore:
    if is_zarr_url(path):
        with verdict_on(path):
            return try_again(path, lambda: ZarrStore(path))
    if not is_url(path) and os.path.isdir(path):
        if not is_store_folder(path):
            raise UnusableImage(
                "unreadable",
                f"{path}: expected a plain file, or a Zarr folder with one of {', '.join(_ZARR)}; "
                "got a folder without",
            )
        return ZarrStore(path)
    if is_url(path) and content is None:
        with verdict_on(path):
            content = open_bytes(path)
    if is_tiff(path, content):
        return TiffStore(path if content is None else _Bytes(content))
    return PictureStore(path, max_megapixels, content)


class _Bytes(io.BytesIO):
    """A read-only file in memory: zarr opens for writing alone what it could write to."""

    def writable(self) -> bool:
        return False


def is_store_folder(path: str) -> bool:
    """Return whether a folder is a Zarr group or array."""
    return any(os.path.isfile(os.path.join(path, name)) for name in _ZARR)


@contextmanager
def opened(path: str, max_megapixels: float, projection: str) -> Iterator[ImageStore]:
    """Yield a file's store; the last few stay open, for planes are read one after the other.

    Whatever goes wrong within the block is an `UnusableImage`.
    """
    with library_verdicts(path):
        with verdict_on(path):
            mark = content_mark(path)
        yield _kept_open(path, mark, max_megapixels, projection)


@functools.lru_cache(maxsize=4)
def _kept_open(path: str, _mark: str, max_megapixels: float, projection: str) -> ImageStore:
    return open_image(path, max_megapixels, projection)


def check_plane(
    store: ImageStore, ref: ImageRef, max_megapixels: float, tiled: bool = False
) -> None:
    """Refuse an address that the file does not have, and a plane that is too large.

    Args:
        store: of the file.
        ref: the address.
        max_megapixels: limit on what is decoded at once.
        tiled: larger planes are cut into tiles, where they can be read in parts.

    Raises:
        UnusableImage: with the code `multi_page`, `no_plane`, `too_large` or `elongated`.
    """
    planes = store.planes()
    try:
        size_hw = store.size(ref.plane)
    except KeyError:
        first, last = (ImageRef(Path(ref.file).name, plane) for plane in (planes[0], planes[-1]))
        code = "no_plane" if ref.plane else "multi_page"
        raise UnusableImage(
            code,
            f"{ref}: the file holds {len(planes)} planes, {first} to {last}; expected the address "
            "of one of them (images.projection takes z together)",
        ) from None
    if ref.box is not None:
        check_size(ref, ref.box.size_hw, max_megapixels)
    if not (tiled or ref.box is not None) or not store.in_parts(ref.plane):
        check_size(ref, size_hw, max_megapixels)
