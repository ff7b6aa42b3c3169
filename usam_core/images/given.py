"""An image as a user gives it: a path, or in memory as an array or a Pillow image."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from usam_core.errors import InputError
from usam_core.files.fsspec_io import is_url
from usam_core.images.errors import UnusableImage, check_size, damaged, verdict_on
from usam_core.images.listing.content import content_key
from usam_core.images.listing.row import check_named, large_size
from usam_core.images.read import read_image
from usam_core.images.ref import Box, ImageRef, is_large
from usam_core.images.rgb import DecodedImage, Window, of_kind, to_rgb, window_key
from usam_core.images.stores.factory import is_store_folder
from usam_core.images.stores.picture import gray_type

ImageLike: TypeAlias = np.ndarray | Image.Image | str | os.PathLike[str]
"""An image: a path, a URL or the address of a plane; a Pillow image; or an array, `uint8` (h, w),
(h, w, 3) as RGB or (h, w, 4) as RGBA, or `uint16` (h, w)."""

_EXPECTED = "uint8 of (h, w), (h, w, 3) as RGB or (h, w, 4) as RGBA, or uint16 of (h, w)"
_KNOWN = {("uint8", None), ("uint8", 3), ("uint8", 4), ("uint16", None)}
"""Types of values, and how many a pixel has."""


@dataclass(frozen=True, slots=True)
class GivenImage:
    """A user's image.

    Attributes:
        path: its address; of a Pillow image its file, "" of an array.
        sha256: its content key, as in listings; "" of an image in memory.
        read: gives the pixels of a box, or with None of all of it, uint8 (h, w, 3).
        large: rows and columns of an image that is cut into tiles, None of any other.
    """

    path: str
    sha256: str
    read: Callable[[Box | None], np.ndarray]
    large: tuple[int, int] | None


def take(image: ImageLike, how: Mapping[str, Any], tile: int | None = None) -> GivenImage:
    """Take an image; of a file no pixel is decoded yet.

    Args:
        image: the image.
        how: arguments of `read_image`.
        tile: larger images are cut into tiles; None or 0 cuts none.

    Raises:
        InputError: it is no image, or of a type or shape that is not read.
        UnusableImage: the file cannot be used.
    """
    if isinstance(image, str | os.PathLike):
        return _take_file(ImageRef.parse(os.fspath(image)), how, tile)
    limit = np.inf if tile else how["max_megapixels"]
    rgb = rgb_of(image, limit, how["window"], how.get("stretch", False))
    height, width = rgb.shape[:2]
    return GivenImage(
        os.fspath(getattr(image, "filename", "")),
        "",
        lambda box: rgb if box is None else rgb[box.slices],
        (height, width) if is_large((height, width), tile) else None,
    )


def _take_file(ref: ImageRef, how: Mapping[str, Any], tile: int | None) -> GivenImage:
    if not is_url(ref.file) and os.path.isdir(ref.file) and not is_store_folder(ref.file):
        raise InputError(f"{ref.file}: got a folder; expected one image")
    with verdict_on(ref.file):
        sha256 = content_key(str(ref))
    large = None
    if tile and ref.box is None:
        size = check_named(ref, how["max_megapixels"], how["projection"], tile)
        large = large_size(size[1:]) if size else None

    def read(box: Box | None) -> np.ndarray:
        return read_image(ImageRef(ref.file, ref.plane, box or ref.box), **how).rgb

    return GivenImage(str(ref), sha256, read, large)


def rgb_of(
    image: Any, max_megapixels: float = 100.0, window: Window = "percentile", stretch: bool = False
) -> np.ndarray:
    """The pixels that `read_image` gives of a file that holds this image, uint8 (h, w, 3).

    EXIF orientation is applied, alpha is put over white, 16-bit grayscale goes through the window.

    Args:
        image: an array, `uint8` (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or `uint16` (h, w); or
            a Pillow image of any mode.
        max_megapixels: more pixels are refused.
        window: how deep values become 8 bit, as in `read_image`.
        stretch: let 8-bit values go through the image's own percentiles.

    Raises:
        InputError: the array is of another type or shape.
        UnusableImage: the image cannot be shown, or is too large, or too long and thin.
    """
    if isinstance(image, np.ndarray):
        name, picture = "the array", _from_array(image)
    elif isinstance(image, Image.Image):
        name, picture = getattr(image, "filename", "") or "the image", image
    else:
        raise InputError(
            f"got {type(image).__name__}; expected a path, a Pillow image, or an array: {_EXPECTED}"
        )
    check_size(name, picture.size[::-1], max_megapixels)
    try:
        picture.load()
        rgb, used = to_rgb(picture, of_kind(window, window_key(gray_type(picture), "0")))
    except ValueError as error:
        raise UnusableImage("unsupported", f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise damaged(name, error) from error
    return DecodedImage(rgb, used, picture.mode).stretched().rgb if stretch else rgb


def _from_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    if len(shape) == 3 and shape[2] == 1:
        array = array[..., 0]
    values = {2: None, 3: array.shape[-1]}.get(array.ndim, 0) if array.ndim else 0
    if (array.dtype.name, values) not in _KNOWN or not array.size:
        hint = ""
        if array.dtype.kind == "f":
            hint = "; of values from 0 to 1 `(image * 255).round().astype('uint8')` makes it so"
        raise InputError(f"got an array of {array.dtype} {shape}; expected {_EXPECTED}{hint}")
    return Image.fromarray(np.ascontiguousarray(array))
