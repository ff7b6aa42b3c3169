"""The output formats by name."""

from usam_core.outputs.base import Target, Writer
from usam_core.outputs.coco_writers import CocoPolygonsWriter, CocoWriter, CvatWriter
from usam_core.outputs.instances_table import ParquetWriter
from usam_core.outputs.label_studio import LabelStudioWriter
from usam_core.outputs.label_tiff import LabelTiffWriter
from usam_core.outputs.labelme import LabelMeWriter
from usam_core.outputs.ome_zarr import OmeZarrWriter
from usam_core.outputs.voc_writer import VocWriter
from usam_core.outputs.yolo import YoloWriter

WRITERS: dict[str, type[Writer]] = {
    writer.name: writer
    for writer in (
        CocoWriter,
        CocoPolygonsWriter,
        CvatWriter,
        LabelMeWriter,
        LabelStudioWriter,
        LabelTiffWriter,
        OmeZarrWriter,
        ParquetWriter,
        VocWriter,
        YoloWriter,
    )
}


def open_writer(name: str, target: Target) -> Writer:
    """Return the writer of a format, one of `WRITERS`."""
    return WRITERS[name](target)
