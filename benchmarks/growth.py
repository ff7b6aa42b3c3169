"""Embedding and labelling at 1, 10 and 100 times as many images: seconds, memory, bytes.

    python benchmarks/growth.py --out /tmp/growth [--images 100 1000 10000] [--side 2] \
        [--dtype bfloat16]

Drawn scenes go through the nano SAM with `side` x `side` prompts and through a small head, each
count in a process of its own. What must not grow with the number of images: seconds an image, and
the highest memory of each step. Linux only.
"""

import argparse
import json
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from drawn_project import CLASSES, write_project
from memory import forget_peak, peak_mib
from PIL import Image

from usam_core.config.project import load_project
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.steps import run_step

SIZE_HW = (192, 256)
A_FOLDER = 1000
STEPS = ("collect", "embed", "compose", "fit", "calibrate", "annotate")


def make_project(folder: Path, images: int, side: int, dtype: str) -> Path:
    """Draw the images and write the project file."""
    for number in range(images):
        file = folder / "images" / f"{number // A_FOLDER:05d}" / f"{number:08d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = scene(generator(7, number), CLASSES, SIZE_HW, TRAINING_LOOK, most=3)
        Image.fromarray(drawn.image).save(file, quality=90)
    return write_project(
        folder / "project.yaml",
        side,
        pictures=8,
        size=128,
        name="growth",
        head={"steps": 20, "hidden": [64, 32, 16]},
        sam={"dtype": dtype},
        compute={"workers": 0},  # memory and processor time of workers would not be seen
    )


def measure(file: Path, images: int) -> dict[str, float | int]:
    """Run the steps and return one row of the table; the body of a process of its own."""
    torch.set_num_threads(1)
    project = load_project(file)
    row: dict[str, float | int] = {"images": images}
    for step in STEPS:
        forget_peak()
        start = time.monotonic(), time.process_time()
        run_step(step, project)
        row[f"{step} s"] = round(time.monotonic() - start[0], 1)
        row[f"{step} processor s"] = round(time.process_time() - start[1], 1)
        row[f"{step} peak MiB"] = round(peak_mib())
    stored = sum(path.stat().st_size for path in project.store_root.rglob("*") if path.is_file())
    row["store KB an image"] = round(stored / images / 1000, 1)
    row["embedded a processor second"] = round(images / row["embed processor s"], 1)
    row["labelled a processor second"] = round(images / row["annotate processor s"], 1)
    return row


def main() -> None:
    """Parse the command line, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--side", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    rows = []
    for images in args.images:
        file = make_project(args.out.resolve() / str(images), images, args.side, args.dtype)
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            rows.append(process.submit(measure, file, images).result())
        print(json.dumps(rows[-1]), flush=True)
    print(
        f"\n{date.today()}, {platform.processor() or platform.machine()}, torch "
        f"{torch.__version__}, one thread, {args.side**2} prompts an image of {SIZE_HW}, "
        f"{args.dtype}\n"
    )
    print(pd.DataFrame(rows).set_index("images").T.to_string())
    (args.out / "growth.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
