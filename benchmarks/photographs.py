"""Names to masks on real photographs: papers' mode and default mode, teacher and student.

    python benchmarks/photographs.py --data ../shared/data --out out/photographs
    python benchmarks/photographs.py --data ../shared/data --out out/photographs --variants \
        benchmarks/variants.yaml --split tune

Trains on the class folders (`crawl/`), labels the annotated photographs (`voc/`, `coco128/`) and
prints one table: mean and deviation over seeds. The embeddings are made once and serve every row.
mAP50 comes from `coco128`, restricted to the 20 names; there are no instance masks in `voc/`.

`--clip FOLDER_OR_HUB_ID` adds the papers' SAM+CLIP baseline (`sam_clip.yaml`), which learns
nothing; without one that row is left out.

`--variants` reads a YAML mapping from a row's name to settings that differ from the default, such
as `{no NMS: {inference: {nms_iou: 1.0}}}`, and prints a row for each: this is how the defaults in
`usam_core/config/schema.py` were chosen, always on `--split tune`.
"""

import argparse
import json
import platform
import shutil
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from usam_core.config.project import Project
from usam_core.config.schema import FILLED_IN, ProjectConfig
from usam_core.steps import run_step, step_folder

SPELLINGS = {
    "aeroplane": ["airplane"],
    "diningtable": ["dining table"],
    "motorbike": ["motorcycle"],
    "pottedplant": ["potted plant"],
    "sofa": ["couch"],
    "tvmonitor": ["tv"],
}
NAMES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
PAPERS = {"recipe": "papers"}
ROWS = {
    "papers' mode, teacher": {**PAPERS, "inference": {"head": "teacher"}},
    "papers' mode, student": PAPERS,
    "papers' mode, threshold 0.7 as of SAM+CLIP": {
        **FILLED_IN["papers"],
        "inference": {**FILLED_IN["papers"]["inference"], "threshold": 0.7},
    },
    "default, teacher": {"inference": {"head": "teacher"}},
    "default, student": {},
    # Inference alone: these share the default's head.
    "minus votes: paint by score": {"inference": {"paint": "score"}},
    "minus predicted IoU in the score": {"inference": {"score": "confidence"}},
    "minus the single mask: best predicted IoU": {"inference": {"mask_choice": "best_iou"}},
    "minus the low threshold: 0.8 (the papers name none)": {"inference": {"threshold": 0.8}},
    "plus presence gate at 0.5": {"inference": {"presence": 0.5}},
    "plus calibrated thresholds": {"inference": {"thresholds": "calibrated"}},
    # Heads of their own.
    "minus encoder features: tokens": {"head": {"features": ["tokens"]}},
    "minus standardised inputs": {"head": {"standardize": False}},
    "minus a = 20: a = 10": {"head": {"top_k_share": 10}},
    "minus the averaged loss: summed as printed": {"head": {"uncertainty_reduction": "sum"}},
    "minus calibration: nothing held out": {"compose": {"held_out_scenes": 0}},
    "plus tokens, late fusion": {"head": {"features": ["tokens", "encoder"]}},
    "plus class balance": {"head": {"class_balance": True}},
    "plus composed scenes and background": {
        "compose": {"scenes": 100},
        "head": {"composed": "bags", "background": True},
    },
}
SAM_CLIP = Path(__file__).with_name("sam_clip.yaml")
COLUMNS = [
    "miou",
    "miou_common",
    "map50",
    "boundary_f",
    "boundary_f_common",
    "false_positive_rate",
    "ece",
    "scenes_ece",
]


def link_split(data: Path, split: str, folder: Path) -> Path:
    """Link the photographs of one VOC list into a folder of their own; nothing is copied."""
    names = (data / "voc" / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        link = folder / f"{name}.jpg"
        if not link.exists():
            link.symlink_to((data / "voc" / "JPEGImages" / f"{name}.jpg").resolve())
    return folder


def merged(base: dict, change: dict) -> dict:
    """Return `base` with the nested settings of `change` put over it."""
    result = dict(base)
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def project(args: argparse.Namespace, target: str, row: dict, seed: int) -> Project:
    """Return the project of one row on one target: `coco` or a list of `voc`."""
    work = args.out.resolve()
    if target == "coco":
        images = args.data / "coco128" / "images"
        truth = {"format": "coco", "path": str(args.data / "coco128" / "instances.json")}
    else:
        images = link_split(args.data, target, work / "images" / target)
        folder = args.data / "voc" / "SegmentationClass"
        truth = {"format": "voc", "path": str(folder), "classes": NAMES}
    base = {
        "classes": [{"name": n, "synonyms": SPELLINGS.get(n, [])} for n in NAMES],
        "images": {"path": str(images)},
        "training": {"source": "folder", "path": str(args.data / "crawl")},
        "sam": {"model": args.sam},
        # One folder a target: a step whose inputs did not change is not run again.
        "outputs": {"path": str(work / target), "store": str(work / "store"), "overlays": 0},
        "evaluation": truth,
        "seed": seed,
    }
    if args.checkpoint:
        base["sam"]["checkpoint"] = str(args.checkpoint)
    return Project(ProjectConfig.model_validate(merged(base, row)), work / "photographs.yaml")


def measure(args: argparse.Namespace, name: str, row: dict, seed: int, targets: list[str]) -> dict:
    """Fit, label and score one row on every target."""
    result = {"row": name, "seed": seed}
    for target in targets:
        start = time.monotonic()
        this = project(args, target, row, seed)
        for step in ("collect", "embed", "compose", "describe"):
            run_step(step, this)
        if target != targets[0]:
            # The head is the same for every target: what one has fitted serves the next.
            fitted = step_folder(project(args, targets[0], row, seed), "fit")
            shutil.copytree(fitted, step_folder(this, "fit"), dirs_exist_ok=True)
        for step in ("fit", "calibrate", "annotate"):
            done = run_step(step, this)
            if step == "calibrate" and done.summary["masks"]:
                result[f"{target} scenes_ece"] = done.summary["ece"]
        scores = run_step("evaluate", this).summary
        for column in COLUMNS[:-1]:
            result[f"{target} {column}"] = scores.get(column)
        result[f"{target} seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(result), flush=True)
    return result


def sam_clip(model: str) -> dict:
    """Return the settings of the papers' SAM+CLIP with a CLIP of one's own."""
    settings = yaml.safe_load(SAM_CLIP.read_text())
    settings["features"]["clip"]["model"] = (
        str(Path(model).resolve()) if Path(model).is_dir() else model
    )
    return settings


def table(results: list[dict]) -> pd.DataFrame:
    """Return mean and deviation over the seeds, in percent, one line a row."""
    frame = pd.DataFrame(results)
    scores = [c for c in frame.columns if c.split(" ")[-1] in COLUMNS and frame[c].notna().any()]
    grouped = frame.groupby("row", sort=False)[scores]
    mean, deviation = grouped.mean() * 100, grouped.std(ddof=0).fillna(0) * 100
    return mean.round(1).astype(str) + " ± " + deviation.round(1).astype(str)


def main() -> None:
    """Parse the command line, measure every row, print and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["tune", "report"], default="report")
    parser.add_argument("--variants", type=Path, help="YAML file with rows of settings")
    parser.add_argument("--sam", default="nano")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--clip", help="folder or hub id of a CLIP, for the row SAM+CLIP")
    args = parser.parse_args()
    args.data = args.data.resolve()
    rows = yaml.safe_load(args.variants.read_text()) if args.variants else ROWS
    if args.clip:
        rows = {**rows, "SAM+CLIP, papers' baseline": sam_clip(args.clip)}
    else:
        print("no row SAM+CLIP: it needs --clip FOLDER_OR_HUB_ID, such as a downloaded CLIP")
    # `coco128` is a report set as a whole: no setting is chosen by it.
    targets = [args.split, "coco"] if args.split == "report" else [args.split]
    # Rows of one seed follow each other: those that differ in the inference alone share a head.
    results = [
        measure(args, name, row or {}, seed, targets)
        for seed in args.seeds
        for name, row in rows.items()
    ]
    summary = table(results)
    print(
        f"\n{date.today()}, {platform.processor() or platform.machine()}, torch "
        f"{torch.__version__}, SAM {args.sam}, seeds {args.seeds}, split {args.split}; "
        "percent, mean ± deviation\n"
    )
    print(summary.to_string())
    name = args.variants.stem if args.variants else "table"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}-{args.split}.json").write_text(json.dumps(results, indent=1))
    best = summary.index[int(np.argmax([float(v.split()[0]) for v in summary.iloc[:, 0]]))]
    print(f"\nhighest {summary.columns[0]}: {best}")


if __name__ == "__main__":
    main()
