"""Pictures for a person: images with their labels, large ones reduced, and reliability."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from usam_core.config.project import Project
from usam_core.config.training import class_colors
from usam_core.files.atomic import whole_file
from usam_core.files.spreadsheet import write_csv
from usam_core.images.read import read_image
from usam_core.images.ref import Box, ImageRef, Tile
from usam_core.inference.reliability import diagram, expected_calibration_error
from usam_core.labels.overlay import save_overlay
from usam_core.masks.label_png import read_label_png
from usam_core.progress import Progress
from usam_core.steps.images_to_label import tiled_images
from usam_core.steps.read_settings import how_to_read

RELIABILITY, DIAGRAM = "reliability.csv", "reliability.png"
_MAX_PIXELS = 4_000_000


def write_reliability(folder: Path, table: pd.DataFrame, what: str) -> list[Path]:
    """Write how reliable stated probabilities are, as a table and a diagram; return the files."""
    files, error = [folder / RELIABILITY, folder / DIAGRAM], expected_calibration_error(table)
    write_csv(files[0], table)
    verdict = "no mask was listed" if error is None else f"ECE {error:.3f}"
    with whole_file(files[1]) as temporary:
        diagram(table, f"{int(table['masks'].sum())} {what}, {verdict}").save(temporary, "PNG")
    return files


def picture_and_labels(project: Project, path: str, png: Path) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 (h, w, 3), and its labels (h, w); a tiled one is subsampled.

    Args:
        path: the image as it is listed.
        png: its label PNG.
    """
    return pictures_and_labels(project)(path, png)


def pictures_and_labels(project: Project) -> Callable[[str, Path], tuple[np.ndarray, np.ndarray]]:
    """`picture_and_labels` of many images: what there is to know of all is read once."""
    how = how_to_read(project)
    tiles = {one.path: one.tiles for one in tiled_images(project)}

    def pair(path: str, png: Path) -> tuple[np.ndarray, np.ndarray]:
        ref = ImageRef.parse(project.image_address(path))

        def read(box: Box | None) -> np.ndarray:
            return read_image(ref if box is None else ImageRef(ref.file, ref.plane, box), **how).rgb

        return reduced(read_label_png(png), tiles.get(path, []), read)

    return pair


def reduced(
    labels: np.ndarray, tiles: Sequence[Tile], read: Callable[[Box | None], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 (h, w, 3), and its labels, both subsampled where there are tiles.

    Args:
        labels: the label map, (h, w).
        tiles: what the image is read in; none: all at once.
        read: gives the pixels of a box, or of the whole image.
    """
    if not tiles:
        return read(None), labels
    step = math.ceil(math.sqrt(labels.size / _MAX_PIXELS))
    labels = np.ascontiguousarray(labels[::step, ::step])
    rgb = np.zeros((*labels.shape, 3), np.uint8)
    for tile in tiles:
        part = read(tile.box)
        # The first row and column of the tile that count in the image.
        top, left = (-(-start // step) for start, _ in tile.box)
        above, before = top * step - tile.box.rows[0], left * step - tile.box.columns[0]
        part = part[above::step, before::step]
        rgb[top : top + part.shape[0], left : left + part.shape[1]] = part
    return rgb, labels


def draw_overlays(
    project: Project,
    folder: Path,
    images: dict[str, tuple[Path, str]],
    classes: Sequence[str],
    progress: Progress,
) -> list[Path]:
    """Draw overlays of images; cheap to look at, never an input of anything.

    Args:
        folder: where they go; what lies there goes.
        images: by path the label PNG of each, and the overlay's name without its ending.
        classes: the class names.
    """
    shutil.rmtree(folder, ignore_errors=True)
    drawn = []
    colors = class_colors(classes, {spec.name: spec.color for spec in project.config.classes})
    with progress.bar("Overlays", len(images)) as bar:
        for path, (png, name) in images.items():
            rgb, labels = picture_and_labels(project, path, png)
            drawn.append(folder / f"{name}.jpg")
            save_overlay(drawn[-1], rgb, labels, classes, colors)
            bar.advance()
    return drawn
