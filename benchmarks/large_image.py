"""A 20,000 x 20,000 image through embed and annotate in tiles, and the memory that it takes.

    python benchmarks/large_image.py --out /tmp/large [--side 20000] [--tile 2048] [--points 2]

Draws a tiled, compressed TIFF of discs, rings and rods; some lie on seams. The head is learned as
in any project, with the nano SAM, in a process before; then `embed` and `annotate` of the large
image run each in a process of its own, whose peak memory is printed. Few points a tile, so that it
ends in minutes on one core: memory goes with the tile and its masks, time with the points.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import tifffile
from drawn_project import CLASSES, write_project

from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene

SCENE = 500
TILE = 512
SEED = 7


def drawn(side: int):
    """Yield tiles of a TIFF, uint8 (512, 512, 3), row by row: scenes side by side."""
    scenes = [
        scene(generator(SEED, n), CLASSES, (SCENE, SCENE), TRAINING_LOOK, most=3).image
        for n in range(12)
    ]
    for top in range(0, side, TILE):
        rows = (np.arange(top, top + TILE) // SCENE, np.arange(top, top + TILE) % SCENE)
        for left in range(0, side, TILE):
            columns = np.arange(left, left + TILE)
            tile = np.empty((TILE, TILE, 3), np.uint8)
            for row in np.unique(rows[0]):
                for column in np.unique(columns // SCENE):
                    here = np.ix_(rows[0] == row, columns // SCENE == column)
                    part = scenes[(row * 7 + column * 3) % len(scenes)]
                    tile[here] = part[
                        np.ix_(rows[1][rows[0] == row], columns[columns // SCENE == column] % SCENE)
                    ]
            yield tile


def make(folder: Path, side: int, tile: int, points: int) -> Path:
    """Write the image and the project; return the project file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image = folder / "images" / "large.tif"
    if not image.exists():
        tifffile.imwrite(
            image,
            drawn(side),
            shape=(side, side, 3),
            dtype="uint8",
            photometric="rgb",
            tile=(TILE, TILE),
            compression="zlib",
        )
    return write_project(
        folder / "project.yaml",
        points,
        pictures=6,
        size=128,
        name="large",
        images={"tile": tile},
        compose={"scenes": 4, "size": 192},
        head={"steps": 200, "hidden": [64, 32, 16]},
        inference={"threshold": 0.5},
        outputs={"overlays": 1, "shard_size": 32},
        report={"enabled": False},
    )


def one_step(step: str, file: Path) -> None:
    """Run a step in this process and print what it took, as JSON."""
    from usam_core.config.project import load_project
    from usam_core.steps import run_step

    start = time.perf_counter()
    summary = run_step(step, load_project(file)).summary
    print(
        json.dumps(
            {
                "step": step,
                "seconds": round(time.perf_counter() - start, 1),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "summary": {k: v for k, v in summary.items() if isinstance(v, int | list)},
            }
        )
    )


def main() -> None:
    """Make the image, run the steps each in a process, print their peaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--points", type=int, default=2)
    parser.add_argument("--step", help="run this step alone, in this process")
    args = parser.parse_args()
    file = args.out / "project.yaml"
    if args.step:
        one_step(args.step, file)
        return
    make(args.out, args.side, args.tile, args.points)
    size = (args.out / "images" / "large.tif").stat().st_size
    print(f"{date.today()}, {platform.processor() or platform.machine()}, seed {SEED}")
    print(
        f"{args.side} x {args.side} pixels, {args.side**2 * 3 / 2**20:.0f} MiB decoded, "
        f"{size / 2**20:.0f} MiB on the disk; tiles of {args.tile}, "
        f"{args.points**2} points each",
        flush=True,
    )
    for step in ("collect", "embed", "compose", "fit", "calibrate", "annotate"):
        command = [sys.executable, __file__, "--out", str(args.out), "--step", step]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
