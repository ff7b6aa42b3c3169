"""What one image passes through from file to export: modules entered, and how often it is opened.

    python benchmarks/image_path.py --out /tmp/image_path

A small drawn project is run to its end. Then one image is added, and `embed`, `annotate` and
`export` run under a profiler; then two. A module counts if its functions are called more often for
two images than for one. Opens are those of the image's own file, by Python's audit events.
"""

import argparse
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from drawn_project import write_project
from PIL import Image

from usam_core.config.project import load_project
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.steps import run_step

STEPS = ("embed", "annotate", "export")
SETTLED_SECONDS = 3.0
"""A file of this moment would be looked at again by every listing."""
FIRST = ("collect", "embed", "compose", "describe", "fit", "calibrate", "annotate", "export")
opened: Counter[str] = Counter()


def draw(folder: Path, number: int) -> Path:
    """Draw one scene as a PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = scene(generator(7, number), ["disc", "ring", "rod"], (96, 128), TRAINING_LOOK, most=3)
    path = folder / f"image_{number}.png"
    Image.fromarray(drawn.image).save(path)
    return path


def traced(file: Path) -> Counter[str]:
    """Return how often functions of each module were called while the steps ran."""
    calls: Counter[str] = Counter()

    def profile(frame, event, _):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("usam_core"):
            calls[name] += 1

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        for step in STEPS:
            run_step(step, load_project(file))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls


def main() -> None:
    """Run, and print both counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    images = out / "images"
    for number in range(2):
        draw(images, number)
    file = write_project(out / "project.yaml", 4, pictures=3, size=96, images={"path": "images"})
    for step in FIRST:
        run_step(step, load_project(file))

    def heard(event, args):
        if event == "open" and isinstance(args[0], str | Path):
            opened[str(args[0])] += 1

    sys.addaudithook(heard)
    draw(images, 2)
    time.sleep(SETTLED_SECONDS)
    one = traced(file)
    opened.clear()
    new = [draw(images, number) for number in (3, 4)]
    written = {str(path): opened[str(path)] for path in new}
    time.sleep(SETTLED_SECONDS)
    two = traced(file)
    passed = sorted(name for name in two if two[name] > one[name])
    for name in passed:
        print(f"{two[name] - one[name]:6d} more calls  {name}")
    counts = [opened[str(path)] - written[str(path)] for path in new]
    print(f"{len(passed)} modules entered for an image; its file opened {max(counts)} times")


if __name__ == "__main__":
    main()
