"""Reads an image, a plane of a file, or a tile of either, to upright 8-bit RGB, or says why not."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from usam_core.errors import InputError
from usam_core.files.fsspec_io import is_url, open_bytes
from usam_core.images.errors import (
    PATH_CODES,
    REASONS,
    UnusableImage,
    check_file,
    library_verdicts,
    verdict_on,
)
from usam_core.images.listing.content import bytes_key, is_zarr_url, ref_digest, remembered_content
from usam_core.images.pillow import DecodedImage, decode, stretched
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import Window
from usam_core.images.stores.base import ImageStore
from usam_core.images.stores.factory import (
    check_bytes,
    check_image,
    check_plane,
    needs_store,
    open_image,
    opened,
)
from usam_core.images.stores.show import Channels, Projected, paint, view

__all__ = [
    "PATH_CODES",
    "REASONS",
    "DecodedImage",
    "UnusableImage",
    "check_bytes",
    "check_image",
    "read_image",
    "verdict_on",
]


def read_image(
    path: str | Path | ImageRef,
    *,
    max_megapixels: float = 100.0,
    window: Window = "percentile",
    channels: Channels | None = None,
    projection: str = "none",
    sha256: str | None = None,
    stretch: bool = False,
) -> DecodedImage:
    """Decode an image: orientation applied, alpha over white, every kind of values to 8-bit RGB.

    Pictures of 8 bit are shown as they are, unless `stretch` is asked for. Deeper values go through
    the window, planes of several channels are shown as `stores.show.view` says.

    Args:
        path: the file, the URL of one that fsspec opens, or the address of a plane or of a tile.
        max_megapixels: a larger image is refused from its header, before any pixel is decoded.
        window: how deep values become 8 bit.
        channels: which channel is which colour, for planes of measured channels.
        projection: "none", or how all z become one plane: "max", "min", "mean".
        sha256: content key that the image must have, so that nothing is stored under another's.
        stretch: let 8-bit values go through the image's own percentiles.

    Raises:
        UnusableImage: the image cannot be used, with one of `REASONS`.
        InputError: `window` is no window, or a store's keys are missing.
        TransientError: the network failed: that says nothing about the image.
    """
    if isinstance(window, tuple | list) and not window[0] < window[1]:
        raise InputError(
            f"images.window: expected [low, high] with low below high, got {list(window)}"
        )
    ref = path if isinstance(path, ImageRef) else ImageRef.parse(os.fspath(path))
    is_part = bool(ref.plane) or ref.box is not None
    # A file is opened once, for its bytes tell what it is.
    content = None if is_part else _content(ref.file, max_megapixels)
    if content is None or (is_url(ref.file) and needs_store(ref.file, max_megapixels, content)):
        with _store(ref, max_megapixels, projection, content) as store:
            if sha256 is not None and sha256 != _key(ref, content):
                raise _changed(ref)
            return _read_plane(store, ref, max_megapixels, window, channels, projection, stretch)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise _changed(ref)
    found = decode(ref.file, content, max_megapixels, window)
    return stretched(found) if stretch else found


@contextmanager
def _store(
    ref: ImageRef, max_megapixels: float, projection: str, content: bytes | None
) -> Iterator[ImageStore]:
    if content is None:
        with opened(ref.file, max_megapixels, projection) as store:
            yield store
    else:
        with (
            library_verdicts(ref.file),
            open_image(ref.file, max_megapixels, projection, content) as store,
        ):
            yield store


def _key(ref: ImageRef, content: bytes | None) -> str:
    if content is not None:
        return bytes_key(content)
    return ref_digest(remembered_content(ref.file), ref)


def _read_plane(
    store: ImageStore,
    ref: ImageRef,
    max_megapixels: float,
    window: Window,
    channels: Channels | None,
    projection: str,
    stretch: bool,
) -> DecodedImage:
    check_plane(store, ref, max_megapixels)
    how = view(store, ref, window, channels, stretch)
    rgb = paint(store, ref.plane, how, *(() if ref.box is None else ref.box.slices))
    said = str(how)
    if isinstance(store, Projected) and not store.is_flat(ref.plane):
        said += f" {projection} of {store.axis}"
    return DecodedImage(rgb, how.hull, said)


def _changed(ref: ImageRef) -> UnusableImage:
    return UnusableImage("changed", f"{ref}: the file changed since it was listed; run again")


def _content(address: str, max_megapixels: float) -> bytes | None:
    """Return the bytes of a URL's file, or of a local picture; None for what only a store reads."""
    if is_zarr_url(address) or os.path.isdir(address):
        needs_store(address, max_megapixels)  # refuses a folder that is no Zarr
        return None
    if not is_url(address):
        check_file(address)  # opening a pipe would wait for a writer for ever
    with verdict_on(address):
        if is_url(address):
            content = open_bytes(address)
        else:
            with open(address, "rb") as file:
                if needs_store(address, max_megapixels, file):
                    return None
                file.seek(0)
                content = file.read()
    if not content:
        raise UnusableImage("empty", f"{address}: the file is empty (0 bytes)")
    return content
