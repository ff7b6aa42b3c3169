"""Why an image cannot be used: the codes, and the error that carries one."""

import errno
import json
import lzma
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
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
    "unsupported": "an image of a kind that is not read here: colour mode, depth, compression",
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
"""Every code of `Quarantined.code`, and what it means."""

PATH_CODES = frozenset({"missing", "unreadable", "bad_name", "changed"})
"""Codes that speak of the path, not of the content: worth another try."""

MAX_ELONGATED = 64
"""Largest ratio of the longer side to the shorter."""


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
"""What Pillow (`OSError`, `SyntaxError`), zarr and others raise on data that are cut or damaged."""
_DECODERS = ("imagecodecs", "tifffile")
"""Packages whose own exceptions say the same."""
_DAMAGE = ("checksum", "decompress", "missing dimensions")
"""Words of exceptions without a type of their own: zarr's, numcodecs', Pillow's on a cut TIFF."""
_UNSUPPORTED = ("unknown", "supported", "cannot handle", "no zarr data type")
_MISTAKES = (TypeError, AttributeError, LookupError)
"""Of a library's code, whatever words they hold."""


class UnusableImage(InputError):
    """An image cannot be used; `quarantined` says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.quarantined = Quarantined(code, reason)


def check_size(path: str | Path, size_hw: tuple[int, int], max_megapixels: float) -> None:
    """Refuse what is larger than allowed, or too long and thin.

    Raises:
        UnusableImage: with the code `too_large` or `elongated`.
    """
    height, width = size_hw
    if width * height > max_megapixels * 1e6:
        allowed = f"images.max_megapixels, {max_megapixels:g}, allows"
        raise too_large(path, size_hw, allowed)
    if max(width, height) > MAX_ELONGATED * min(width, height):
        raise UnusableImage(
            "elongated",
            f"{path}: {width} x {height} pixels; expected sides of at most {MAX_ELONGATED} to 1, "
            "because SAM sees the longer side at a few hundred pixels. Cut the image into pieces",
        )


def check_file(path: str | Path) -> None:
    """Refuse what is no plain file with bytes in it.

    Raises:
        UnusableImage: with the code `missing`, `unreadable` or `empty`.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise UnusableImage("missing", f"{path}: no such file") from error
    except OSError as error:
        raise unreadable(path, error) from error
    # Opening a pipe would wait for a writer for ever.
    if not stat.S_ISREG(found.st_mode):
        raise UnusableImage("unreadable", f"{path}: expected a plain file, got something else")
    if not found.st_size:
        raise UnusableImage("empty", f"{path}: the file is empty (0 bytes)")


def too_large(path: str | Path, size_hw: tuple[int, int], limit: str) -> UnusableImage:
    """Return the verdict on an image of too many pixels; `limit` ends its sentence."""
    height, width = size_hw
    return UnusableImage(
        "too_large",
        f"{path}: {width} x {height} pixels are {width * height / 1e6:.1f} megapixels, more than "
        f"{limit}; set images.tile, which takes larger images that can be read in parts (TIFF in "
        "tiles or strips, OME-Zarr), save it as one of these, or make it smaller",
    )


def damaged(path: str | Path, error: Exception) -> UnusableImage:
    """Return the verdict on what a library raised that reads images: anything, on damaged bytes."""
    said = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return UnusableImage(
            "too_large", f"{path}: {said}; save it as a TIFF in tiles and set images.tile"
        )
    # A place in the file that cannot be, as damaged bytes name it, is the system's EINVAL.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return unreadable(path, error)
    if _says(said, _UNSUPPORTED) and not isinstance(error, _MISTAKES):
        return UnusableImage("unsupported", f"{path}: {said}; convert the file to PNG or JPEG")
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, _ENDS_EARLY) or package in _DECODERS or _says(said, _DAMAGE):
        return UnusableImage("truncated", f"{path}: {said}; copy or export the file again")
    return UnusableImage(
        "undecodable",
        f"{path}: reading it failed with {type(error).__name__}: {said}; expected an image that "
        "other programs open. If they do, save it with one of them as PNG or TIFF",
    )


def _says(text: str, words: Sequence[str]) -> bool:
    return any(word in text.lower() for word in words)


def unreadable(path: str | Path, error: OSError) -> UnusableImage:
    """Return the verdict on a file that the system does not let be read."""
    return UnusableImage("unreadable", f"{path}: {error.strerror or error}; check its permissions")


@contextmanager
def verdict_on(address: str | Path) -> Iterator[None]:
    """Turn what a disk or a store says of a single file into a verdict on that image.

    Raises:
        UnusableImage: the file is not there, or must not be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UnusableImage("missing", f"{address}: no such file") from error
    except OSError as error:
        raise unreadable(address, error) from error


@contextmanager
def library_verdicts(address: str | Path) -> Iterator[None]:
    """Turn whatever a library raises that reads images into a verdict on the image.

    Raises:
        UnusableImage: of whatever is raised within the block.
        TransientError, StoreAccessError: the network failed, or keys did: that says nothing about
            the image.
    """
    try:
        yield
    except (UnusableImage, TransientError, StoreAccessError):
        raise
    except InputError as error:
        raise UnusableImage("unsupported", str(error)) from error
    except MemoryError as error:
        raise UnusableImage(
            "too_large", f"{address}: memory does not hold one plane of it"
        ) from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise damaged(address, error) from error
