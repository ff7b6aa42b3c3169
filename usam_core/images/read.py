"""Reads an image, a plane of a file, or a tile of either, to upright 8-bit RGB, or says why not."""

import os
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
from usam_core.images.listing.content import (
    TIFF,
    bytes_key,
    is_zarr_url,
    ref_digest,
    remembered_content,
)
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import DecodedImage, Window
from usam_core.images.stores.base import ImageStore, Projected
from usam_core.images.stores.factory import check_image, check_plane, open_image, opened
from usam_core.images.stores.picture import decode, open_picture
from usam_core.images.stores.show import Channels, paint, view

__all__ = [
    "PATH_CODES",
    "REASONS",
    "DecodedImage",
    "UnusableImage",
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

    Pictures of 8 bit are shown as they are, unless `stretch` is set. Deeper values go through the
    window; planes of several channels are shown as `stores.show.view` says.

    Args:
        path: the file, the URL of one that fsspec opens, or the address of a plane or of a tile.
        max_megapixels: a larger image is refused from its header, before any pixel is decoded.
        window: how deep values become 8 bit.
        channels: which channel is which color, for planes of measured channels.
        projection: "none", or how all z become one plane: "max", "min", "mean".
        sha256: content key that the image must have, so that nothing is stored under another's.
        stretch: let 8-bit values go through the image's own percentiles.

    Raises:
        UnusableImage: the image cannot be used, with one of `REASONS`.
        InputError: `window` is no window, or a store's keys are missing.
        TransientError: the network failed, which says nothing about the image.
    """
    if isinstance(window, tuple | list) and not window[0] < window[1]:
        raise InputError(
            f"images.window: expected [low, high] with low below high, got {list(window)}"
        )
    ref = path if isinstance(path, ImageRef) else ImageRef.parse(os.fspath(path))
    is_part = bool(ref.plane) or ref.box is not None
    # A file is opened once: its bytes tell what it is, and what they are digested to is decoded.
    content = None if is_part else _content(ref.file, max_megapixels)

    def check_key() -> None:
        if sha256 is None:
            return
        if content is None:
            key = ref_digest(remembered_content(ref.file), ref)
        else:
            key = bytes_key(content)
        if key != sha256:
            raise UnusableImage(
                "changed", f"{ref}: the file changed since it was listed; run again"
            )

    def show(store: ImageStore) -> DecodedImage:
        check_plane(store, ref, max_megapixels)
        how = view(store, ref, window, channels, stretch)
        rgb = paint(store, ref.plane, how, *(() if ref.box is None else ref.box.slices))
        mode = str(how)
        if isinstance(store, Projected) and not store.is_flat(ref.plane):
            mode += f" {projection} of {store.axis}"
        return DecodedImage(rgb, how.hull, mode)

    if content is None:
        with opened(ref.file, max_megapixels, projection) as store:
            check_key()
            return show(store)
    check_key()
    if not content.startswith(TIFF):
        image = decode(ref.file, content, max_megapixels, window)
        if image is not None:
            return image.stretched() if stretch else image
    with (
        library_verdicts(ref.file),
        open_image(ref.file, max_megapixels, projection, content) as store,
    ):
        return show(store)


def _content(address: str, max_megapixels: float) -> bytes | None:
    """Return a file's bytes; None for a Zarr and a local TIFF, which their store opens by path."""
    if is_zarr_url(address) or os.path.isdir(address):
        return None
    if is_url(address):
        with verdict_on(address):
            content = open_bytes(address)
        if not content:
            raise UnusableImage("empty", f"{address}: the file is empty (0 bytes)")
        return content
    check_file(address)  # opening a pipe would wait for a writer for ever
    with verdict_on(address), open(address, "rb") as file:
        if file.read(4) in TIFF:
            return None
        file.seek(0)
        # Gigabytes that are no picture, or too large a one, are not read into memory.
        with open_picture(file, address, max_megapixels):
            file.seek(0)
            return file.read()
