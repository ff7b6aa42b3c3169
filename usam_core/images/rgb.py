"""Turns a decoded Pillow image into the 8-bit RGB that a person would see.

Alpha is composited over white, grayscale is repeated over the channels, deep grayscale goes
through a window, the EXIF orientation is applied. ICC profiles are not: CMYK becomes RGB by
(255 - c) (255 - k) / 255.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

OneWindow = Literal["percentile", "full"] | tuple[float, float]
"""How values of one kind become 8 bit: by the image's own percentiles, the data type's range, or
two fixed values."""
Window = OneWindow | Mapping[str, tuple[float, float]]
"""One for all images, or one for each kind of values (`window_key`); a kind without one goes
through each image's own percentiles."""

OWN_WINDOW = "own-window"
"""Ends the mode of an image whose kind of values had no window among those of all images."""
STRETCHED = "stretched"
"""Ends the mode of an 8-bit image that went through a window of its own."""
PERCENTILES = (0.5, 99.5)
"""The default window of deep images lies between these."""
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of deep grayscale."""

_ORIENTATION_TAG = 0x0112
_WHITE = 255
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_FULL_16 = (0.0, 65535.0)
_FULL_RANGE = {"I": (-(2.0**31), 2.0**31 - 1), "F": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as a person sees it.

    Attributes:
        rgb: uint8 (h, w, 3), upright.
        window: the values that became 0 and 255; None where nothing was changed.
        mode: Pillow's name for how the file holds its pixels, such as "RGB" or "I;16B"; of planes
            the type of their values and the channels shown, as `stores.show.View` says it.
    """

    rgb: np.ndarray
    window: tuple[float, float] | None
    mode: str

    def stretched(self) -> "DecodedImage":
        """Return an 8-bit picture through its own percentiles; a deeper one as it is."""
        if self.window is not None:
            return self
        window = limits(self.rgb, "percentile", (0.0, 255.0))
        rgb = apply_window(self.rgb, *window)
        return replace(self, rgb=rgb, window=window, mode=f"{self.mode} {STRETCHED}")


def to_rgb(image: Image.Image, window: OneWindow) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Return uint8 (h, w, 3), upright, and the window that was used (None: none was needed).

    Args:
        image: a loaded image: some formats tell their orientation only then.
        window: how deep grayscale becomes 8 bit, as in `ImagesConfig.window`.

    Raises:
        ValueError: the color mode cannot be shown, or no pixel holds a finite number.
    """
    used = None
    if image.mode in DEEP:
        values = np.asarray(image)
        # Pillow scales portable graymaps of more than 8 bit, its mode I, to 16 bit.
        is_scaled = image.mode == "I" and image.format in ("PPM", "PNG")
        full = _FULL_16 if is_scaled else _FULL_RANGE.get(image.mode, _FULL_16)
        used = limits(values, window, full)
        gray = apply_window(values, *used)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            gray[values == clear] = _WHITE
        rgb = np.repeat(gray[..., None], 3, axis=2)
    elif image.mode in _WITH_ALPHA or (image.mode in _PLAIN and image.has_transparency_data):
        rgb = over_white(np.asarray(image.convert("RGBA")))
    elif image.mode in _PLAIN:
        rgb = np.array(image.convert("RGB"))
    else:
        raise ValueError(
            f"colour mode {image.mode!r} cannot be shown as RGB; expected greyscale, palette, RGB "
            "or CMYK, with or without alpha. Convert the file"
        )
    return np.ascontiguousarray(upright(rgb, orientation(image))), used


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Composite uint8 (h, w, 4) over white: round((a v + (255 - a) 255) / 255), halves up.

    >>> over_white(np.array([[[255, 0, 10, 0], [0, 0, 0, 51], [1, 2, 3, 255]]], np.uint8))
    array([[[255, 255, 255],
            [204, 204, 204],
            [  1,   2,   3]]], dtype=uint8)
    """
    alpha = rgba[..., 3:].astype(np.uint32)
    total = rgba[..., :3] * alpha + _WHITE * (255 - alpha)
    return ((2 * total + 255) // 510).astype(np.uint8)


def apply_window(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 255, clip outside, round halves up; NaN becomes 0.

    A window of no width shows everything black.

    >>> apply_window(np.array([99, 100, 150, 200, 300]), 100, 200)
    array([  0,   0, 128, 255, 255], dtype=uint8)
    """
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        # A table of all possible values costs a tenth of the arithmetic on every pixel.
        every = np.arange(2 ** (8 * values.itemsize), dtype=np.int64)
        return apply_window(every, low, high)[values]
    scaled = np.clip(values, low, high).astype(np.float64)
    scaled -= low
    scaled *= 255
    scaled /= high - low
    scaled += 0.5
    return np.nan_to_num(scaled, copy=False, nan=0.0).astype(np.uint8)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where it is missing or makes no sense."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises anything on damaged EXIF; the pixels are still good
        return 1
    return value if value in range(1, 9) else 1


def upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and flip (h, w, 3) as EXIF orientation 1 to 8 says (TIFF 6.0, tag 274).

    >>> upright(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    >>> upright(np.array([[1, 2, 3]]), 8).tolist()
    [[3], [2], [1]]
    """
    if orientation >= 5:
        rgb = rgb.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def upright_planes(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and flip (c, h, w) as `upright` does.

    >>> upright_planes(np.array([[[1, 2, 3]]]), 6).tolist()
    [[[1], [2], [3]]]
    """
    return np.moveaxis(upright(np.moveaxis(values, 0, -1), orientation), -1, 0)


def window_key(dtype: str, channel: str) -> str:
    """Return the name of a kind of values: a type and a channel mean the same in all images."""
    return f"{dtype} {channel}"


def of_kind(window: Window, key: str) -> OneWindow:
    """Return the window for one kind of values."""
    return window.get(key, "percentile") if isinstance(window, Mapping) else window


def has_kind(window: Window, key: str) -> bool:
    """Return whether a window is given for a kind of values."""
    return not isinstance(window, Mapping) or key in window


def limits(values: np.ndarray, window: OneWindow, full: tuple[float, float]) -> tuple[float, float]:
    """Return the values that become 0 and 255.

    Args:
        values: of the image, for its own percentiles.
        window: how they become 8 bit.
        full: the range of the data type.

    Raises:
        ValueError: no value is a finite number.
    """
    if window == "full":
        return full
    if window != "percentile":
        low, high = window
        return float(low), float(high)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not finite.size:
        raise ValueError("no pixel holds a finite number; expected some. Export the file again")
    shallow = values.dtype == np.uint8
    # Of 8 bit the values that occur: the same whether gray counts once or as three colors.
    low, high = np.percentile(finite, PERCENTILES, method="inverted_cdf" if shallow else "linear")
    if low == high:
        # A few bright spots on an even ground are what such an image shows.
        low, high = finite.min(), finite.max()
    if low == high and shallow:
        return full  # of one color only
    return float(low), float(high)
