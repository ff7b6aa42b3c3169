"""Label maps as palette PNGs, the PASCAL VOC convention: the pixel value is the label."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from usam_core.atomic import whole_file
from usam_core.palette import voc_palette


def save_label_png(path: Path, labels: np.ndarray) -> None:
    """Write a label map, without waiting for the disk: whoever counts on it keeps its digest.

    Args:
        path: the file.
        labels: uint8 (h, w) becomes a palette PNG with the VOC colours; uint16 (more than 255
            classes, which a palette cannot hold) a 16-bit greyscale PNG.
    """
    if labels.dtype == np.uint8:
        picture = Image.fromarray(labels).convert("L")
        picture = Image.frombytes("P", picture.size, picture.tobytes())
        picture.putpalette(voc_palette().tobytes())
    else:
        picture = Image.fromarray(labels.astype(np.uint16))
    # Run lengths suit label maps: smaller than zlib's usual search, in half the time.
    with whole_file(path, sync=False) as temporary:
        picture.save(temporary, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)


def read_label_png(path: Path) -> np.ndarray:
    """Return the label map of a PNG, uint8 or uint16 (h, w)."""
    with Image.open(path) as picture:
        labels = np.asarray(picture)
    return labels if labels.dtype == np.uint8 else labels.astype(np.uint16)
