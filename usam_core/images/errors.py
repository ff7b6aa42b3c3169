"""Why an image cannot be used: the codes, the error that carries one, and limits on what it claims.

A header of a few bytes can claim thousands of millions of planes or pixels. Whatever is listed,
allocated or decoded stays in proportion to the bytes that are there.
"""

import errno
import json
import lzma
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from usam_core.errors import InputError, StoreAccessError, TransientError
from usam_core.types import Quarantined

REASONS = {
    "missing": "there is no file at the path",
    "unreadable": "the operating system does not let the file be read, or it is no plain file",
    "bad_name": "the file's name is not valid Unicode, so that it cannot be written in a table",
    "changed": "the file's bytes are no longer the ones that were listed",
    "empty": "the file has no bytes",
    "not_an_image": "the file's first bytes are of no image format that is read here",
    "unsupported": "an image of a kind that is not read here: color mode, depth, compression",
    "elongated": "so long and thin that nothing is left of its shorter side where SAM looks",
    "too_large": "more pixels than images.max_megapixels, or more than memory holds",
    "animated": "an animation: which frame to label is not known",
    "multi_page": "several planes in one file, and no address that says which one",
    "no_plane": "the file has no plane of this address",
    "no_channel": "images.channels speaks of a channel that the image does not have",
    "implausible": "its header speaks of more than its bytes can hold, or than is read of any file",
    "too_many_scans": "a JPEG made to take for ever",
    "truncated": "begins like an image, but the data end early or are damaged",
    "undecodable": "the library that reads it failed, and not as it does on data that end early",
    "no_values": "no pixel holds a finite number",
}
"""Every code of `Quarantined.code`, and its meaning."""
PATH_CODES = frozenset({"missing", "unreadable", "bad_name", "changed"})
"""Codes about the path, not the content: worth another try."""

MAX_ELONGATED = 64
"""Largest ratio of the longer side to the shorter."""
MAX_COUNT = 2**20
"""Planes, wells or parts of one file of any size."""
FREE_COUNT = 10_000
"""So many may be claimed by a file of any size; each further one needs a byte."""
MAX_PART_BYTES = 2**29
"""Bytes of a chunk, tile or strip when decoded: one is decoded whole."""
FREE_BYTES = 2**26
"""Bytes of one plane that a file of any size may claim."""
_MAX_EXPANDED = 4096
"""Bytes of a larger plane for each byte of its file: deflate gives at most 1,032."""
_LARGE_BYTES = 2**28
"""Bytes of one plane from which on a stricter limit holds."""
_MAX_EXPANDED_LARGE = 64
"""That limit for each byte of the file: photographs and microscopy have 2 to 20."""
_MAX_METADATA_BYTES = 2**26
"""JSON and XML take about ten times that when parsed."""

_ENDS_EARLY = (
    EOFError,
    OSError,
    SyntaxError,
    UnicodeDecodeError,
    json.JSONDecodeError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""Exceptions of Pillow (`OSError`, `SyntaxError`), zarr and others on truncated or damaged data."""
_DECODERS = ("imagecodecs", "tifffile")
"""Packages whose own exceptions say the same."""
_DAMAGE = ("checksum", "decompress", "missing dimensions")
"""Words in exceptions without a type of their own: zarr's, numcodecs', Pillow's on a cut TIFF."""
_UNSUPPORTED = ("unknown", "supported", "cannot handle", "no zarr data type")
_MISTAKES = (TypeError, AttributeError, LookupError)
"""A library's programming errors, whatever their words."""


class UnusableImage(InputError):
    """An image cannot be used; `quarantined` says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.quarantined = Quarantined(code, reason)


def check_file(path: str | Path) -> None:
    """Refuse anything but a plain file with bytes in it: opening a pipe would wait for ever."""
    with verdict_on(path):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnusableImage("unreadable", f"{path}: expected a plain file, got something else")
    if not status.st_size:
        raise UnusableImage("empty", f"{path}: the file is empty (0 bytes)")


def check_size(address: object, size_hw: tuple[int, int], max_megapixels: float) -> None:
    """Refuse an image that is larger than allowed, or too long and thin.

    Raises:
        UnusableImage: with the code `too_large` or `elongated`.
    """
    height, width = size_hw
    if width * height > max_megapixels * 1e6:
        allowed = f"images.max_megapixels, {max_megapixels:g}, allows"
        raise too_large(address, size_hw, allowed)
    if max(width, height) > MAX_ELONGATED * min(width, height):
        raise UnusableImage(
            "elongated",
            f"{address}: {width} x {height} pixels; expected sides of at most {MAX_ELONGATED} to "
            "1, because SAM sees the longer side at a few hundred pixels. Cut the image into "
            "pieces",
        )


Size = int | Callable[[], int | None] | None
"""Bytes of a file, or a call that finds them out; None if unknown."""


def check_count(address: object, what: str, count: int, size: Size) -> None:
    """Refuse more planes, wells or parts than a file of this size can hold (`implausible`)."""
    if count > FREE_COUNT and count > (
        most := min(MAX_COUNT, FREE_COUNT + _bytes(size, MAX_COUNT))
    ):
        raise UnusableImage(
            "implausible",
            f"{address}: its header speaks of {count} {what}; expected at most {most} in a file of "
            "its size. Export it again, or cut it into several files",
        )


def check_values(address: object, claimed: int, size: Size) -> None:
    """Refuse a plane of more bytes than a file of this size can hold (`implausible`)."""
    if claimed <= FREE_BYTES:
        return
    held = _bytes(size, claimed)
    times = _MAX_EXPANDED if claimed <= _LARGE_BYTES else _MAX_EXPANDED_LARGE
    if claimed > max(held * times, FREE_BYTES):
        raise UnusableImage(
            "implausible",
            f"{address}: its header speaks of {claimed} bytes of values, the file has {held}; "
            f"expected at most {times} times that. It is cut off, empty, or made to fill "
            "the memory; export it again, or cut it into smaller ones",
        )


def check_part(address: object, claimed: int) -> None:
    """Refuse chunks, tiles or strips that are too large to be decoded at once (`implausible`)."""
    if claimed > MAX_PART_BYTES:
        raise UnusableImage(
            "implausible",
            f"{address}: its chunks, tiles or strips have {claimed} bytes each; expected at most "
            f"{MAX_PART_BYTES}. Save it in smaller ones",
        )


def check_metadata(address: object, size: int) -> None:
    """Refuse a description, JSON or XML, that would fill the memory (`implausible`)."""
    if size > _MAX_METADATA_BYTES:
        raise UnusableImage(
            "implausible",
            f"{address}: a description of {size} bytes; expected at most {_MAX_METADATA_BYTES}",
        )


def _bytes(size: Size, unknown: int) -> int:
    known = size() if callable(size) else size
    return unknown if known is None else known


def too_large(address: object, size_hw: tuple[int, int], limit: str) -> UnusableImage:
    """Return the verdict on an image of too many pixels; `limit` ends its sentence."""
    height, width = size_hw
    return UnusableImage(
        "too_large",
        f"{address}: {width} x {height} pixels are {width * height / 1e6:.1f} megapixels, more "
        f"than {limit}; set images.tile, which takes larger images that can be read in parts (TIFF "
        "in tiles or strips, OME-Zarr), save it as one of these, or make it smaller",
    )


def damaged(address: object, error: Exception) -> UnusableImage:
    """Return the verdict on an exception of a decoder: on damaged bytes they raise anything."""
    message = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return UnusableImage(
            "too_large", f"{address}: {message}; save it as a TIFF in tiles and set images.tile"
        )
    # An impossible place in the file, as damaged bytes name it, is the system's EINVAL.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return unreadable(address, error)
    if _mentions(message, _UNSUPPORTED) and not isinstance(error, _MISTAKES):
        return UnusableImage(
            "unsupported", f"{address}: {message}; convert the file to PNG or JPEG"
        )
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, _ENDS_EARLY) or package in _DECODERS or _mentions(message, _DAMAGE):
        return UnusableImage("truncated", f"{address}: {message}; copy or export the file again")
    return UnusableImage(
        "undecodable",
        f"{address}: reading it failed with {type(error).__name__}: {message}; expected an image "
        "that other programs open. If they do, save it with one of them as PNG or TIFF",
    )


def _mentions(text: str, words: Sequence[str]) -> bool:
    return any(word in text.lower() for word in words)


def unreadable(address: object, error: OSError) -> UnusableImage:
    """Return the verdict on a file that the system refuses to read."""
    return UnusableImage(
        "unreadable", f"{address}: {error.strerror or error}; check its permissions"
    )


@contextmanager
def verdict_on(address: object) -> Iterator[None]:
    """Turn a disk's or a store's error about a single file into a verdict on that image.

    Raises:
        UnusableImage: the file is missing, or must not be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UnusableImage("missing", f"{address}: no such file") from error
    except OSError as error:
        raise unreadable(address, error) from error


@contextmanager
def library_verdicts(address: object, size_hw: tuple[int, int] | None = None) -> Iterator[None]:
    """Turn any exception of a library that reads images into a verdict on the image.

    Args:
        address: of the image.
        size_hw: its rows and columns where they are known, for the verdict when memory runs out.

    Raises:
        UnusableImage: for every exception in the block but the next two.
        TransientError, StoreAccessError: the network or its keys failed, which says nothing about
            the image.
    """
    try:
        yield
    except (UnusableImage, TransientError, StoreAccessError):
        raise
    except InputError as error:
        raise UnusableImage("unsupported", str(error)) from error
    except MemoryError as error:
        if size_hw is not None:
            raise too_large(address, size_hw, "memory holds") from error
        raise UnusableImage(
            "too_large", f"{address}: memory does not hold one plane of it"
        ) from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise damaged(address, error) from error
