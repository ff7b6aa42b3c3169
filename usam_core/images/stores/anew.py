"""Images that looked otherwise before: TIFFs until each was read by its own tags, and plain Zarr
arrays until a last axis of 3 or 4 was color (decision 0013).

Their content keys differ from before, so that what was made of wrong pixels is made anew; all
others keep their keys. When a reading is mended again, its kinds belong here too.
"""

import io

import tifffile
import zarr

from usam_core.files.digest import value_digest
from usam_core.images.stores.tiff import TiffStore
from usam_core.images.stores.tiff_tags import Pixels
from usam_core.images.stores.zarr_store import Node, is_named, open_node

TIFF_READING, ZARR_READING = 2, 3
READING = ZARR_READING
"""The latest."""

_KIND = tifffile.PHOTOMETRIC


def key_as_read(digest: str, source: str | bytes) -> str:
    """Return the key of a TIFF, a path or bytes: its digest, or another where it is read anew."""
    return value_digest([digest, "reading", TIFF_READING]) if is_read_anew(source) else digest


def is_read_anew(source: str | bytes) -> bool:
    """Return whether a TIFF looked otherwise before; False where it cannot be read."""
    try:
        with TiffStore(source if isinstance(source, str) else io.BytesIO(source)) as store:
            is_single = len(store.planes()) == 1
            return any(_looked_otherwise(*kind, is_single) for kind in store.kinds())
    except Exception:  # the library raises anything on damaged bytes
        return False


def zarr_key_as_read(digest: str, source: str | Node) -> str:
    """Return the key of a Zarr image: its files' digest, or another where it is read anew."""
    return value_digest([digest, "reading", ZARR_READING]) if is_zarr_read_anew(source) else digest


def is_zarr_read_anew(source: str | Node) -> bool:
    """Return whether a plain array looked otherwise before; False where it cannot be read.

    The lengths decided: of (n, h, w, 3 or 4) each channel was a measurement of its own, a short
    first axis of (h, w, 3 or 4) numbered images.
    """
    try:
        node = open_node(source) if isinstance(source, str) else source
        if not isinstance(node, zarr.Array) or node.ndim < 3 or is_named(node):
            return False
        return node.ndim > 3 or node.shape[2] not in (3, 4) or min(node.shape[:2]) <= 4
    except Exception:  # the library raises anything on damaged metadata
        return False


def _looked_otherwise(page: tifffile.TiffPage, pixels: Pixels, is_single: bool) -> bool:
    values, samples, alpha = pixels.values, page.samplesperpixel, pixels.alpha
    is_rgb, is_gray = (page.photometric == kind for kind in (_KIND.RGB, _KIND.MINISBLACK))
    is_planar = samples > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    is_plain_planar = is_planar and not page.compression
    by_pillow = is_single and values.name in ("uint8", "int8")
    is_palette = pixels.kind == "palette"
    has_nodata = pixels.nodata is not None and (values.name, pixels.nodata) != ("uint8", 0)
    few_bits = pixels.bits is not None and values.itemsize == 1
    return any(
        (
            pixels.has_hole if is_palette else has_nodata,
            # Color maps of 8 bit were taken for ones of 16, and so for black.
            page.colormap is not None and 0 < page.colormap.max() < 256,
            # Opacity was that of the first extra sample, colors never divided by it but here.
            pixels.is_associated and not (by_pillow and is_rgb and not is_plain_planar),
            alpha is not None and ((is_gray and samples > 2) or alpha != (3 if is_rgb else 1)),
            alpha is not None and pixels.kind == "ink" and values.kind in "ub",
            alpha is not None and not page.extrasamples and not by_pillow,
            # Values of 2 and 4 bits were shown as if they had 8.
            few_bits and (samples > 1 or pixels.bits == 6 or not is_single),
            # Pillow took these for unsigned, for one sample, or for samples side by side.
            by_pillow and is_gray and (is_planar or (values.kind == "i" and samples == 1)),
            by_pillow and is_gray and values.kind == "u" and samples == 2 and alpha is None,
            by_pillow and is_planar and samples > 4 and alpha is not None,
            is_single and is_plain_planar and values.name == "uint16" and not is_gray,
            # It knows the name of this compression, and cannot decode it.
            by_pillow and page.compression == tifffile.COMPRESSION.WEBP,
        )
    )
