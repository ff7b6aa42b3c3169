"""Pictures inside the report: small, and never more of them than a report may weigh."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

QUALITY = 70
_MARGIN = 0.35
_MIN_SIDE = 48
_OPACITY = 0.35


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it stands in the page.

    Attributes:
        uri: the whole picture, as a data URI.
        width: columns.
        height: rows.
        alt: what it shows, for who does not see it.
    """

    uri: str
    width: int
    height: int
    alt: str


class Album:
    """Makes pictures until they weigh too much.

    Args:
        max_bytes: all pictures together, as they stand in the page.

    Attributes:
        left_out: how many pictures found no room.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self.left_out = 0

    def add(self, rgb: np.ndarray | Image.Image, side: int, alt: str) -> Picture | None:
        """Return a picture with at most `side` rows and columns, or None if there is no room."""
        image = rgb if isinstance(rgb, Image.Image) else Image.fromarray(rgb)
        if max(image.size) > side:
            image = ImageOps.contain(image, (side, side))
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=QUALITY, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(uri) > self._left:
            self.left_out += 1
            return None
        self._left -= len(uri)
        return Picture(uri, image.width, image.height, alt)


def crop_of_mask(
    rgb: np.ndarray, mask: np.ndarray, box_xywh: Sequence[float], color: np.ndarray
) -> np.ndarray:
    """Return the surroundings of a mask with the mask drawn over them, uint8 (h, w, 3)."""
    top, bottom, left, right = _window(box_xywh, mask.shape)
    shown = rgb[top:bottom, left:right].astype(np.float32)
    part = mask[top:bottom, left:right]
    # As thick as will be seen when the crop is reduced.
    thick = max(1, max(part.shape) // 120)
    border = part & ~ndimage.binary_erosion(part, iterations=thick)
    shown[part] = shown[part] * (1 - _OPACITY) + color.astype(np.float32) * _OPACITY
    shown[border] = color
    around = ndimage.binary_dilation(part, iterations=thick) & ~part
    shown[around] = 255  # a dark colour on a dark image would not be seen
    return shown.astype(np.uint8)


def enlarged(labels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return a label map at another size, each pixel the nearest one's."""
    if labels.shape == tuple(size_hw):
        return labels
    rows, columns = (
        np.arange(side) * old // side for side, old in zip(size_hw, labels.shape, strict=True)
    )
    return labels[rows][:, columns]


def _window(box_xywh: Sequence[float], size_hw: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a box with a margin."""
    x, y, w, h = box_xywh
    side = max(w, h, _MIN_SIDE / (1 + 2 * _MARGIN)) * (1 + 2 * _MARGIN)
    found = []
    for middle, most in ((y + h / 2, size_hw[0]), (x + w / 2, size_hw[1])):
        found += [max(0, int(middle - side / 2)), min(most, int(np.ceil(middle + side / 2)))]
    return found[0], found[1], found[2], found[3]
