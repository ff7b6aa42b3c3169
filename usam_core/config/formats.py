"""Names of the output formats; alone, because `usam --help` lists them."""

from typing import Literal

Format = Literal[
    "coco",
    "coco_polygons",
    "cvat",
    "labelme",
    "label_studio",
    "label_tiff",
    "ome_zarr",
    "parquet",
    "voc",
    "yolo",
]
