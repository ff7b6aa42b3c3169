"""Label TIFFs: a pixel's value is its object's number, as ImageJ, CellProfiler and QuPath want."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from usam_core.files.atomic import whole_file
from usam_core.files.spreadsheet import as_text
from usam_core.labels.image import LabelledImage
from usam_core.outputs.base import Labels, Writer, read_objects
from usam_core.outputs.pixel_size import pixel_size


class LabelTiffWriter(Writer):
    """16-bit, calibrated where the pixel's size is known; `objects.csv` names the objects."""

    name = "label_tiff"

    def target(self, image: LabelledImage) -> Path:
        """Return the TIFF of an image."""
        return self.to.folder / f"{image.name}.tif"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Write the objects' numbers; 0 is background."""
        numbers = np.ascontiguousarray(image.objects)
        size = self.to.pixel_size or pixel_size(image.file)
        if numbers.dtype != np.uint16:
            # ImageJ's own form knows 8 and 16 bit and floats; it reads this one all the same.
            self.note(
                f"label_tiff: {image.path} has {len(image.instances)} objects, more than 16 bit "
                "can number: its TIFF has 32 bit"
            )
            centimetre = {}
            if size:
                centimetre = {"resolution": (1e4 / size, 1e4 / size), "resolutionunit": 3}
            tifffile.imwrite(path, numbers, compression="zlib", **centimetre)
            return
        calibration = {"resolution": (1 / size, 1 / size)} if size else {}
        unit = {"unit": "um"} if size else {}
        labels = {"min": 0.0, "max": float(max(len(image.instances), 1))}
        tifffile.imwrite(
            path,
            numbers,
            imagej=True,
            compression="zlib",
            metadata={"axes": "YX", **unit, **labels},
            **calibration,
        )

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Read the numbers back as classes."""
        return read_objects(image, tifffile.imread(path))

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        """Return which class each number is."""
        for number, instance in enumerate(image.instances, start=1):
            yield {
                "image": image.path,
                "tiff": f"{image.name}.tif",
                "object": number,
                "class": self.to.label_map.names[instance.class_index],
                "score": instance.score,
            }

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write `objects.csv`."""
        path = self.to.folder / "objects.csv"
        columns = ["image", "tiff", "object", "class", "score"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            table = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
            table.writeheader()
            for row in rows:
                table.writerow({name: as_text(value) for name, value in row.items()})
        return [path]
