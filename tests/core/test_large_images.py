"""Images that are embedded in tiles: one label image, an object on a seam is one object."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from tests.conftest import write_tiny_project
from usam_core.images import BadImage, read_image
from usam_core.lineage.chain import read_chain
from usam_core.outputs.coco_json import decode
from usam_core.outputs.voc_png import edited_png, read_label_png
from usam_core.progress import SILENT
from usam_core.project import load_project
from usam_core.stages import STEPS, embed, run_step, step_folder
from usam_core.stages import labelling as labelling_module
from usam_core.stages.labelled import embedded_files, labelled_images, tiled_images
from usam_core.types import Instances, MaskSet

CLASSES = ["disc", "ring", "rod"]
SIDE = 4
PALETTE = {(200, 40, 40): 0, (40, 200, 40): 1, (40, 40, 200): 2}
"""Of the drawings: what a perfect SAM and a perfect head would see."""
FRAME = 64


def draw(size_hw, objects):
    """Return a drawing, uint8 (h, w, 3), with ellipses: row, column, height, width, class."""
    rgb = np.full((*size_hw, 3), 90, np.uint8)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    for row, column, height, width, name in objects:
        inside = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
        rgb[inside] = list(PALETTE)[CLASSES.index(name)]
    return rgb
