"""Files of a single picture: decoded by Pillow, or without it where colors have more than 8 bit.

`decode` gives a picture as a person sees it; `PictureStore` its values, behind the seam of planes.
"""

import contextlib
import functools
import io
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import imagecodecs
import numpy as np
from PIL import Image, ImageFile

from usam_core.files.fsspec_io import open_bytes
from usam_core.images.errors import (
    UnusableImage,
    check_file,
    check_size,
    check_values,
    library_verdicts,
    verdict_on,
)
from usam_core.images.rgb import (
    DEEP,
    OWN_WINDOW,
    DecodedImage,
    Window,
    has_kind,
    of_kind,
    orientation,
    to_rgb,
    upright,
    upright_planes,
    window_key,
)
from usam_core.images.stores.apart import apart
from usam_core.images.stores.base import ALL, COLORS, ImageStore, Plane, PlaneInfo

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names of the formats that it reads here: others run programs or fetch files, and TIFF is
read by its own tags, of which Pillow leaves some out."""
MAX_SCANS = 100
"""Scans of a JPEG; cameras and encoders make 1 to 12."""
HEADER_BYTES = 2**16
"""JPEG 2000 tells its depth within these."""

_PREFIX_BYTES = 16
_CHANNELS = {1: ("0",), 2: ("grey", "alpha"), 3: COLORS, 4: (*COLORS, "alpha")}
_SIZ = b"\xff\x4f\xff\x51"  # JPEG 2000: start of the codestream and of its sizes
_SIZ_CHANNELS = 38
"""Bytes from there to the number of channels; two further on stands the first one's depth."""


def open_picture(
    file: IO[bytes], address: str | Path, max_megapixels: float
) -> ImageFile.ImageFile:
    """Return the image with its header read, checked for size and pages.

    Raises:
        UnusableImage: the file cannot be used as a single picture.
    """
    image = _identify(file, address)
    width, height = image.size
    check_size(address, (height, width), max_megapixels)
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    check_values(address, width * height * len(image.getbands()), size)
    with library_verdicts(address):
        # A camera's JPEG (MPO) may carry a preview or a depth map behind its picture: that is fine.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise UnusableImage(
                "animated",
                f"{address}: the {image.format} file is animated; expected a single picture. Save "
                "the frame that counts as a file of its own",
            )
    return image


def _identify(file: IO[bytes], address: str | Path) -> ImageFile.ImageFile:
    # Image.open is passed by: its own limit on pixels is global, and no project could change it
    # for itself alone.
    _register_formats()
    prefix = file.read(_PREFIX_BYTES)
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or accepts is None or accepts(prefix) is not True:
            continue
        file.seek(0)
        with library_verdicts(address):
            # Without the file's name: with it Pillow maps the file rather than read these bytes.
            return factory(file, "")
    raise UnusableImage(
        "not_an_image",
        f"{address}: the first bytes {prefix!r} are of no known image format; "
        f"expected one of {', '.join(FORMATS)}, TIFF",
    )


@functools.cache
def _register_formats() -> None:
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif  # optional, used where it is installed

        pillow_heif.register_heif_opener()


def decode(
    address: str | Path, content: bytes, max_megapixels: float, window: Window
) -> DecodedImage | None:
    """Decode a picture of 8-bit color, or of grayscale of any depth; None for deeper color.

    Raises:
        UnusableImage: the bytes cannot be used as a single picture.
    """
    image = open_picture(io.BytesIO(content), address, max_megapixels)
    if deep_colors(image, content):
        return None
    _check_scans(address, image, content)
    with library_verdicts(address, image.size[::-1]), image:
        mode = _stored_mode(image)
        image.load()
        key = window_key(gray_type(image), "0")
        try:
            rgb, used = to_rgb(image, of_kind(window, key))
        except ValueError as error:
            code = "no_values" if image.mode == "F" else "unsupported"
            raise UnusableImage(code, f"{address}: {error}") from error
    if used is not None and not has_kind(window, key):
        mode = f"{mode} {OWN_WINDOW}"
    # Of 16-bit ink (CMYK) Pillow gives the high byte.
    return DecodedImage(rgb, (0.0, 65535.0) if ";16" in mode and used is None else used, mode)


def _check_scans(address: str | Path, image: ImageFile.ImageFile, content: bytes) -> None:
    """Refuse a JPEG that would take for ever (`too_many_scans`)."""
    # Each scan of a progressive JPEG goes over all pixels again: a small file with thousands of
    # them would take hours. In coded data the marker's first byte never stands alone.
    scans = scans_in(content) if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS:
        raise UnusableImage(
            "too_many_scans",
            f"{address}: the JPEG has {scans} scans; expected at most {MAX_SCANS}. Save it again",
        )


def scans_in(content: bytes) -> int:
    """Return an upper bound on the scans of a JPEG."""
    return content.count(b"\xff\xda")


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Return rows and columns in the frame header of a JPEG; 0 where there is none."""
    place = 2
    while place + 9 <= len(content):
        if content[place] != 0xFF:
            place += 1
            continue
        kind = content[place + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return height, width
        bare = kind in (0x00, 0x01, 0xFF) or 0xD0 <= kind <= 0xD9
        place += 1 if bare else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0, 0


def _stored_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name for how the file holds its pixels, its depth with it."""
    for codec in image.tile:
        arguments = codec.args if isinstance(codec.args, tuple) else (codec.args,)
        raw = next((part for part in arguments if isinstance(part, str)), "")
        if ";16" in raw:
            return raw
    return image.mode


def gray_type(image: Image.Image) -> str:
    """Return NumPy's name for the type of a deep grayscale picture's values."""
    return {"I": "int32", "F": "float32"}.get(image.mode, "uint16")


def deep_colors(image: ImageFile.ImageFile, content: bytes) -> int:
    """Return the number of channels of a color image of more than 8 bit, of which Pillow gives 8.

    Grayscale with alpha counts as color. 0 means that Pillow drops nothing, or that it is ink
    (CMYK), of which 8 bit are enough. `content` is at least `HEADER_BYTES` of the file.
    """
    if image.mode in DEEP:
        return 0
    if image.format == "JPEG2000":
        place = content.find(_SIZ)
        sizes = content[place + _SIZ_CHANNELS : place + _SIZ_CHANNELS + 3]
        return sizes[1] if place >= 0 and len(sizes) == 3 and (sizes[2] & 0x7F) >= 8 else 0
    if image.format == "PPM":
        return 3 if image.mode == "RGB" and _white(image) > 255 else 0
    mode = _stored_mode(image)
    if ";16" not in mode or image.mode not in ("RGB", "RGBA", "LA"):
        return 0
    return 2 if mode.startswith("LA") else len(image.getbands())


def _white(image: ImageFile.ImageFile) -> int:
    """Return the value that the header of a portable pixmap calls white; 0 if it is plain text."""
    arguments = image.tile[0].args
    white = arguments[-1] if isinstance(arguments, tuple) else 0
    return white if isinstance(white, int) else 0


class PictureStore(ImageStore):
    """One picture: 8-bit color as a person sees it, grayscale and color of more bits raw.

    It is decoded whole, when it is first read.

    Args:
        path: the file or URL.
        max_megapixels: a larger picture is refused from its header.
        content: its bytes, if they have been read.

    Raises:
        UnusableImage: the file cannot be used as a single picture.
    """

    def __init__(self, path: str, max_megapixels: float, content: bytes | None = None) -> None:
        self._path, self._max_megapixels = path, max_megapixels
        self._lock = threading.Lock()
        self._values: np.ndarray | None = None
        if content is None:
            check_file(path)
            with verdict_on(path):
                content = open_bytes(path)
        self._content = content
        with open_picture(io.BytesIO(content), path, max_megapixels) as image:
            _check_scans(path, image, content)
            if channels := deep_colors(image, content):
                dtype, names = "uint16", _CHANNELS[channels]
            elif image.mode in DEEP:
                dtype, names = gray_type(image), _CHANNELS[1]
            else:
                dtype, names = "uint8", COLORS
            height, width = image.size[::-1]
            if orientation(image) >= 5:
                height, width = width, height
            self._info = PlaneInfo((height, width), names, dtype, is_color=len(names) >= 3)

    def planes(self) -> list[Plane]:
        return [()]

    def info(self, plane: Plane) -> PlaneInfo:
        if plane:
            raise KeyError(plane)
        return self._info

    def in_parts(self, plane: Plane) -> bool:
        return False

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        self.info(plane)
        with self._lock:
            if self._values is None:
                with library_verdicts(self._path, self._info.size_hw):
                    self._values = self._decode(self._content)
                self._content = b""
        values = self._values[:, rows, columns]
        return values if channels is None else values[list(channels)]

    def close(self) -> None:
        self._values, self._content = None, b""

    def _decode(self, content: bytes) -> np.ndarray:
        with open_picture(io.BytesIO(content), self._path, self._max_megapixels) as image:
            # To look for the orientation Pillow may decode the image, and forget its depth.
            deep = _decode_deep(self._path, image, content) if deep_colors(image, content) else None
            turned = orientation(image)
            if deep is not None:
                return upright_planes(deep, turned)
            image.load()
            if image.mode in DEEP:
                return upright(np.asarray(image)[..., None], turned).transpose(2, 0, 1)
            return to_rgb(image, "full")[0].transpose(2, 0, 1)


def _decode_deep(path: str, image: ImageFile.ImageFile, content: bytes) -> np.ndarray:
    """Return uint16 (c, h, w) as the file holds it."""
    if image.format == "PNG":
        values = imagecodecs.png_decode(content)
    elif image.format == "JPEG2000":
        max_bytes = image.width * image.height * len(image.getbands()) * 2
        values = apart(path, max_bytes, imagecodecs.jpeg2k_decode, content)
    elif image.format == "PPM" and image.tile[0].codec_name == "ppm":
        count = image.width * image.height * 3
        values = np.frombuffer(content, ">u2", count, image.tile[0].offset).astype(np.uint32)
        values = np.minimum(values * 65535 // _white(image), 65535).astype(np.uint16)
        values = values.reshape(image.height, image.width, 3)
    else:
        raise ValueError(f"unsupported: {image.format} of more than 8 bit a channel")
    if values.ndim != 3:
        raise ValueError(f"unsupported: values of shape {values.shape}")
    return np.moveaxis(values, -1, 0)
