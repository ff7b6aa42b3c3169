"""The output formats by name."""

from usam_core.outputs.base import Target, Writer
from usam_core.outputs.label_studio import LabelStudioWriter
from usam_core.outputs.lists import CocoPolygonsWriter, CocoWriter, CvatWriter, ParquetWriter
from usam_core.outputs.ome_zarr import OmeZarrWriter
from usam_core.outputs.polygons import LabelMeWriter, YoloWriter
from usam_core.outputs.rasters import LabelTiffWriter, VocWriter
from usam_core.outputs.volumes import VolumesWriter

_CLASSES: tuple[type[Writer], ...] = (
    *(CocoWriter, CocoPolygonsWriter, CvatWriter, LabelMeWriter, LabelStudioWriter),
    *(LabelTiffWriter, OmeZarrWriter, ParquetWriter, VocWriter, VolumesWriter, YoloWriter),
)
WRITERS = {writer.name: writer for writer in _CLASSES}


def open_writer(name: str, target: Target) -> Writer:
    """The writer of a format, one of `WRITERS`."""
    return WRITERS[name](target)
