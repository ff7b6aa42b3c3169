"""What a TIFF's header and its OME-XML claim, held against its size before it is believed."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import islice
from typing import Any

import tifffile

from usam_core.images.pillow import MAX_SCANS, jpeg_size, scans_in
from usam_core.images.stores.limits import MAX, check_count, check_metadata

_PAGES_LOOKED_AT = 16


def within(decode: Callable[..., Any], pixels: int) -> Callable[..., Any]:
    """Return a page's decoder that refuses a JPEG of more pixels than its tile has.

    The library makes room for what the JPEG says of itself, and fills what it lacks with grey.
    """

    def checked(data: bytes | None, index: int, **options: Any) -> Any:
        height, width = jpeg_size(data) if data else (0, 0)
        if height * width > 4 * pixels:
            raise ValueError(
                f"cannot decompress: a JPEG of {width} x {height} in a tile of {pixels} values"
            )
        if data and scans_in(data) > MAX_SCANS:
            raise ValueError(f"cannot decompress: a JPEG of more than {MAX_SCANS} scans")
        return decode(data, index, **options)

    return checked


def check_claims(file: tifffile.TiffFile) -> None:
    """Refuse pages and OME-XML that would fill the memory before the library believes them.

    Raises:
        UnusableImage: the file cannot hold what they speak of.
    """
    path, size = file.filehandle.path, file.filehandle.size
    check_count(path, "pages", len(file.pages), size)
    said = file.ome_metadata if file.is_ome else None
    if not said:
        return
    check_metadata(path, len(said))
    try:
        root = ElementTree.fromstring(said)
    except ElementTree.ParseError:
        return
    for pixels in root.iterfind("./{*}Image/{*}Pixels"):
        sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "XYZCT"}
        parts = pixels.findall("./{*}TiffData")
        counts = [_number(part, "PlaneCount", _number(part, "NumPlanes", 0)) for part in parts]
        check_count(path, "planes", sum(count or 1 for count in counts), size)
        # An entry without a number means every page.
        check_count(path, "planes", counts.count(0) * len(file.pages) // 64, size)
        named = dict.fromkeys(_number(part, "IFD", 0) for part in parts)
        pages = [n for n in islice((0, *named), _PAGES_LOOKED_AT) if 0 <= n < len(file.pages)]
        smallest = min((max(1, file.pages[n].size) for n in pages), default=1)
        check_count(path, "planes", math.prod(sizes.values()) // smallest, size)
    for along in root.iter():
        if "Start" in along.attrib and "End" in along.attrib:
            start, end, step = (float(along.get(key, 1)) for key in ("Start", "End", "Step"))
            check_count(path, "planes", int(min(MAX + 1, abs(end - start) / abs(step or 1))), size)


def _number(element: ElementTree.Element, name: str, default: int) -> int:
    return int(element.get(name, default))
