"""Label maps, a picture an image: VOC's class PNGs, and TIFFs of object numbers."""

import csv
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from usam_core.config.training import BACKGROUND
from usam_core.files.atomic import whole_file
from usam_core.files.paths import inside
from usam_core.files.spreadsheet import as_text
from usam_core.labels.image import LabelledImage
from usam_core.masks.label_png import read_label_png
from usam_core.outputs.base import Labels, Writer, check_size, read_objects, write_text

_COLUMNS = ["image", "tiff", "object", "class", "score"]
_MICROMETERS = {
    **dict.fromkeys(("micron", "um", "\u00b5m", "\u03bcm", "\\u00b5m"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25400.0},
}
"""Of the units that microscopes write."""


class VocWriter(Writer):
    """`SegmentationClass/NAME.png` as `annotate` painted them, edits included, and the names."""

    name = "voc"

    def target(self, image: LabelledImage) -> Path:
        return self.to.folder / "SegmentationClass" / f"{image.name}.png"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Copy the PNG that the step `annotate` keeps."""
        shutil.copyfile(inside(image.folder or "", image.png), path)

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """The label map; it knows no objects."""
        return Labels(check_size(image, read_label_png(path)))

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the names, one a line, background first."""
        names = (BACKGROUND, *self.to.label_map.names)
        return [write_text(self.to.folder / "labels.txt", "".join(f"{name}\n" for name in names))]


class LabelTiffWriter(Writer):
    """A pixel's value is its object's number, as ImageJ, CellProfiler and QuPath want.

    16-bit, calibrated where the pixel's size is known; `objects.csv` names the objects.
    """

    name = "label_tiff"

    def target(self, image: LabelledImage) -> Path:
        return self.to.folder / f"{image.name}.tif"

    def write(self, image: LabelledImage, path: Path) -> None:
        numbers = np.ascontiguousarray(image.objects)
        size = self.to.pixel_size or pixel_size(image.file)
        options: dict[str, Any] = {"compression": "zlib"}
        if numbers.dtype != np.uint16:
            # ImageJ's own form knows 8 and 16 bit and floats; it reads this one all the same.
            self.note(
                f"label_tiff: {image.path} has {len(image.instances)} objects, more than 16 bit "
                "can number: its TIFF has 32 bit"
            )
            if size:
                options |= {"resolution": (1e4 / size, 1e4 / size), "resolutionunit": 3}
        else:
            labels = {"min": 0.0, "max": float(max(len(image.instances), 1))}
            unit = {"unit": "um"} if size else {}
            options |= {"imagej": True, "metadata": {"axes": "YX", **unit, **labels}}
            if size:
                options["resolution"] = (1 / size, 1 / size)
        tifffile.imwrite(path, numbers, **options)

    def read(self, image: LabelledImage, path: Path) -> Labels:
        return read_objects(image, tifffile.imread(path))

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        for number, instance in enumerate(image.instances, start=1):
            name = self.to.label_map.names[instance.class_index]
            values = (image.path, f"{image.name}.tif", number, name, instance.score)
            yield dict(zip(_COLUMNS, values, strict=True))

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        path = self.to.folder / "objects.csv"
        with (
            whole_file(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            table = csv.DictWriter(
                file, _COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
            )
            table.writeheader()
            for row in rows:
                table.writerow({name: as_text(value) for name, value in row.items()})
        return [path]


def pixel_size(file: str) -> float | None:
    """Width of a TIFF's pixel in micrometers, from OME-XML or ImageJ's tags; None if unknown."""
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
            factor = _MICROMETERS.get(element.get("PhysicalSizeXUnit", "\u00b5m"))
            return factor and factor * float(element.attrib["PhysicalSizeX"])
    return None


def _of_imagej(tiff: tifffile.TiffFile) -> float | None:
    factor = _MICROMETERS.get((tiff.imagej_metadata or {}).get("unit", ""))
    tag = tiff.pages.first.tags.get("XResolution")
    if factor is None or tag is None or not tag.value[0]:
        return None
    pixels, units = tag.value
    return factor * units / pixels
