"""Which store a file belongs to, and one plane of it by its address."""

import functools
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import ImageFile

from usam_core.files.fsspec_io import is_url, open_bytes, try_again
from usam_core.images.errors import (
    UnusableImage,
    check_file,
    check_size,
    library_verdicts,
    verdict_on,
)
from usam_core.images.listing.content import TIFF, content_mark, is_zarr_url
from usam_core.images.pillow import open_picture
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import DEEP
from usam_core.images.stores.base import ImageStore
from usam_core.images.stores.picture import PictureStore, deep_colors
from usam_core.images.stores.show import Projected, depth_axis
from usam_core.images.stores.tiff import TiffStore
from usam_core.images.stores.zarr_store import ZarrStore

_ZARR = ("zarr.json", ".zgroup", ".zarray")
_HEAD_BYTES = 2**16
"""Within these JPEG 2000 says how deep it is."""


Source = bytes | BinaryIO | None
"""What a file holds: its bytes, the file opened already, or None to open it by its path."""


def needs_store(path: str, max_megapixels: float, content: Source = None) -> bool:
    """Return whether Pillow's 8 bit are not enough: a TIFF, a Zarr, or colour of more.

    Pillow's modes leave out how many samples a TIFF has, of what type, and where they lie.

    Args:
        path: the file or the folder.
        max_megapixels: limit on a picture's size.
        content: what it holds.

    Raises:
        UnusableImage: the file cannot be used, as far as its header says.
    """
    if is_zarr_url(path):
        return True
    if content is None and os.path.isdir(path):
        _check_folder(path)
        return True
    if is_tiff(path, content):
        return True
    with _picture(path, max_megapixels, content) as (file, image):
        file.seek(0)
        return deep_colors(image, file.read(_HEAD_BYTES)) > 0


def is_tiff(path: str, content: Source = None) -> bool:
    """Return whether a file begins like a TIFF.

    Raises:
        UnusableImage: it is no plain file with bytes in it, or cannot be read.
    """
    if isinstance(content, bytes):
        return content.startswith(TIFF)
    check_file(path)
    with verdict_on(path), _file(path, content) as file:
        return file.read(4) in TIFF


@contextmanager
def _file(path: str, content: Source) -> Iterator[BinaryIO]:
    """Open a file's content for reading from its first byte."""
    if content is None:
        with open(path, "rb") as file:
            yield file
    elif isinstance(content, bytes):
        yield io.BytesIO(content)
    else:
        content.seek(0)
        yield content


def check_image(
    path: str | Path, max_megapixels: float = 100.0, file: BinaryIO | None = None
) -> tuple[int, int]:
    """Check what the header of a file tells, decoding no pixel; `read_image` checks the rest.

    Returns:
        Rows and columns; of other files than TIFF before they are turned upright.

    Raises:
        UnusableImage: the file cannot be used as a single picture, with one of `REASONS`.
    """
    return _check(os.fspath(path), max_megapixels, file)


def check_bytes(content: bytes, address: str, max_megapixels: float = 100.0) -> tuple[int, int]:
    """Check the header of a file that has been read; as `check_image`."""
    if not content:
        raise UnusableImage("empty", f"{address}: the file is empty (0 bytes)")
    return _check(address, max_megapixels, content)


def _check(path: str, max_megapixels: float, content: Source) -> tuple[int, int]:
    if not is_tiff(path, content):
        with _picture(path, max_megapixels, content) as (_, image):
            return image.size[::-1]
    held = content if isinstance(content, bytes) else None
    with open_image(path, max_megapixels, content=held) as store:
        check_plane(store, ImageRef(path, ()), max_megapixels)
        return store.size(())


@contextmanager
def _picture(
    path: str, max_megapixels: float, content: Source = None
) -> Iterator[tuple[BinaryIO, ImageFile.ImageFile]]:
    with (
        verdict_on(path),
        _file(path, content) as file,
        open_picture(file, path, max_megapixels) as image,
    ):
        yield file, image


def may_be_deep(path: str, max_megapixels: float) -> bool:
    """Return whether a file may hold more than 8 bit a channel, as far as its header says.

    Raises:
        UnusableImage: the file cannot be used.
    """
    if is_url(path) or needs_store(path, max_megapixels):
        return True
    with _picture(path, max_megapixels) as (_, image):
        return image.mode in DEEP


def open_image(
    path: str,
    max_megapixels: float = 100.0,
    projection: str = "none",
    content: bytes | None = None,
) -> ImageStore:
    """Open the store of a file or of a Zarr group; the caller closes it.

    Args:
        path: the file or the folder, without a plane.
        max_megapixels: limit on a picture that can only be decoded whole.
        projection: "none", or how all z become one plane.
        content: of a URL, what it holds, where that is known.

    Raises:
        UnusableImage: it cannot be used; what is no plane's fault alone.
    """
    with library_verdicts(path):
        found = _open(path, max_megapixels, content)
        if projection == "none":
            return found
        return Projected(found, projection, depth_axis(path, found.planes()))


@contextmanager
def opened(path: str, max_megapixels: float, projection: str) -> Iterator[ImageStore]:
    """Yield a file's store; the last few stay open, for planes are read one after the other.

    Raises:
        UnusableImage: as `open_image`; and whatever goes wrong within the block.
    """
    with library_verdicts(path):
        with verdict_on(path):
            mark = content_mark(path)
        yield _kept_open(path, mark, max_megapixels, projection)


def check_plane(
    store: ImageStore, ref: ImageRef, max_megapixels: float, tiled: bool = False
) -> None:
    """Refuse an address that the file does not have, and a plane that is too large.

    Args:
        store: of the file.
        ref: the address.
        max_megapixels: the most that may be decoded at once.
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
    if (tiled or ref.box is not None) and store.in_parts(ref.plane):
        return
    check_size(ref, size_hw, max_megapixels)


@functools.lru_cache(maxsize=4)
def _kept_open(path: str, _mark: str, max_megapixels: float, projection: str) -> ImageStore:
    return open_image(path, max_megapixels, projection)


def _open(path: str, max_megapixels: float, content: bytes | None) -> ImageStore:
    if is_zarr_url(path):
        with verdict_on(path):
            return try_again(path, lambda: ZarrStore(path))
    if not is_url(path) and os.path.isdir(path):
        _check_folder(path)
        return ZarrStore(path)
    if is_url(path) and content is None:
        with verdict_on(path):
            content = open_bytes(path)
    if is_tiff(path, content):
        return TiffStore(path if content is None else _Bytes(content))
    return PictureStore(path, max_megapixels, content)


class _Bytes(io.BytesIO):
    """A file in memory that is only read: zarr opens what it could write to for writing alone."""

    def writable(self) -> bool:
        return False


def is_store_folder(path: str) -> bool:
    """Return whether a folder is a Zarr group or array."""
    return any(os.path.isfile(os.path.join(path, name)) for name in _ZARR)


def _check_folder(path: str) -> None:
    if not is_store_folder(path):
        raise UnusableImage(
            "unreadable",
            f"{path}: expected a plain file, or a Zarr folder with one of {', '.join(_ZARR)}; got "
            "a folder without",
        )
