"""How large a pixel of an image is, as microscopes write it into TIFF files."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import tifffile

_MICROMETRES = {
    "micron": 1.0,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "\\u00b5m": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "inch": 25400.0,
}


def pixel_size(file: str) -> float | None:
    """Return the width of a pixel in micrometres from OME-XML or ImageJ's tags; None if unknown.

    Args:
        file: path of the image; what is no TIFF has none.
    """
    if Path(file).suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(file) as tiff:
            if tiff.is_ome:
                return _of_ome(tiff.ome_metadata or "")
            if tiff.is_imagej:
                return _of_imagej(tiff)
    except (OSError, ValueError, ElementTree.ParseError, tifffile.TiffFileError):
        return None
    return None


def _of_ome(text: str) -> float | None:
    for element in ElementTree.fromstring(text).iter():
        if element.tag.endswith("}Pixels") and "PhysicalSizeX" in element.attrib:
            factor = _MICROMETRES.get(element.get("PhysicalSizeXUnit", "\u00b5m"))
            return factor and factor * float(element.attrib["PhysicalSizeX"])
    return None


def _of_imagej(tiff: tifffile.TiffFile) -> float | None:
    factor = _MICROMETRES.get((tiff.imagej_metadata or {}).get("unit", ""))
    tag = tiff.pages[0].tags.get("XResolution")
    if factor is None or tag is None or not tag.value[0]:
        return None
    pixels, units = tag.value
    return factor * units / pixels
