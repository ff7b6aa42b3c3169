"""The report of many images: its size, the seconds it takes to write, and to open in Chromium.

    python benchmarks/report.py --out /tmp/report --images 1000

Drawn scenes of 640 x 480 pixels with the labels that they were drawn with, some moved, are put
where `annotate` puts its own, in two runs; SAM is not measured. The report of the second is
written with what changed since the first, and opened from its file in a Chromium without a
window, each time in a new one. Opened is the load event; pictures below are decoded as they come
into sight.
"""

import argparse
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chromium import open_chromium
from tests.labelled_run import finish_run, image_of, write_project
from usam_core.config.project import load_project
from usam_core.files.digest import file_digest
from usam_core.rng import generator
from usam_core.sources.scenes import SHAPES, TRAINING_LOOK, scene
from usam_core.steps import run_step

SIZE_HW = (480, 640)
DIFFERENT = 64
"""Scenes are slow to draw: so many are drawn, and the others are these, moved and mirrored."""


def write_images(
    folder: Path, count: int, classes: list[str], noise: float
) -> dict[str, np.ndarray]:
    """Write so many JPEGs, all different; return their label maps by name."""
    rng = np.random.default_rng(3)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    labels, drawn = {}, []
    for number in range(count):
        if number < DIFFERENT:
            made = scene(generator(5, number), classes, SIZE_HW, TRAINING_LOOK, most=4)
            drawn.append((made.image, made.label_map(classes)))
        image, label = drawn[number % DIFFERENT]
        turns = number // DIFFERENT
        image, label = np.roll(image, 37 * turns, axis=1), np.roll(label, 37 * turns, axis=1)
        if turns % 2:
            image, label = image[:, ::-1], label[:, ::-1]
        image = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
        name = f"s{number:05}.jpg"
        Image.fromarray(np.ascontiguousarray(image)).save(folder / "images" / name, quality=88)
        labels[name] = np.ascontiguousarray(label)
    return labels


def write_labels(folder: Path, labels: dict[str, np.ndarray], classes: list[str], seed: int) -> int:
    """Write a run whose labels lie up to 20 pixels beside the truth; return its instances."""
    rng = np.random.default_rng(seed)
    images = []
    out = folder / "out" / "annotate"
    for name, label in labels.items():
        moved = np.roll(label, rng.integers(-20, 20, 2), axis=(0, 1))
        missed = rng.choice(len(classes), 2) + 1
        digest = file_digest(folder / "images" / name)
        image = image_of(out, name, moved, digest, lambda _: float(rng.uniform(0.3, 1)), missed)
        images.append(image)
    finish_run(out, images, classes, seed=seed)
    return sum(len(image.instances) for image in images)


def seconds_to_open(page: Path, times: int) -> list[float]:
    """Return the seconds from the call to the load event, each in a new browser."""
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as profile, open_chromium(profile) as browser:
            began = time.monotonic()
            browser.get(page.as_uri())
            found.append(time.monotonic() - began)
            assert not browser.get_log("browser")
    return found


def main() -> None:
    """Measure and print one line a fact."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=len(SHAPES))
    parser.add_argument("--samples", type=int, default=4, help="report.samples")
    parser.add_argument("--noise", type=float, default=0, help="makes pictures weigh more")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    classes = list(SHAPES)[: given.classes]
    labels = write_images(given.out, given.images, classes, given.noise)
    project = load_project(write_project(given.out, classes, report={"samples": given.samples}))
    for seed in (0, 1):
        instances = write_labels(given.out, labels, classes, seed)
        began = time.process_time()
        result = run_step("report", project)
        seconds = time.process_time() - began
    page = Path(result.path)
    kept = page.parent / "runs"
    size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file()) / 2
    opened = seconds_to_open(page, given.times)
    print(f"{date.today()}, {platform.machine()}, Python {platform.python_version()}")
    print(f"images {given.images}, classes {len(classes)}, instances {instances}")
    print(f"report: {page.stat().st_size / 1e6:.2f} MB, written in {seconds:.1f} s of one core")
    print(f"pictures in it: {page.read_text(encoding='utf-8').count('<img ')}")
    print(f"changed images: {result.summary['changed']}; kept of a run: {size / 1e6:.2f} MB")
    print(f"opened in {', '.join(f'{s:.2f}' for s in opened)} s")


if __name__ == "__main__":
    main()
