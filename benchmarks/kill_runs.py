"""Kill -9 a run again and again at random moments; the end must equal an undisturbed run's.

    python benchmarks/kill_runs.py --out out/kills --times 30

Draws a small project twice. One runs in peace; the other is started and killed, with every process
that it started, until it has been killed `--times` times, a random setting being changed now and
then so that there is something to do. Then both run to their end, and labels, heads and embeddings
are compared byte by byte. Exits with 1 when anything differs.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from usam_core.project import load_project
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.stages import step_folder
from usam_core.stages.embed import open_store

CLASSES = ["disc", "ring", "rod"]


def draw(folder: Path, images: int) -> Path:
    """Write a project of drawn scenes, and return its file."""
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        picture = scene(generator(5, number), CLASSES, (96, 128), TRAINING_LOOK, most=3).image
        Image.fromarray(picture).save(folder / "images" / f"{number:03d}.png")
    project = {
        "classes": CLASSES,
        "images": {"path": "images"},
        "training": {"source": "render", "render": {"per_class": 6, "size": 96}},
        "sam": {"points_per_side": 6},
        "head": {"steps": 30, "hidden": [64, 32, 16]},
        "outputs": {"shard_size": 4, "overlays": 4},
    }
    file = folder / "project.yaml"
    file.write_text(yaml.safe_dump(project))
    return file


def start(file: Path) -> subprocess.Popen:
    """Start a run in a process group of its own."""
    words = [sys.executable, "-m", "flows", "run", str(file)]
    return subprocess.Popen(
        words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finish(file: Path) -> float:
    """Run to the end; return the seconds."""
    began = time.monotonic()
    if start(file).wait() != 0:
        raise SystemExit(f"{file}: an undisturbed run failed")
    return time.monotonic() - began


def contents(file: Path) -> dict[str, str]:
    """Return what has to be equal: digests of labels and heads, and of every embedding."""
    project = load_project(file)
    found = {}
    for step, pattern in (
        ("annotate", "masks/*.png"),
        ("annotate", "coco.json"),
        ("fit", "*.saf*"),
    ):
        folder = step_folder(project, step)
        for path in sorted(folder.glob(pattern)):
            found[f"{step}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    store = open_store(project)
    if store.verify():
        raise SystemExit(f"{store.path}: damaged: {store.verify()}")
    for sha256 in sorted(store.index()["sha256"]):
        masks = store.read(sha256)
        parts = (masks.tokens, masks.packed_masks, masks.predicted_iou, masks.features["encoder"])
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
        found[f"store/{sha256}"] = digest.hexdigest()
    return found


def reached(file: Path) -> str:
    """Return the last step that has a record."""
    out = file.parent / "out"
    done = [
        step
        for step in ("collect", "embed", "compose", "fit", "annotate")
        if (out / step / "record.json").exists()
    ]
    return done[-1] if done else "nothing"


def main() -> None:
    """Parse the command line, kill, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    calm, killed = (draw(args.out / name, args.images) for name in ("calm", "killed"))
    seconds = finish(calm)
    print(f"an undisturbed run takes {seconds:.1f} s; seed {args.seed}", flush=True)
    points: Counter[str] = Counter()
    kills = 0
    while kills < args.times:
        process = start(killed)
        try:
            process.wait(timeout=rng.uniform(0.15, 0.8) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            points[reached(killed)] += 1
            continue
        # It came to its end: lose something, so that the next runs have work to be killed at.
        lost = rng.choice(["fit", "annotate", "store", "collect"])
        subprocess.run(["rm", "-rf", str(killed.parent / "out" / lost)], check=True)
    finish(killed)
    first, second = contents(calm), contents(killed)
    differing = sorted(name for name in first | second if first.get(name) != second.get(name))
    print(f"killed {kills} times; last finished step at each kill: {dict(points)}")
    print(f"compared {len(first)} labels, heads and embeddings; differing: {differing or 'none'}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
