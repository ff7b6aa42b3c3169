"""PASCAL VOC: `SegmentationClass/NAME.png` as `annotate` painted them, edits included."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usam_core.config.training import BACKGROUND
from usam_core.files.atomic import whole_file
from usam_core.files.paths import inside
from usam_core.labels.image import LabelledImage
from usam_core.masks.label_png import read_label_png
from usam_core.outputs.base import Labels, Writer


class VocWriter(Writer):
    """The label PNGs in VOC's layout, with the names of the labels."""

    name = "voc"

    def target(self, image: LabelledImage) -> Path:
        """Return the palette PNG of an image."""
        return self.to.folder / "SegmentationClass" / f"{image.name}.png"

    def write(self, image: LabelledImage, path: Path) -> None:
        """Copy the PNG that the step `annotate` keeps."""
        shutil.copyfile(inside(image.folder, image.png), path)

    def read(self, image: LabelledImage, path: Path) -> Labels:
        """Return the label map; it knows no objects."""
        found = read_label_png(path)
        if found.shape != image.size_hw:
            raise ValueError(f"expected {image.size_hw} rows and columns, got {found.shape}")
        return Labels(found)

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        """Write the names, one a line, background first."""
        path = self.to.folder / "labels.txt"
        with whole_file(path) as temporary:
            text = "".join(f"{name}\n" for name in (BACKGROUND, *self.to.label_map.names))
            temporary.write_text(text, encoding="utf-8")
        return [path]
