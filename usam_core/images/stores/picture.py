"""A file of a single picture behind the seam: decoded whole, when it is first asked for."""

import io
import threading
from collections.abc import Sequence

import imagecodecs
import numpy as np
from PIL import ImageFile

from usam_core.files.fsspec_io import open_bytes
from usam_core.images.errors import UnusableImage, check_file, damaged, too_large, verdict_on
from usam_core.images.pillow import check_scans, grey_type, open_picture, stored_mode
from usam_core.images.rgb import DEEP, orientation, to_rgb, upright, upright_planes
from usam_core.images.stores.apart import apart
from usam_core.images.stores.base import ALL, ImageStore, Plane, PlaneInfo

_COLORS = ("red", "green", "blue")
_CHANNELS = {1: ("0",), 2: ("grey", "alpha"), 3: _COLORS, 4: (*_COLORS, "alpha")}
_SIZ = b"\xff\x4f\xff\x51"  # JPEG 2000: start of the codestream and of its sizes
_SIZ_CHANNELS = 38
"""Bytes from there to the number of channels; two further on stands the first one's depth."""


class PictureStore(ImageStore):
    """One picture: 8-bit colour as a person sees it, grey and colour of more bits raw.

    Args:
        path: the file.
        max_megapixels: a larger picture is refused from its header.
        content: what it holds, where that is known.

    Raises:
        UnusableImage: the file cannot be used as a single picture.
    """

    def __init__(self, path: str, max_megapixels: float, content: bytes | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._values: np.ndarray | None = None
        if content is None:
            check_file(path)
            with verdict_on(path):
                content = open_bytes(path)
        self._content: bytes | None = content
        with open_picture(io.BytesIO(content), path, max_megapixels) as image:
            check_scans(path, image, content)
            self._max_megapixels = max_megapixels
            dtype, channels = self._kind(image, content)
            height, width = image.size[::-1]
            if orientation(image) >= 5:
                height, width = width, height
            self._info = PlaneInfo((height, width), channels, dtype, is_color=len(channels) >= 3)

    def _kind(self, image: ImageFile.ImageFile, content: bytes) -> tuple[str, tuple[str, ...]]:
        channels = deep_colors(image, content)
        if channels:
            return "uint16", _CHANNELS[channels]
        if image.mode in DEEP:
            return grey_type(image), _CHANNELS[1]
        return "uint8", _COLORS

    def planes(self) -> list[Plane]:
        """Return the address of the one plane."""
        return [()]

    def info(self, plane: Plane) -> PlaneInfo:
        """Return what the header says."""
        return {(): self._info}[plane]

    def in_parts(self, plane: Plane) -> bool:
        """Return that it is not: a picture is decoded whole, once."""
        return False

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return (c, h, w), upright.

        Raises:
            UnusableImage: the pixels are damaged.
        """
        self.info(plane)
        with self._lock:
            if self._values is None:
                self._values, self._content = self._decode(self._content), None
        values = self._values[:, rows, columns]
        return values if channels is None else values[list(channels)]

    def close(self) -> None:
        """Let go of the pixels."""
        self._values = self._content = None

    def _decode(self, content: bytes) -> np.ndarray:
        try:
            with open_picture(io.BytesIO(content), self._path, self._max_megapixels) as image:
                is_deep = deep_colors(image, content) > 0
                # To look for the orientation Pillow may decode the image, and forget its depth.
                if is_deep:
                    values = _decode_deep(self._path, image, content)
                turned = orientation(image)
                if is_deep:
                    return upright_planes(values, turned)
                image.load()
                if image.mode in DEEP:
                    return upright(np.asarray(image)[..., None], turned).transpose(2, 0, 1)
                return to_rgb(image, "full")[0].transpose(2, 0, 1)
        except UnusableImage:
            raise
        except MemoryError as error:
            raise too_large(self._path, self._info.size_hw, "memory holds") from error
        except Exception as error:  # decoders raise anything on damaged bytes
            raise damaged(self._path, error) from error


def deep_colors(image: ImageFile.ImageFile, content: bytes) -> int:
    """Return how many channels a colour image of more than 8 bit has, of which Pillow gives 8.

    Grey with alpha counts as colour; 0 says that Pillow drops nothing, or that it is ink (CMYK),
    of which 8 bit are enough.

    Args:
        image: with its header read.
        content: of the file, at least the header.
    """
    if image.mode in DEEP:
        return 0
    if image.format == "JPEG2000":
        place = content.find(_SIZ)
        sizes = content[place + _SIZ_CHANNELS : place + _SIZ_CHANNELS + 3]
        return sizes[1] if place >= 0 and len(sizes) == 3 and (sizes[2] & 0x7F) >= 8 else 0
    if image.format == "PPM":
        depth = image.tile[0].args[-1] if isinstance(image.tile[0].args, tuple) else 0
        return 3 if image.mode == "RGB" and isinstance(depth, int) and depth > 255 else 0
    mode = stored_mode(image)
    if ";16" not in mode or image.mode not in ("RGB", "RGBA", "LA"):
        return 0
    return 2 if mode.startswith("LA") else len(image.getbands())


def _decode_deep(path: str, image: ImageFile.ImageFile, content: bytes) -> np.ndarray:
    """Return uint16 (c, h, w) as the file holds it."""
    if image.format == "PNG":
        values = imagecodecs.png_decode(content)
    elif image.format == "JPEG2000":
        most = image.width * image.height * len(image.getbands()) * 2
        values = apart(path, most, imagecodecs.jpeg2k_decode, content)
    elif image.format == "PPM" and image.tile[0].codec_name == "ppm":
        values = _portable(image, content)
    else:
        raise ValueError(f"unsupported: {image.format} of more than 8 bit a channel")
    if values.ndim != 3:
        raise ValueError(f"unsupported: values of shape {values.shape}")
    return np.moveaxis(values, -1, 0)


def _portable(image: ImageFile.ImageFile, content: bytes) -> np.ndarray:
    width, height = image.size
    tile = image.tile[0]
    values = np.frombuffer(content, ">u2", width * height * 3, tile.offset)
    # What counts as white stands in the header.
    scaled = values.astype(np.uint32) * 65535 // tile.args[-1]
    return np.minimum(scaled, 65535).astype(np.uint16).reshape(height, width, 3)
