"""Names to masks on microscopy: drawn single-object pictures, real images, numbers by kind.

    python benchmarks/lab.py --data ../shared/data --out out/lab

Draws pictures of nuclei and bacteria into class folders (`lab_pictures.py`), labels the images of
`lab/` by their names alone, and compares with the numbered objects of `lab/masks`. The truth
measures and nothing else: it chooses no setting, and every row that is run is printed.

`--limit N` takes the first N images of each kind, to try it out. `--tile-sample N` takes them for
the rows that cut images into tiles, which cost most, and prints the other rows for them too.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lab_counts import (
    Counts,
    count_image,
    grid_places,
    run_lengths,
    sizes,
    tabulated,
)
from benchmarks.lab_data import CLASSES, NAMES, lay_out
from benchmarks.lab_extras import CROP, measure_crops, measure_grids, measure_stack
from benchmarks.lab_pictures import CYTOPLASM, EMPTY, draw_pictures, draw_sheet
from usam_core.config.project import Project, load_project
from usam_core.images.ref import Box
from usam_core.labels import LabelledImage
from usam_core.masks.label_png import read_label_png
from usam_core.masks.seams import shifted
from usam_core.sam.nano import NANO_SIZE
from usam_core.steps import STEPS, annotate, run_step
from usam_core.steps.embed import open_store
from usam_core.steps.images_to_label import TiledImage, tiled_images
from usam_core.truth import open_truth
from usam_core.truth.base import Truth

NEGATIVES = {"negatives": [CYTOPLASM, EMPTY]}
SMALL = {"inference": {"min_area": 0.00002}}
BEST = {"inference": {**SMALL["inference"], "mask_choice": "best_iou"}}
TILE = NANO_SIZE // 2
TILES = {"images": {"path": "images", "tile": TILE, "tile_overlap": TILE // 4}}
STRETCHED = {"images": {"path": "images", "stretch": True}}
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small objects too": SMALL,
    "and negative names": {**SMALL, **NEGATIVES},
    "and best predicted IoU": {**BEST, **NEGATIVES},
    "negative names, in tiles": {**SMALL, **NEGATIVES, **TILES},
    "best predicted IoU, in tiles": {**BEST, **NEGATIVES, **TILES},
    "negative names, stretched": {**SMALL, **NEGATIVES, **STRETCHED},
}
"""Each was settled before it was run, and none by truth: the first four before any, the last when
the others were known. Each of the first four adds to the one above it.

Two are the two before, in tiles. A tile is half of SAM's input side, so that SAM sees each
pixel at twice its size, and neighbours share a quarter of it: the same for all images, whatever
lies in them. `min_area` holds for a tile then, and lets all pass.
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one row gave.

    Attributes:
        images: as they were labelled.
        counted: what was found in each.
        truth: of all images.
    """

    images: list[LabelledImage]
    counted: list[Counts]
    truth: Truth

    def table(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one line a kind of image, of all images or of those with some names."""
        both = [
            (image, counts)
            for image, counts in zip(self.images, self.counted, strict=True)
            if names is None or image.path in names
        ]
        return tabulated(*zip(*both, strict=True), self.truth, NAMES)


def write_project(
    work: Path, name: str, row: dict[str, Any], seed: int, sample: Sequence[str] = ()
) -> Path:
    """Write the project file of one row, as a user would; return it.

    Args:
        work: the benchmark's folder.
        name: of the row.
        row: its settings.
        seed: everything random follows from it.
        sample: the images that are labelled where the row cuts them up; none given: all.
    """
    images = row.get("images", {"path": "images"})
    head = "negatives" if "negatives" in row else "names"
    if "tile" in images and sample:
        (work / "sample.txt").write_text("".join(f"{path}\n" for path in sample))
        images = {**images, "files": "sample.txt"}
    settings = {
        "name": f"lab, {name}",
        "classes": CLASSES,
        "training": {"source": "folder", "path": f"pictures-{seed}"},
        # Rows of one head follow each other in one folder: it is fitted once.
        "outputs": {
            "path": f"runs/{seed}/{head}{'-stretched' if 'stretch' in images else ''}",
            "store": "store",
            "shard_size": 16,
        },
        # Nothing is calibrated: the tables ask for labels, not for probabilities.
        "compose": {"held_out_scenes": 0},
        "evaluation": {
            "format": "voc",
            "path": "classes",
            "objects": "objects",
            "classes": NAMES,
        },
        "seed": seed,
        **row,
        "images": images,
    }
    file = work / f"{name}-{seed}.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def measure(file: Path, known: dict[tuple[str, bool], list[dict[str, Any]]]) -> Measured:
    """Run a project from pictures to labels, and compare with truth.

    Args:
        file: of the project.
        known: SAM's masks by image, and whether it was cut up; they are the same for every row.
    """
    project = load_project(file)
    for step in list(STEPS)[: list(STEPS).index("annotate") + 1]:
        run_step(step, project)
    truth = open_truth(project)
    large = {image.path: image for image in tiled_images(project)}
    grid = project.config.sam.points_per_side
    images = list(annotate.labels(project).sorted_images())
    counted = []
    for image in images:
        tiled = large.get(image.path)
        key = image.path, tiled is not None
        if key not in known:
            known[key] = proposed(project, image, tiled, truth)
        whole = [Box(*((0, n) for n in image.size_hw))]
        boxes = [tile.box for tile in tiled.tiles] if tiled else whole
        labels = read_label_png(image.png_file)
        counted.append(count_image(image, labels, truth, grid_places(grid, boxes), known[key]))
    return Measured(images, counted, truth)


def proposed(
    project: Project, image: LabelledImage, tiled: TiledImage | None, truth: Truth
) -> list[dict[str, Any]]:
    """Return SAM's masks of an image or of its tiles, as run lengths of the image's size."""
    store, areas = open_store(project), sizes(truth, image.path)
    if tiled is None:
        return run_lengths(store.read(image.sha256), *areas)
    return [
        shifted(mask, tile.box, tiled.size_hw)
        for tile, key in zip(tiled.tiles, tiled.keys, strict=True)
        for mask in run_lengths(store.read(key), *areas)
    ]


def first_of_each(work: Path, count: int) -> list[str]:
    """Return the first images of each kind that was laid out."""
    kinds = sorted(path for path in (work / "images").iterdir())
    return [
        image.relative_to(work / "images").as_posix()
        for kind in kinds
        for image in sorted(kind.iterdir())[:count]
    ]


def main() -> None:
    """Parse the command line, measure every row, print and save the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--per-kind", type=int, default=30, help="pictures of each kind")
    parser.add_argument("--tile-sample", type=int, help="images a kind that are cut into tiles")
    parser.add_argument("--grid-sample", type=int, default=2, help="images a kind, both grids")
    parser.add_argument("--stack", action="store_true", help="the z-stack too")
    parser.add_argument("--limit", type=int, help="the first so many images of each kind")
    args = parser.parse_args()
    work = args.out.resolve()
    print(json.dumps(lay_out(args.data, work, args.limit)))
    sample = first_of_each(work, args.tile_sample) if args.tile_sample else []
    known: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    tables = []
    for seed in args.seeds:
        draw_pictures(work / f"pictures-{seed}", args.per_kind, seed)
        draw_sheet(work / f"pictures-{seed}.png", 8, seed)
        for name in args.rows:
            start = time.monotonic()
            measured = measure(write_project(work, name, ROWS[name], seed, sample), known)
            seconds = time.monotonic() - start
            table = measured.table()
            print(f"\n{name}, seed {seed}, {seconds:.0f} s\n{table.to_string()}", flush=True)
            tables.append(table.assign(row=name, seed=seed, sample=False).reset_index())
            if sample and len(measured.images) > len(sample):
                table = measured.table(sample)
                print(f"of these the first {args.tile_sample}\n{table.to_string()}", flush=True)
                tables.append(table.assign(row=name, seed=seed, sample=True).reset_index())
        last = work / f"{args.rows[-1]}-{seed}.yaml"
        if args.stack:
            print(f"\nz-stack, {args.rows[-1]}, seed {seed}", flush=True)
            print(measure_stack(last, args.data, work).to_string(), flush=True)
        if args.grid_sample:
            print(f"\nmiddle {CROP} x {CROP} pixels, {args.rows[-1]}, seed {seed}", flush=True)
            print(measure_crops(last, args.grid_sample, work).to_string(), flush=True)
            print(f"\ngrids, {args.rows[-1]}, seed {seed}", flush=True)
            print(measure_grids(last, args.grid_sample).to_string(), flush=True)
    pd.concat(tables).to_csv(work / "lab.csv", index=False)
    machine = platform.processor() or platform.machine()
    print(f"\n{date.today()}, {machine}, torch {torch.__version__}, nano SAM")


if __name__ == "__main__":
    main()
