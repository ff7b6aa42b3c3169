"""Reads a file of a single picture with Pillow, or says why it cannot be used."""

import contextlib
import functools
import io
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from usam_core.images.errors import (
    UnusableImage,
    check_size,
    damaged,
    too_large,
)
from usam_core.images.rgb import (
    OWN_WINDOW,
    STRETCHED,
    OneWindow,
    Window,
    apply_window,
    has_kind,
    limits,
    of_kind,
    to_rgb,
    window_key,
)
from usam_core.images.stores.limits import check_values

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""What is read with Pillow, by its names: others run programs or fetch files, and TIFF is read by
its own tags, of which Pillow leaves some out."""

MAX_SCANS = 100
"""Most scans of a JPEG; cameras and encoders make 1 to 12."""

_PREFIX_BYTES = 16


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as a person sees it.

    Attributes:
        rgb: uint8 (h, w, 3), upright.
        window: the values that became 0 and 255; None where nothing was changed.
        mode: Pillow's name for how the file holds its pixels, such as "RGB" or "I;16B"; of planes
            the type of their values and what was shown of them, as `stores.show` says it.
    """

    rgb: np.ndarray
    window: tuple[float, float] | None
    mode: str


def open_picture(
    file: io.BufferedIOBase, path: str | Path, max_megapixels: float
) -> ImageFile.ImageFile:
    """Return the image with its header read, checked for size and pages.

    Raises:
        UnusableImage: the file cannot be used as a single picture.
    """
    image = _identify(file, path)
    width, height = image.size
    check_size(path, (height, width), max_megapixels)
    check_values(path, width * height * len(image.getbands()), lambda: _size(file))
    try:
        _check_single(path, image)
    except UnusableImage:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise damaged(path, error) from error
    return image


def _size(file: io.BufferedIOBase) -> int:
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    return size


def decode(path: str | Path, content: bytes, max_megapixels: float, window: Window) -> DecodedImage:
    """Decode a file of a single picture of 8 bit colour, or of grey of any depth.

    Raises:
        UnusableImage: the bytes cannot be used as a single picture.
    """
    image = open_picture(io.BytesIO(content), path, max_megapixels)
    check_scans(path, image, content)
    try:
        with image:
            mode = stored_mode(image)
            image.load()
            key = window_key(grey_type(image), "0")
            rgb, used = _to_rgb(path, image, of_kind(window, key))
    except UnusableImage:
        raise
    except MemoryError as error:
        raise too_large(path, image.size[::-1], "memory holds") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise damaged(path, error) from error
    if used is not None and not has_kind(window, key):
        mode = f"{mode} {OWN_WINDOW}"
    # Of ink (CMYK) of 16 bit Pillow gives the high byte.
    return DecodedImage(rgb, (0.0, 65535.0) if ";16" in mode and used is None else used, mode)


def stretched(found: DecodedImage) -> DecodedImage:
    """Return a picture of 8 bit through its own percentiles; of a deeper one what was given."""
    if found.window is not None:
        return found
    low, high = limits(found.rgb, "percentile", (0.0, 255.0))
    rgb = apply_window(found.rgb, low, high)
    return replace(found, rgb=rgb, window=(low, high), mode=f"{found.mode} {STRETCHED}")


def check_scans(path: str | Path, image: ImageFile.ImageFile, content: bytes) -> None:
    """Refuse a JPEG that would take for ever.

    Raises:
        UnusableImage: with the code `too_many_scans`.
    """
    # Each scan of a progressive JPEG goes over all pixels again: a small file with thousands of
    # them would take hours. In coded data the marker's first byte never stands alone.
    scans = scans_in(content) if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS:
        raise UnusableImage(
            "too_many_scans",
            f"{path}: the JPEG has {scans} scans; expected at most {MAX_SCANS}. Save it again",
        )


def scans_in(content: bytes) -> int:
    """Return how many scans a JPEG has, at most."""
    return content.count(b"\xff\xda")


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Return rows and columns that the frame header of a JPEG speaks of; 0 where there is none."""
    place = 2
    while place + 9 <= len(content):
        if content[place] != 0xFF:
            place += 1
            continue
        kind = content[place + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", content[place + 5 : place + 9])
        bare = kind in (0x00, 0x01, 0xFF) or 0xD0 <= kind <= 0xD9
        place += 1 if bare else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0, 0


@functools.cache
def _know_formats() -> None:
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif  # only where somebody has installed it

        pillow_heif.register_heif_opener()


def _identify(file: io.BufferedIOBase, path: str | Path) -> ImageFile.ImageFile:
    # Image.open is passed by because its own limit on pixels is global: a project could neither
    # raise it nor lower it without changing it for everyone.
    _know_formats()
    prefix = file.read(_PREFIX_BYTES)
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is not True:
            continue
        file.seek(0)
        try:
            # Without the file's name: with it Pillow maps the file rather than read these bytes.
            return factory(file)
        except Exception as error:  # decoders raise anything on damaged bytes
            raise damaged(path, error) from error
    raise UnusableImage(
        "not_an_image",
        f"{path}: the first bytes {prefix!r} are of no known image format; "
        f"expected one of {', '.join(FORMATS)}, TIFF",
    )


def _check_single(path: str | Path, image: ImageFile.ImageFile) -> None:
    # A camera's JPEG (MPO) may carry a preview or a depth map behind its picture: that is fine.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UnusableImage(
            "animated",
            f"{path}: the {image.format} file is animated; expected a single picture. Save the "
            "frame that counts as a file of its own",
        )


def stored_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name for how the file holds its pixels, its depth with it."""
    for codec in image.tile:
        arguments = codec.args if isinstance(codec.args, tuple) else (codec.args,)
        raw = next((part for part in arguments if isinstance(part, str)), "")
        if ";16" in raw:
            return raw
    return image.mode


def grey_type(image: ImageFile.ImageFile) -> str:
    """Return the type of a deep grey picture's values, by NumPy's name."""
    return {"I": "int32", "F": "float32"}.get(image.mode, "uint16")


def _to_rgb(
    path: str | Path, image: ImageFile.ImageFile, window: OneWindow
) -> tuple[np.ndarray, tuple[float, float] | None]:
    try:
        return to_rgb(image, window)
    except ValueError as error:
        code = "no_values" if image.mode == "F" else "unsupported"
        raise UnusableImage(code, f"{path}: {error}") from error
