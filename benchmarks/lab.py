"""Names to masks on microscopy: drawn single-object pictures, real images, numbers by kind.

    python benchmarks/lab.py --data ../shared/data --out out/lab

Draws pictures of nuclei and bacteria into class folders (`lab_pictures.py`), labels the images of
`lab/` by their names alone, and compares with the numbered objects of `lab/masks`. The truth
measures and nothing else: it chooses no setting, and every row that is run is printed.

`--limit N` takes the first N images of each kind, to try it out.
"""

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lab_counts import count_image, run_lengths, sizes, tabulated
from benchmarks.lab_pictures import BACTERIUM, CYTOPLASM, EMPTY, NUCLEUS, draw_pictures, draw_sheet
from usam_core.candidates import label_image
from usam_core.config import SamConfig
from usam_core.headfile import load_head
from usam_core.image_ref import ImageRef
from usam_core.images import read_image
from usam_core.outputs.coco_json import annotation_records
from usam_core.outputs.voc_png import read_label_png, save_label_png
from usam_core.project import Project, load_project
from usam_core.sam.load import open_embedder
from usam_core.stages import STEPS, annotate, run_step, step_folder
from usam_core.stages.embed import open_store
from usam_core.stages.reading import reading
from usam_core.truth.base import Truth
from usam_core.truth.choose import open_truth
from usam_core.truth.voc import VocTruth

PHASE, BRIGHTFIELD, FLUORESCENCE = "phase contrast", "brightfield", "fluorescence"
ON_TISSUE, ON_GLASS = "stained tissue", "stained on glass"
CLASSES = [
    {"name": NUCLEUS, "synonyms": ["nuclei", "cell nucleus"]},
    {"name": BACTERIUM, "synonyms": ["bacteria"]},
]

NAMES = [NUCLEUS, BACTERIUM]

NEGATIVES = {"negatives": [CYTOPLASM, EMPTY]}
SMALL = {"inference": {"min_area": 0.00002}}
BEST = {"inference": {**SMALL["inference"], "mask_choice": "best_iou"}}
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small objects too": SMALL,
    "and negative names": {**SMALL, **NEGATIVES},
    "and best predicted IoU": {**BEST, **NEGATIVES},
}
"""Settled before any number was seen; each row adds to the one above it."""
GRIDS = (10, 24)
CROP = 128
"""Side of the middle part that is labelled by itself, pixels."""
STACK_WINDOW = (100.0, 380.0)
"""From the stack's own darkest and brightest values; no truth was looked at."""
PROPOSALS: dict[str, list[dict[str, Any]]] = {}
"""Run lengths of SAM's masks by image: the same for every row and seed."""


def kind_of(name: str, rgb: np.ndarray) -> str:
    """Tell the kind of microscopy from the file's name and the image's colours, never from truth.

    Args:
        name: of the file; the bacteria say where they come from.
        rgb: uint8 (h, w, 3).
    """
    if name.startswith("omnipose"):
        return PHASE
    light = rgb.astype(np.float32)
    if np.ptp(light, axis=-1).mean() > 4:
        corner = np.percentile(light.min(axis=-1), 90)
        return ON_GLASS if corner > 190 else ON_TISSUE
    return BRIGHTFIELD if light.mean() > 127 else FLUORESCENCE


def link(target: Path, source: Path) -> None:
    """Link a file of the data into the run's folder; nothing is copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink():
        target.symlink_to(source.resolve())


def lay_out(data: Path, work: Path, limit: int | None = None) -> dict[str, int]:
    """Link images by kind, write their class maps, link their numbered objects; count the kinds."""
    counts: dict[str, int] = {}
    for image in sorted((data / "lab" / "images").iterdir()):
        kind = kind_of(image.name, read_image(str(image), window="percentile").rgb)
        if limit is not None and counts.get(kind, 0) >= limit:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        mask = data / "lab" / "masks" / f"{image.stem}.png"
        link(work / "images" / kind / image.name, image)
        link(work / "objects" / kind / mask.name, mask)
        save_classes(work / "classes" / kind / mask.name, mask, 2 if kind == PHASE else 1)
    return counts


def save_classes(target: Path, objects: Path, label: int) -> None:
    """Write a palette PNG that gives every numbered object the one label."""
    with Image.open(objects) as picture:
        labels = (np.asarray(picture) > 0).astype(np.uint8) * label
    target.parent.mkdir(parents=True, exist_ok=True)
    save_label_png(target, labels)


def write_project(work: Path, name: str, row: dict[str, Any], seed: int) -> Path:
    """Write the project file of one row, as a user would; return it."""
    settings = {
        "name": f"lab, {name}",
        "classes": CLASSES,
        "images": {"path": "images"},
        "training": {"source": "folder", "path": f"pictures-{seed}"},
        # Rows of one head follow each other in one folder: it is fitted once.
        "outputs": {
            "path": f"runs/{seed}/{'negatives' if 'negatives' in row else 'names'}",
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
    }
    file = work / f"{name}-{seed}.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def measure(file: Path) -> pd.DataFrame:
    """Run a project from pictures to labels, and compare with truth by kind of image."""
    project = load_project(file)
    for step in STEPS[: STEPS.index("annotate") + 1]:
        run_step(step, project)
    folder, truth = step_folder(project, "annotate"), open_truth(project)
    entries = list(annotate.entries(folder))
    counted = []
    for entry in entries:
        name = entry["file_name"]
        if name not in PROPOSALS:
            mask_set = open_store(project).read(entry["sha256"])
            PROPOSALS[name] = run_lengths(mask_set, *sizes(truth, name))
        labels = read_label_png(folder / entry["png"])
        grid = project.config.sam.points_per_side
        counted.append(count_image(entry, labels, truth, grid, PROPOSALS[name]))
    return tabulated(entries, counted, truth, NAMES)


def measure_grids(file: Path, sample: int) -> pd.DataFrame:
    """Label the first images of each kind from grids of several densities, with one head.

    The head is the project's, which has learned from pictures under its own grid.
    """
    project = load_project(file)
    truth = open_truth(project)
    names = pd.Series([e["file_name"] for e in annotate.entries(step_folder(project, "annotate"))])
    chosen = names.groupby(names.str.split("/").str[0]).head(sample)
    how = reading(project)
    pictures = {name: read_image(project.image_address(name), **how).rgb for name in chosen}
    tables = [
        labelled_at(project, pictures, truth, grid).assign(grid=f"{grid} x {grid}")
        for grid in GRIDS
    ]
    return pd.concat(tables).set_index("grid", append=True).sort_index()


def measure_crops(file: Path, sample: int, work: Path) -> pd.DataFrame:
    """Label the middle of the first images of each kind: what cutting them up beforehand gives."""
    project = load_project(file)
    names = pd.Series([e["file_name"] for e in annotate.entries(step_folder(project, "annotate"))])
    how = reading(project)
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


def own_truth(folder: Path) -> VocTruth:
    """Return the truth that lies in `folder/classes` and `folder/objects`."""
    words = {name: name for name in NAMES}
    return VocTruth(folder / "classes", NAMES, words, NAMES, folder / "objects")


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
    entries, counted = [], []
    for name, rgb in pictures.items():
        (mask_set,) = embedder.embed([rgb])
        done = label_image(head, mask_set, features, project.config.inference, card["classes"])
        h, w = rgb.shape[:2]
        records = annotation_records(done.instances)
        entries.append({"file_name": name, "height": h, "width": w, "annotations": records})
        proposals = run_lengths(mask_set, *sizes(truth, name))
        counted.append(count_image(entries[-1], done.labels, truth, points_per_side, proposals))
    return tabulated(entries, counted, truth, NAMES)


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
    parser.add_argument("--grid-sample", type=int, default=2, help="images a kind, both grids")
    parser.add_argument("--stack", action="store_true", help="the z-stack too")
    parser.add_argument("--limit", type=int, help="the first so many images of each kind")
    args = parser.parse_args()
    work = args.out.resolve()
    print(json.dumps(lay_out(args.data, work, args.limit)))
    tables = []
    for seed in args.seeds:
        draw_pictures(work / f"pictures-{seed}", args.per_kind, seed)
        draw_sheet(work / f"pictures-{seed}.png", 8, seed)
        for name in args.rows:
            start = time.monotonic()
            table = measure(write_project(work, name, ROWS[name], seed))
            seconds = time.monotonic() - start
            print(f"\n{name}, seed {seed}, {seconds:.0f} s\n{table.to_string()}", flush=True)
            tables.append(table.assign(row=name, seed=seed).reset_index())
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
