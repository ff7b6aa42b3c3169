"""Images whose folders and names mean something to somebody, written in every format."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.export_data import image_of, target_in
from usam_core.labels import LabelledImage
from usam_core.masks.label_png import save_label_png
from usam_core.outputs.formats import WRITERS, open_writer
from usam_core.outputs.label_files import output_names

SIZE = (24, 40)
NAMES = [
    "plate/images/well.png",
    "plate/images/images/well.png",
    "plate/images_/well.png",
    "plate/labels/well.png",
    "images/a.png",
    "images/images.png",
    "labels/images/labels/b.png",
    "other/well.png",
    "other/well.jpg",
    "two words/a  b.png",
    "\u00fc/\u00f1.png",
    "u\u0308/n\u0303.png",
    'it\'s/"quoted".png',
    "50% #1/100%25.png",
    "a#b/c&d;e+f.png",
    "[1]/{x}*?.png",
]


def mask_of(number):
    """Return the mask of the image of that number, which no other has."""
    mask = np.zeros(SIZE, bool)
    mask[2 + number : 6 + number, 3 : 9 + number] = True
    return mask


def write_images(root: Path) -> list[LabelledImage]:
    """Write the images below `root`, each of a grey of its own, with their label PNGs."""
    paths = output_names(NAMES)
    images = []
    for number, name in enumerate(NAMES):
        file = root / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 10 * number, np.uint8)).save(file)
        mask = mask_of(number)
        image = image_of([mask], SIZE, name, root / "images", paths[name])
        image = replace(image, folder=root / "annotate")
        save_label_png(image.png_file, mask.astype(np.uint8))
        images.append(image)
    return images


def write_all(root: Path) -> dict[str, Path]:
    """Write the images in every format; return the folders by the formats' names."""
    images = write_images(root)
    for name in WRITERS:
        writer = open_writer(name, replace(target_in(root), folder=root / name))
        for image in images:
            path = writer.target(image)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                writer.write(image, path)
                writer.placed(image)
        writer.finish(row for image in images for row in writer.rows(image))
    return {name: root / name for name in WRITERS}
