"""The project whose runs `kill_runs.py` kills: drawn, looked at after each kill, and compared."""

import hashlib
import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from drawn_project import CLASSES, write_project
from filelock import FileLock, Timeout
from PIL import Image

from usam_core.config.project import load_project
from usam_core.files.atomic import TEMPORARY_PREFIX
from usam_core.masks.label_png import save_label_png
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.steps import STEPS
from usam_core.steps.embed import open_store

SHARD_SIZE = 2
FORMATS = ["coco", "label_tiff", "ome_zarr", "parquet", "yolo"]

_OF_PER_TIME = {
    "lineage.json",
    "record.json",
    "images.parquet",
    "report.html",
    "kept.json",
}
"""Files that hold when they were made, by whom, or the times of other files."""
_OTHER = {"gate", "lineage", "locks", "review"}
"""Folders of what only `usam run` or a person makes, of documents with times, of locks."""
_LEFT = (f"{TEMPORARY_PREFIX}*", "*.partial", "*-journal", "*-wal", "*-shm")


def draw(folder: Path, images: int) -> Path:
    """Write a project of drawn scenes with their truth, and return its file."""
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        drawn = scene(generator(5, number), CLASSES, (96, 128), TRAINING_LOOK, most=3)
        Image.fromarray(drawn.image).save(folder / "images" / f"{number:03d}.png")
        save_label_png(folder / "truth" / f"{number:03d}.png", drawn.label_map(CLASSES))
    return write_project(
        folder / "project.yaml",
        4,
        pictures=3,
        size=96,
        compose={"scenes": 2, "size": 96},
        head={"steps": 5, "hidden": [32, 16, 8]},
        inference={"threshold": 0.3},
        outputs={"shard_size": SHARD_SIZE, "overlays": 2, "formats": FORMATS},
        compute={"workers": 0, "threads": 1},
        evaluation={"format": "voc", "path": "truth"},
    )


def use_workers(file: Path, workers: int) -> None:
    """Set how many Dask workers the project's runs have; 0 as drawn."""
    project = yaml.safe_load(file.read_text())
    project["compute"]["workers"] = workers
    file.write_text(yaml.safe_dump(project))


def lose(file: Path, step: str) -> None:
    """Remove what a step has made, or the blocks that `kill_acts` adds."""
    out = file.parent / "out"
    lost = [out / step]
    if step == "embed":  # the scenes of `compose` lie in the store too
        lost += [out / "store", out / "compose"]
    if step == "block":
        lost += out.glob("store/*/shards/*/features/mean-*")
    for folder in lost:
        shutil.rmtree(folder, ignore_errors=True)


def done(file: Path) -> dict[str, tuple[int, int]]:
    """Return every piece of work that is finished, with inode and time of the file that says so.

    Pieces: training pictures, classes, shards, added blocks, the labels and the exports of a
    shard, and steps. `compose` and `fit` have none but the step.
    """
    out = file.parent / "out"
    files = [*out.glob("*/record.json"), *out.glob("collect/found/*.json")]
    files += out.glob("collect/pictures/*/[!.]*.png")
    files += out.glob("store/*/shards/[!.]*/index.parquet")
    files += out.glob("store/*/shards/[!.]*/features/[!.]*/seal.json")
    for part in (out / "annotate" / "parts").glob("[!.]*.parquet"):
        pngs = pq.read_table(part, columns=["png"])["png"].to_pylist()
        files += [part, *(out / "annotate" / png for png in pngs)]
    ledger = out / "export" / "ledger.sqlite"
    for path, part in _rows(
        ledger, "SELECT path, part.part FROM part JOIN file USING (format, part)"
    ):
        if part != "index":
            files.append(ledger.parent / path)
    found = {file.relative_to(out).as_posix(): file.stat() for file in files}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def stored(file: Path) -> int:
    """Return how many shards the store has."""
    return len(list((file.parent / "out").glob("store/*/shards/[!.]*/index.parquet")))


def left(file: Path) -> list[str]:
    """Return the temporary files that lie there, and the locks that are held."""
    folder = file.parent
    found = [path for pattern in _LEFT for path in folder.rglob(pattern)]
    locks = [*folder.rglob("*.lock"), *folder.glob("out/**/locks/*")]
    return [str(path.relative_to(folder)) for path in [*found, *filter(_is_held, locks)]]


def contents(file: Path) -> dict[str, str]:
    """Return a digest of every file that has to be equal, and of the ledger's rows."""
    out = file.parent / "out"
    found = {}
    for path in sorted(out.rglob("*")):
        hidden = path.name.startswith(".") or path.suffix == ".sqlite"
        hidden = hidden or not _OTHER.isdisjoint(path.relative_to(out).parts)
        if path.is_file() and not hidden and path.name not in _OF_PER_TIME:
            found[path.relative_to(out).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = "SELECT format, path, part, sha256, planned FROM file ORDER BY format, path"
    ledger = repr(list(_rows(out / "export" / "ledger.sqlite", rows)))
    found["export/ledger"] = hashlib.sha256(ledger.encode()).hexdigest()
    found["steps"] = repr([step for step in STEPS if (out / step / "record.json").exists()])
    store = open_store(load_project(file))
    if damaged := store.verify():
        found["store"] = repr(damaged)
    return found


def _rows(database: Path, question: str) -> list[tuple]:
    """Return an answer of a database, or nothing; what a kill left beside it is left alone."""
    if not database.exists():
        return []
    copy = database.parents[2] / "copy.sqlite"
    for ending in ("", "-journal"):
        if database.with_name(database.name + ending).exists():
            shutil.copy(f"{database}{ending}", f"{copy}{ending}")
    try:
        with sqlite3.connect(copy) as opened:
            return opened.execute(question).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        opened.close()
        for ending in ("", "-journal"):
            Path(f"{copy}{ending}").unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
