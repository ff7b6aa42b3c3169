"""Many images through embed and annotate on a Prefect server, with an encoder that costs nothing.

    python benchmarks/scale.py --out /tmp/scale --images 100000 [--workers 2] [--alone]
    python benchmarks/scale.py --out /tmp/scale --images 100000 --again

The encoder behind the real seam gives back mask sets that the nano SAM made of eight drawn scenes,
so that reading, storing, labelling and orchestration are measured and SAM is not. Prints seconds,
processor seconds, images a second, memory after each quarter of each step, how long the server's
pages had to wait, sizes, task runs and the server's database; then runs from the command line
with nothing new. `--alone` embeds once more without Prefect, for Prefect's own share; `--again`
repeats only the runs with nothing new, on what an earlier call has left.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn_project import CLASSES, write_project
from PIL import Image
from scale_watch import database, measured, pages, server

from usam_core.config.project import load_project
from usam_core.config.schema import SamConfig
from usam_core.parallel.workers import open_workers
from usam_core.rng import generator
from usam_core.sam import load
from usam_core.sam.embedder import Prepared
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.steps import run_step, step_folder

SIZE_HW = (96, 128)
SIDE = 2
A_FOLDER = 1000
QUIET_SECONDS = 15
NANO_SECONDS = 0.45
"""An image through the nano SAM with 100 prompts on one core (docs/decisions/0003-nano-sam.md)."""


class FakeEmbedder:
    """Gives back ready-made mask sets, by turns.

    Args:
        sets: the mask sets.
    """

    batch_size = 64
    device = torch.device("cpu")

    def __init__(self, sets: list) -> None:
        self._sets = sets
        self._given = 0

    def prepare(self, image: np.ndarray) -> Prepared:
        """Return an image without its pixels."""
        return Prepared(torch.empty(0), image.shape[:2])

    def submit(self, images: Sequence[Prepared]) -> Callable[[], list]:
        """Return what gives a mask set for each image, with the image's own size."""
        first, self._given = self._given, self._given + len(images)
        sets = [
            replace(self._sets[(first + number) % len(self._sets)], size_hw=image.size_hw)
            for number, image in enumerate(images)
        ]
        return lambda: sets


def fake_encoder(sets: list) -> None:
    """Put the fake where this process asks for an embedder."""
    embedder = FakeEmbedder(sets)
    for module in list(sys.modules.values()):
        if getattr(module, "open_embedder", None) is not None:
            module.open_embedder = lambda *_: embedder


def fake_encoder_of_worker(sets: list) -> None:
    """Do the same in a worker, which has not imported the step yet."""
    import usam_core.steps  # noqa: F401

    fake_encoder(sets)


def make_sets(side: int = SIDE) -> list:
    """Return what the nano SAM says of eight drawn scenes, side x side prompts each."""
    return load.open_embedder(SamConfig(points_per_side=side)).embed(draw())


def draw() -> list:
    """Return the eight drawn scenes."""
    return [scene(generator(1, n), CLASSES, SIZE_HW, TRAINING_LOOK, most=3).image for n in range(8)]


def make_images(folder: Path, count: int) -> None:
    """Write `count` files of distinct content: one picture, and a number behind its end."""
    folder.mkdir(parents=True)
    Image.new("RGB", SIZE_HW[::-1], "grey").save(folder.parent / "base.png")
    base = (folder.parent / "base.png").read_bytes()
    for number in range(count):
        file = folder / f"{number // A_FOLDER:05d}" / f"{number:08d}.png"
        if number % A_FOLDER == 0:
            file.parent.mkdir()
        file.write_bytes(base + str(number).encode())


def make_project(folder: Path, out: str, workers: int) -> Path:
    """Write a project file for the images in `folder`."""
    return write_project(
        folder / f"{out}.yaml",
        SIDE,
        pictures=3,
        size=96,
        name="scale",
        head={"steps": 5, "hidden": [32, 16, 8]},
        outputs={"path": out},
        compute={"workers": workers, "threads": 1},
    )


def size_of(folder: Path) -> tuple[int, int]:
    """Return bytes and number of files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


def run_again(file: Path) -> None:
    """Run the whole project from the command line, in a process of its own as a person would."""
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", str(file)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def steps_on_a_server(folder: Path, sets: list, images: int, workers: int) -> dict[str, Any]:
    """Run embed and annotate as flows; return what embed took."""
    # After the server's address is set: Prefect reads it at import.
    from flows import steps
    from flows.parameters import SETTINGS

    file = str(make_project(folder, "out", workers))
    fake_encoder(sets)
    latency = folder / "latency.csv"
    with open_workers(load_project(file).config.compute, "cpu", workers) as opened:
        if workers:
            opened.client.run(fake_encoder_of_worker, sets)
        steps.collect(SETTINGS["collect"](project_file=file))
        embed = SETTINGS["embed"](project_file=file)
        taken = measured("embed, Prefect", images, latency, lambda: steps.embed(embed))
        steps.compose(SETTINGS["compose"](project_file=file))
        for name in ("fit", "calibrate"):
            steps.FLOWS[name](SETTINGS[name](project_file=file))
        annotate = SETTINGS["annotate"](project_file=file)
        measured("annotate, Prefect", images, latency, lambda: steps.annotate(annotate))
    return taken


def embed_alone(folder: Path, images: int, workers: int) -> dict[str, Any]:
    """Do the same work as embed without Prefect; return what it took."""
    alone = load_project(make_project(folder, "alone", workers))
    run_step("collect", alone)
    latency = folder / "latency.csv"
    return measured("embed, no Prefect", images, latency, lambda: run_step("embed", alone))


def main() -> None:
    """Parse the command line, run everything, print one JSON object a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="embed once more, without Prefect")
    parser.add_argument("--again", action="store_true", help="only run what --out has again")
    args = parser.parse_args()
    folder = args.out.resolve()
    print(json.dumps({"date": str(date.today()), "images": args.images, "workers": args.workers}))
    if not args.again:
        shutil.rmtree(folder, ignore_errors=True)
        make_images(folder / "images", args.images)
    with server(folder / "prefect") as latency:
        if not args.again:
            flow = steps_on_a_server(folder, make_sets(), args.images, args.workers)
        file = folder / "out.yaml"
        for name in ("the first run again", "nothing new", "nothing new, once more"):
            measured(name, args.images, latency, lambda: run_again(file))
        began = time.time()
        time.sleep(QUIET_SECONDS)
        print(json.dumps({"what": "quiet", "pages": pages(latency, began)}))
        print(json.dumps({"database": database(folder / "prefect" / "prefect.db")}), flush=True)
        core = embed_alone(folder, args.images, args.workers) if args.alone else None
    project = load_project(file)
    summary: dict[str, Any] = {"shards": len(list(project.store_root.glob("*/shards/*/zarr.json")))}
    for name, where in (
        ("store", project.store_root),
        ("labels", step_folder(project, "annotate")),
    ):
        summary[name] = dict(zip(("bytes", "files"), size_of(where), strict=True))
    if core is not None and not args.again:
        # Not by the clock, which differs by more where there is other work.
        over = flow["cpu_seconds"] - core["cpu_seconds"]
        summary["prefect_cpu_seconds_of_embed"] = round(over, 1)
        share = 100 * over / (args.images * NANO_SECONDS)
        summary["prefect_percent_at_nano_speed"] = round(share, 2)
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
