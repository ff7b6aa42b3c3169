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
import torch
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lab_counts import count_image, run_lengths, sizes, tabulated
from benchmarks.lab_pictures import BACTERIUM, CYTOPLASM, EMPTY, NUCLEUS, draw_pictures
from usam_core.candidates import label_image
from usam_core.config import SamConfig
from usam_core.headfile import load_head
from usam_core.images import read_image
from usam_core.outputs.coco_json import annotation_records
from usam_core.outputs.voc_png import read_label_png, save_label_png
from usam_core.project import load_project
from usam_core.sam.load import open_embedder
from usam_core.stages import STEPS, annotate, run_step, step_folder
from usam_core.stages.embed import open_store
from usam_core.stages.reading import reading
from usam_core.truth.choose import open_truth

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
    head, card = load_head(annotate.head_path(project))
    names = pd.Series([e["file_name"] for e in annotate.entries(step_folder(project, "annotate"))])
    chosen = names.groupby(names.str.split("/").str[0]).head(sample)
    tables = []
    for grid in GRIDS:
        embedder = open_embedder(SamConfig(points_per_side=grid))
        entries, counted = [], []
        for name in chosen:
            rgb = read_image(project.image_address(name), **reading(project)).rgb
            (mask_set,) = embedder.embed([rgb])
            done = label_image(
                head,
                mask_set,
                card["settings"]["features"],
                project.config.inference,
                card["classes"],
            )
            h, w = rgb.shape[:2]
            records = annotation_records(done.instances)
            entry = {"file_name": name, "height": h, "width": w, "annotations": records}
            entries.append(entry)
            proposals = run_lengths(mask_set, *sizes(truth, name))
            counted.append(count_image(entry, done.labels, truth, grid, proposals))
        table = tabulated(entries, counted, truth, NAMES)
        tables.append(table.assign(grid=f"{grid} x {grid}"))
    return pd.concat(tables).set_index("grid", append=True).sort_index()


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
    parser.add_argument("--limit", type=int, help="the first so many images of each kind")
    args = parser.parse_args()
    work = args.out.resolve()
    print(json.dumps(lay_out(args.data, work, args.limit)))
    tables = []
    for seed in args.seeds:
        draw_pictures(work / f"pictures-{seed}", args.per_kind, seed)
        for name in args.rows:
            start = time.monotonic()
            table = measure(write_project(work, name, ROWS[name], seed))
            seconds = time.monotonic() - start
            print(f"\n{name}, seed {seed}, {seconds:.0f} s\n{table.to_string()}", flush=True)
            tables.append(table.assign(row=name, seed=seed).reset_index())
        if args.grid_sample:
            last = work / f"{args.rows[-1]}-{seed}.yaml"
            print(f"\ngrids, {args.rows[-1]}, seed {seed}", flush=True)
            print(measure_grids(last, args.grid_sample).to_string(), flush=True)
    pd.concat(tables).to_csv(work / "lab.csv", index=False)
    machine = platform.processor() or platform.machine()
    print(f"\n{date.today()}, {machine}, torch {torch.__version__}, nano SAM")


if __name__ == "__main__":
    main()
