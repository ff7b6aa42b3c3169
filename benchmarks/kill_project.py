"""The project whose runs `kill_runs.py` kills: drawn, looked at after each, compared at the end."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from drawn_project import CLASSES, write_project
from PIL import Image

from usam_core.project import load_project
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.stages import STEPS, step_folder
from usam_core.stages.embed import open_store

SHARD_SIZE = 2


def draw(folder: Path, images: int) -> Path:
    """Write a project of drawn scenes, and return its file."""
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        picture = scene(generator(5, number), CLASSES, (96, 128), TRAINING_LOOK, most=3).image
        Image.fromarray(picture).save(folder / "images" / f"{number:03d}.png")
    return write_project(
        folder / "project.yaml",
        4,
        pictures=3,
        size=96,
        compose={"held_out_scenes": 8, "size": 96},
        head={"steps": 10, "hidden": [32, 16, 8]},
        outputs={"shard_size": SHARD_SIZE, "overlays": 2},
    )


def use_workers(file: Path, workers: int) -> None:
    """Set how many Dask workers the project's runs have."""
    project = yaml.safe_load(file.read_text())
    project["compute"] = {"workers": workers, "threads": 1}
    file.write_text(yaml.safe_dump(project))


@dataclass(frozen=True)
class Done:
    """What of a project is done and must not be done again.

    Attributes:
        shards: when the index of each shard was written.
        rows: how often each image is stored, by digest.
        labels: when each label PNG that a finished part names was written.
        step: the last step that has a record.
    """

    shards: dict[str, int]
    rows: Counter[str]
    labels: dict[str, int]
    step: str


def look(file: Path) -> Done:
    """Return what is done while nothing works on the project."""
    out = file.parent / "out"
    shards: dict[str, int] = {}
    rows: Counter[str] = Counter()
    for index in out.glob("store/*/shards/*/index.parquet"):
        if index.parent.name.startswith("."):
            continue  # what a killed writer left: nobody reads it, and it is swept away
        shards[index.parent.name] = index.stat().st_mtime_ns
        rows.update(pq.read_table(index)["sha256"].to_pylist())
    labels = {}
    for part in (out / "annotate" / "parts").glob("*.json"):
        for entry in json.loads(part.read_text()):
            png = out / "annotate" / entry["png"]
            labels[entry["png"]] = png.stat().st_mtime_ns
    finished = [step for step in STEPS if (out / step / "record.json").exists()]
    return Done(shards, rows, labels, finished[-1] if finished else "nothing")


def repeated(before: Done, after: Done) -> list[str]:
    """Return what was done although it was done already; empty is right."""
    faults = [
        f"shard {name} was written again"
        for name, written in before.shards.items()
        if after.shards.get(name) != written
    ]
    faults += [f"image {sha256} is stored twice" for sha256, n in after.rows.items() if n > 1]
    faults += [
        f"{png} was labelled again"
        for png, written in before.labels.items()
        if after.labels.get(png) != written
    ]
    return faults


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
