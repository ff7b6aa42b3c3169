"""Reads one image file into upright 8-bit RGB, or says why it cannot be used."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from usam_core.errors import InputError
from usam_core.imagestores.opener import is_url, open_bytes
from usam_core.pixels import Window, to_rgb
from usam_core.types import Quarantined

REASONS = {
    "missing": "there is no file at the path",
    "unreadable": "the operating system does not let the file be read, or it is no plain file",
    "bad_name": "the file's name is not valid Unicode, so that it cannot be written in a table",
    "changed": "the file's bytes are no longer the ones that were listed",
    "empty": "the file has no bytes",
    "not_an_image": "the file's first bytes are of no image format that is read here",
    "unsupported": "an image of a kind that is not read here: colour mode, depth, compression",
    "elongated": "so long and thin that nothing is left of its shorter side where SAM looks",
    "too_large": "more pixels than images.max_megapixels, or more than memory holds",
    "animated": "an animation: which frame to label is not known",
    "multi_page": "several full pages in one file: which one to label is not known",
    "too_many_scans": "a JPEG made to take for ever",
    "truncated": "begins like an image, but the data end early or are damaged",
    "no_values": "no pixel holds a finite number",
}
"""Every code of `Quarantined.code`, and what it means."""

PATH_CODES = frozenset({"missing", "unreadable", "bad_name", "changed"})
"""Codes that speak of the path, not of the content: worth another try."""

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What is read, by Pillow's names; other formats of Pillow run programs or fetch files."""

MOST_ELONGATED = 64
"""Largest ratio of the longer side to the shorter."""

MOST_SCANS = 100
"""Most scans of a JPEG; cameras and encoders make 1 to 12."""

_PREFIX_BYTES = 16
_KIND_TAG = 254  # TIFF NewSubfileType: bit 0 a smaller copy of another page, bit 2 a mask
_SECONDARY = 0b101


class BadImage(InputError):
    """An image cannot be used; `quarantined` says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.quarantined = Quarantined(code, reason)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as a person sees it.

    Attributes:
        rgb: uint8 (h, w, 3), upright.
        window: the values that became 0 and 255, for images deeper than 8 bit; else None.
        mode: Pillow's name for how the file holds its pixels, such as "RGB" or "RGB;16B".
    """

    rgb: np.ndarray
    window: tuple[float, float] | None
    mode: str


def read_image(
    path: str | Path,
    *,
    max_megapixels: float = 100.0,
    window: Window = "percentile",
    sha256: str | None = None,
) -> DecodedImage:
    """Decode a file: orientation applied, alpha over white, every kind of grey and colour to RGB.

    Colour images of 16 bit a channel keep the high byte (the `full` window), as Pillow reads
    them; their mode carries the depth.

    Args:
        path: the file, or the URL of one that fsspec opens.
        max_megapixels: a larger image is refused from its header, before any pixel is decoded.
        window: how deep greyscale becomes 8 bit, as in `ImagesConfig.window`.
        sha256: digest that the bytes must have, so that nothing is stored under another's key.

    Raises:
        BadImage: the file cannot be used, with one of `REASONS`.
        InputError: `window` is no window, or a store's keys are missing.
        TransientError: the network failed: that says nothing about the image.
    """
    if not isinstance(window, str) and not window[0] < window[1]:
        raise InputError(
            f"images.window: expected [low, high] with low below high, got {list(window)}"
        )
    content = _content(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise BadImage("changed", f"{path}: the file changed since it was listed; run again")
    image = _open(io.BytesIO(content), path, max_megapixels)
    _check_scans(path, image, content)
    try:
        with image:
            mode = _stored_mode(image)
            image.load()
            rgb, used = _to_rgb(path, image, window)
    except BadImage:
        raise
    except MemoryError as error:
        raise _too_large(path, image, "memory holds") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise _damaged(path, error) from error
    return DecodedImage(rgb, (0.0, 65535.0) if ";16" in mode and used is None else used, mode)


def _check_scans(path: str | Path, image: ImageFile.ImageFile, content: bytes) -> None:
    # Each scan of a progressive JPEG goes over all pixels again: a small file with thousands of
    # them would take hours. In coded data the marker's first byte never stands alone.
    scans = content.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > MOST_SCANS:
        raise BadImage(
            "too_many_scans",
            f"{path}: the JPEG has {scans} scans; expected at most {MOST_SCANS}. Save it again",
        )


def check_image(path: str | Path, max_megapixels: float = 100.0) -> None:
    """Check what the header of a file tells, decoding no pixel; `read_image` checks the rest.

    Raises:
        BadImage: the file cannot be used, with one of `REASONS`.
    """
    _stat(path)
    try:
        with open(path, "rb") as file, _open(file, path, max_megapixels):
            pass
    except OSError as error:
        raise _unreadable(path, error) from error


def check_bytes(content: bytes, address: str, max_megapixels: float = 100.0) -> None:
    """Check the header of a file that has been read; as `check_image`."""
    if not content:
        raise BadImage("empty", f"{address}: the file is empty (0 bytes)")
    with _open(io.BytesIO(content), address, max_megapixels):
        pass


@contextmanager
def verdict_on(address: str) -> Iterator[None]:
    """Turn what a store says of a single file into a verdict on that image.

    Raises:
        BadImage: the file is not there, or must not be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BadImage("missing", f"{address}: no such file") from error
    except OSError as error:
        raise _unreadable(address, error) from error


def _content(path: str | Path) -> bytes:
    if is_url(path):
        with verdict_on(path):
            content = open_bytes(path)
        if not content:
            raise BadImage("empty", f"{path}: the file is empty (0 bytes)")
        return content
    _stat(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _stat(path: str | Path) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise BadImage("missing", f"{path}: no such file") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    # Opening a pipe would wait for a writer for ever.
    if not stat.S_ISREG(found.st_mode):
        raise BadImage("unreadable", f"{path}: expected a plain file, got something else")
    if not found.st_size:
        raise BadImage("empty", f"{path}: the file is empty (0 bytes)")


def _open(file: io.BufferedIOBase, path: str | Path, max_megapixels: float) -> ImageFile.ImageFile:
    """Return the image with its header read, checked for size and pages."""
    image = _identify(file, path)
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise _too_large(path, image, f"images.max_megapixels, {max_megapixels:g}, allows")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise BadImage(
            "elongated",
            f"{path}: {width} x {height} pixels; expected sides of at most {MOST_ELONGATED} to 1, "
            "because SAM sees the longer side at a few hundred pixels. Cut the image into pieces",
        )
    try:
        _check_pages(path, image)
    except BadImage:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise _damaged(path, error) from error
    return image


def _identify(file: io.BufferedIOBase, path: str | Path) -> ImageFile.ImageFile:
    # Image.open is passed by because its own limit on pixels is global: a project could neither
    # raise it nor lower it without changing it for everyone.
    Image.init()
    prefix = file.read(_PREFIX_BYTES)
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is not True:
            continue
        file.seek(0)
        try:
            return factory(file, os.fspath(path))
        except Exception as error:  # decoders raise anything on damaged bytes
            raise _damaged(path, error) from error
    raise BadImage(
        "not_an_image",
        f"{path}: the first bytes {prefix!r} are of no known image format; "
        f"expected one of {', '.join(FORMATS)}",
    )


def _check_pages(path: str | Path, image: ImageFile.ImageFile) -> None:
    if image.format == "TIFF":
        pages = _full_pages(image)
        if pages > 1:
            raise BadImage(
                "multi_page",
                f"{path}: the file holds more than one full page; expected one. Save the page "
                "that counts as a file of its own",
            )
    # A camera's JPEG (MPO) may carry a preview or a depth map behind its picture: that is fine.
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadImage(
            "animated",
            f"{path}: the {image.format} file is animated; expected a single picture. Save the "
            "frame that counts as a file of its own",
        )


def _full_pages(image: ImageFile.ImageFile) -> int:
    """Return 1, or 2 for "more than one": thumbnails, overviews and masks do not count."""
    if getattr(image, "n_frames", 1) == 1:
        return 1
    pages = 0
    for page in range(image.n_frames):
        image.seek(page)
        pages += not image.tag_v2.get(_KIND_TAG, 0) & _SECONDARY
        if pages > 1:
            break
    image.seek(0)
    return max(pages, 1)


def _stored_mode(image: ImageFile.ImageFile) -> str:
    for codec in image.tile:
        arguments = codec.args if isinstance(codec.args, tuple) else (codec.args,)
        raw = next((part for part in arguments if isinstance(part, str)), "")
        if ";16" in raw:
            return raw
    return image.mode


def _to_rgb(
    path: str | Path, image: ImageFile.ImageFile, window: Window
) -> tuple[np.ndarray, tuple[float, float] | None]:
    try:
        return to_rgb(image, window)
    except ValueError as error:
        code = "no_values" if image.mode == "F" else "unsupported"
        raise BadImage(code, f"{path}: {error}") from error


def _too_large(path: str | Path, image: ImageFile.ImageFile, limit: str) -> BadImage:
    width, height = image.size
    return BadImage(
        "too_large",
        f"{path}: {width} x {height} pixels are {width * height / 1e6:.1f} megapixels, more than "
        f"{limit}; cut the image into tiles or make it smaller",
    )


def _damaged(path: str | Path, error: Exception) -> BadImage:
    said = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return BadImage("too_large", f"{path}: {said}; cut the image into tiles")
    if any(word in said.lower() for word in ("unknown", "unsupported", "cannot handle")):
        return BadImage("unsupported", f"{path}: {said}; convert the file to PNG or JPEG")
    return BadImage("truncated", f"{path}: {said}; copy or export the file again")


def _unreadable(path: str | Path, error: OSError) -> BadImage:
    return BadImage("unreadable", f"{path}: {error.strerror or error}; check its permissions")
