"""What a fitted head finds in other views of the images: finer grids, middle parts, a z-stack."""

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from benchmarks.lab_counts import count_image, grid_places, run_lengths, sizes, tabulated
from benchmarks.lab_data import NAMES, own_truth, save_classes
from usam_core.config.project import Project, load_project
from usam_core.config.schema import SamConfig
from usam_core.head.checkpoint import load_head
from usam_core.images.read import read_image
from usam_core.images.ref import Box, ImageRef
from usam_core.inference.scoring import label_image, labelled_image
from usam_core.labels.label_map import LabelMap
from usam_core.masks.label_png import save_label_png
from usam_core.sam.load import open_embedder
from usam_core.steps import annotate, read_settings
from usam_core.truth import open_truth
from usam_core.truth.base import Truth

GRIDS = (10, 24)
CROP = 128
"""Side of the middle part that is labelled by itself, pixels."""
STACK_WINDOW = (100.0, 380.0)
"""From the stack's own darkest and brightest values; no truth was looked at."""


def measure_grids(file: Path, sample: int) -> pd.DataFrame:
    """Label the first images of each kind from grids of several densities, with one head.

    The head is the project's, which has learned from pictures under its own grid.
    """
    project = load_project(file)
    truth = open_truth(project)
    names = pd.Series([image.path for image in annotate.labels(project).sorted_images([])])
    chosen = names.groupby(names.str.split("/").str[0]).head(sample)
    how = read_settings.how_to_read(project)
    pictures = {name: read_image(project.image_address(name), **how).rgb for name in chosen}
    tables = [
        labelled_at(project, pictures, truth, grid).assign(grid=f"{grid} x {grid}")
        for grid in GRIDS
    ]
    return pd.concat(tables).set_index("grid", append=True).sort_index()


def measure_crops(file: Path, sample: int, work: Path) -> pd.DataFrame:
    """Label the middle of the first images of each kind: what cutting them up beforehand gives."""
    project = load_project(file)
    names = pd.Series([image.path for image in annotate.labels(project).sorted_images([])])
    how = read_settings.how_to_read(project)
    pictures = {}
    for name in names.groupby(names.str.split("/").str[0]).head(sample):
        rgb = read_image(project.image_address(name), **how).rgb
        top, left = ((side - CROP) // 2 for side in rgb.shape[:2])
        window = slice(top, top + CROP), slice(left, left + CROP)
        png = ImageRef.parse(name).output_name(".png")
        for folder in ("objects", "classes"):
            target = work / "crops" / folder / png
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(work / folder / png) as whole:
                save_label_png(target, np.asarray(whole)[window])
        pictures[name] = rgb[window]
    truth = own_truth(work / "crops")
    return labelled_at(project, pictures, truth, project.config.sam.points_per_side)


def measure_stack(file: Path, data: Path, work: Path) -> pd.DataFrame:
    """Label a z-stack as one projection and as planes of their own, with the project's head."""
    project = load_project(file)
    image, mask = (data / "lab" / "extra_3d" / f"stardist_{n}.tif" for n in ("img3d", "mask3d"))
    volume = tifffile.imread(mask).astype(np.uint16)
    # Where objects lie above each other the higher number is seen.
    parts = {("projection", "max"): volume.max(axis=0)}
    parts |= {("single planes", f"i={n}"): volume[n] for n in range(2, len(volume), 6)}
    pictures = {}
    for (kind, place), objects in parts.items():
        plane, projection = ("", "max") if place == "max" else (f"#{place}", "none")
        name = f"{kind}/stack.tif{plane}"
        png = ImageRef.parse(name).output_name(".png")
        for folder in ("objects", "classes"):
            (work / "stack" / folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(objects).save(work / "stack" / "objects" / png)
        save_classes(work / "stack" / "classes" / png, work / "stack" / "objects" / png, 1)
        found = read_image(f"{image}{plane}", window=STACK_WINDOW, projection=projection)
        pictures[name] = found.rgb
    truth = own_truth(work / "stack")
    return labelled_at(project, pictures, truth, project.config.sam.points_per_side)


def labelled_at(
    project: Project, pictures: dict[str, np.ndarray], truth: Truth, points_per_side: int
) -> pd.DataFrame:
    """Label pictures, uint8 (h, w, 3) by name, with the project's head; return what was found."""
    head, card = load_head(annotate.head_path(project))
    embedder = open_embedder(SamConfig(points_per_side=points_per_side))
    features = card["settings"]["features"]
    label_map = LabelMap.of_names(card["classes"])
    images, counted = [], []
    for name, rgb in pictures.items():
        (mask_set,) = embedder.embed([rgb])
        done = label_image(head, mask_set, features, project.config.inference, card["classes"])
        h, w = rgb.shape[:2]
        images.append(labelled_image(done, mask_set, label_map, path=name, sha256=""))
        proposals = run_lengths(mask_set, *sizes(truth, name))
        places = grid_places(points_per_side, [Box((0, h), (0, w))])
        counted.append(count_image(images[-1], done.labels, truth, places, proposals))
    return tabulated(images, counted, truth, NAMES)
