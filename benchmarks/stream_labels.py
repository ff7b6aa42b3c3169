"""Peak memory of what reads finished labels, for more and more images.

    python benchmarks/stream_labels.py --out /tmp/labels --images 1000 10000 100000

Labels without SAM: images of 16 x 16 pixels, up to four instances each, of twenty classes, in
parts of 64 as `annotate` writes them. A few pictures and label PNGs are linked under many names.
Each step runs in a process of its own; its peak is that process's, libraries included, and beside
it stands what the process held before the step began. `coco` is evaluate with COCO truth, which is
one JSON that is read whole, and with average precision.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from memory import peak_mib
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.labelled_run import finish_run, image_of, write_project
from usam_core.config.project import load_project
from usam_core.files.digest import value_digest
from usam_core.labels import LabelMap
from usam_core.masks.label_png import save_label_png
from usam_core.progress import SILENT
from usam_core.steps import evaluate, gate, report

CLASSES = [f"class {number}" for number in range(1, 21)]
SIDE, INSTANCES, POOL, PART = 16, 4, 64, 64
TRUTH = {
    "evaluate": {"format": "voc", "path": "truth"},
    "coco": {"format": "coco", "path": "truth.json"},
}


def pool(folder: Path, seed: int) -> list:
    """Write a few images with labels and truth below a folder; return the labelled images."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(POOL):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for label in rng.choice(len(CLASSES), INSTANCES, replace=False) + 1:
            top, left = rng.integers(0, SIDE - 2, 2)
            labels[top : top + 5, left : left + 5] = label
        name = f"{number}.png"
        save_label_png(folder / "truth" / name, np.roll(labels, 1, axis=0))
        grey = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(grey).save(folder / "images" / name)
        score = {label: round(float(rng.uniform(0.3, 1)), 6) for label in range(len(CLASSES) + 1)}
        images.append(image_of(folder, name, labels, "", score.get))
    return images


def write(root: Path, count: int, seed: int) -> None:
    """Write a project with so many labelled images."""
    some = pool(root / "pool", seed)
    out, found = root / "out" / "annotate", []
    for folder in (root / "images", root / "truth", out / "masks"):
        folder.mkdir(parents=True)
    truth = {"images": [], "annotations": [], "categories": LabelMap.of_names(CLASSES).categories()}
    for number in range(count):
        one, name = some[number % POOL], f"{number:07}.png"
        for place in ("images", "truth"):
            os.link(root / "pool" / place / one.path, root / place / name)
        os.link(root / "pool" / one.png, out / "masks" / name)
        png = f"masks/{name}"
        found.append(replace(one, path=name, png=png, sha256=value_digest(name)))
        truth["images"].append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        for instance in one.instances:
            record = {"id": len(truth["annotations"]), "image_id": number, "iscrowd": 0}
            record |= {"bbox": instance.bbox, "area": instance.area}
            record |= {"category_id": LabelMap.id_of(instance.class_index)}
            truth["annotations"].append({**record, "segmentation": instance.rle})
    (root / "truth.json").write_text(json.dumps(truth))
    finish_run(out, found, CLASSES, per_part=PART)
    # Nothing was embedded, so that there are no windows of the store.
    images = {"path": "images", "window": "full"}
    write_project(root, CLASSES, images=images, evaluation=TRUTH["evaluate"])


def act(root: Path, what: str) -> None:
    """Do one thing in this process, and print seconds and memory, MiB."""
    changes = {"evaluation": TRUTH[what]} if what in TRUTH else {}
    project = load_project(root / "project.yaml", **changes)
    (root / "out" / "gate" / gate.LABELS).unlink(missing_ok=True)  # else it counts nothing anew
    before, began = peak_mib(), time.monotonic()
    if what == "gate":
        gate.check_gate(project)
    else:
        {"report": report}.get(what, evaluate).run(project, "key", SILENT)
    print(json.dumps([time.monotonic() - began, before, peak_mib()]))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--acts", nargs="+", default=["gate", "evaluate", "coco", "report"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--act", help="used by the benchmark itself")
    given = parser.parse_args()
    if given.act:
        act(given.out, given.act)
        return
    print(f"{date.today()}, {platform.machine()}, Python {platform.python_version()}")
    print("| images | step | seconds | MiB before | MiB at its peak |")
    print("| --- | --- | --- | --- | --- |")
    for count in given.images:
        root = given.out / str(count)
        if not root.exists():
            write(root, count, given.seed)
        for what in given.acts:
            words = [sys.executable, __file__, "--out", str(root), "--act", what]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            seconds, before, peak = json.loads(done.stdout.splitlines()[-1])
            print(f"| {count:,} | {what} | {seconds:.1f} | {before:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
