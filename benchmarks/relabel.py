"""A new head over stored images: seconds of `fit` and `annotate`, and how they grow.

    python benchmarks/relabel.py --out /tmp/relabel --images 1000 10000

Stores of 100 prompts an image are filled with mask sets that the nano SAM made of eight drawn
scenes (SAM itself is not measured), one store for each count. Then the classes become their
parents, which needs another head and nothing else: `fit`, `calibrate` and `annotate` are timed.
Neither a GPU nor the images' pixels are used.
"""

import argparse
import json
import shutil
import time
from datetime import date
from pathlib import Path

import scale
from drawn_project import write_project

from usam_core.config.project import load_project
from usam_core.steps import run_step

SIDE = 10


def make_project(folder: Path) -> Path:
    """Write a project whose classes have parents, for the images in `folder`."""
    parents = {"disc": "round", "ring": "round", "rod": "long"}
    return write_project(
        folder / "project.yaml",
        SIDE,
        pictures=8,
        size=96,
        classes=[{"name": name, "parent": parent} for name, parent in parents.items()],
        compose={"held_out_scenes": 12, "size": 128},
        head={"hidden": [64, 32, 16]},
    )


def measure(folder: Path, images: int, sets: list) -> dict[str, float | int]:
    """Fill a store of `images`, and time what another class level costs."""
    shutil.rmtree(folder, ignore_errors=True)
    scale.make_images(folder / "images", images)
    project = load_project(make_project(folder))
    run_step("collect", project)
    scale.fake_encoder(sets)
    run_step("embed", project)
    run_step("compose", project)
    for step in ("fit", "calibrate"):
        run_step(step, project)
    other = load_project(project.file, level="parents")
    row: dict[str, float | int] = {"images": images}
    embedded = run_step("embed", other).summary["embedded"]
    for step in ("fit", "calibrate", "annotate"):
        start = time.monotonic()
        result = run_step(step, other)
        row[f"{step} seconds"] = round(time.monotonic() - start, 1)
    row |= {"embedded": embedded, "labelled": result.summary["labelled"]}
    row["images a second"] = round(images / row["annotate seconds"], 1)
    return row


def main() -> None:
    """Parse the command line, print one JSON object a count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    args = parser.parse_args()
    sets = scale.make_sets(SIDE)
    print(json.dumps({"date": str(date.today()), "prompts": SIDE**2}), flush=True)
    for images in args.images:
        print(json.dumps(measure(args.out.resolve() / str(images), images, sets)), flush=True)


if __name__ == "__main__":
    main()
