"""Many images through embed and annotate on a Prefect server, with an encoder that costs nothing.

    python benchmarks/scale.py --out /tmp/scale --images 100000 [--workers 2]

The encoder behind the real seam gives back mask sets that the nano SAM made of eight drawn scenes,
so that reading, storing, labelling and orchestration are measured and SAM is not. Prints seconds,
processor seconds, images a second, memory after each quarter of each step, sizes, task runs and
the server's database; then a run with nothing new, and Prefect's own share of an embed run.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image

from usam_core.compute import open_workers
from usam_core.config import SamConfig
from usam_core.project import load_project
from usam_core.rng import generator
from usam_core.sam import load
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.stages import run_step, step_folder

CLASSES = ["disc", "ring", "rod"]
SIZE_HW = (96, 128)
SIDE = 2
A_FOLDER = 1000
NANO_SECONDS = 0.45
"""An image through the nano SAM with 100 prompts on one core (docs/decisions/0003-nano-sam.md)."""


class FakeEmbedder:
    """Gives back ready-made mask sets, by turns.

    Args:
        sets: the mask sets.
    """

    batch_size = 64

    def __init__(self, sets: list) -> None:
        self._sets = sets
        self._given = 0

    def embed(self, images: list) -> list:
        """Return a mask set for each image, with the image's own size."""
        first, self._given = self._given, self._given + len(images)
        return [
            replace(self._sets[(first + i) % len(self._sets)], size_hw=image.shape[:2])
            for i, image in enumerate(images)
        ]


def fake_encoder(sets: list) -> None:
    """Put the fake where this process asks for an embedder."""
    embedder = FakeEmbedder(sets)
    for module in list(sys.modules.values()):
        if getattr(module, "open_embedder", None) is not None:
            module.open_embedder = lambda *_: embedder


def fake_encoder_of_worker(sets: list) -> None:
    """Do the same in a worker, which has not imported the step yet."""
    import usam_core.stages  # noqa: F401

    fake_encoder(sets)


def make_sets() -> list:
    """Return what the nano SAM says of eight drawn scenes."""
    embedder = load.open_embedder(SamConfig(points_per_side=SIDE))
    drawn = (scene(generator(1, n), CLASSES, SIZE_HW, TRAINING_LOOK, most=3) for n in range(8))
    return embedder.embed([one.image for one in drawn])


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
    file = folder / f"{out}.yaml"
    settings = {
        "name": "scale",
        "classes": CLASSES,
        "images": {"path": "images"},
        "training": {"source": "render", "render": {"per_class": 3, "size": 96}},
        "sam": {"points_per_side": SIDE},
        "head": {"steps": 5, "hidden": [32, 16, 8]},
        "outputs": {"path": out, "overlays": 0},
        "compute": {"workers": workers, "threads": 1},
    }
    file.write_text(yaml.safe_dump(settings))
    return file


class Memory:
    """Watches the resident memory of this process and, added up, of its Dask workers."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.5):
            workers = 0
            for child in me.children(recursive=True):
                try:
                    if "spawn_main" in " ".join(child.cmdline()):
                        workers += child.memory_info().rss
                except psutil.Error:
                    continue
            self.samples.append((me.memory_info().rss / 2**20, workers / 2**20))

    def stop(self) -> dict[str, list[int]]:
        """Return MiB after a quarter, half, three quarters and all of the time, and the peak."""
        self._end.set()
        self._thread.join()
        count = len(self.samples)
        report = {}
        for name, column in (("process", 0), ("workers", 1)):
            values = [sample[column] for sample in self.samples] or [0.0]
            marks = [values[min(count * q // 4, count - 1)] for q in (1, 2, 3, 4)]
            report[name] = [round(value) for value in (*marks, max(values))]
        return report


@contextmanager
def server(home: Path) -> Iterator[Path]:
    """Run a Prefect server of its own while the block runs; yield its database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with open(home.with_suffix(".log"), "w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    try:
        import httpx

        for _ in range(240):
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield home / "prefect.db"
    finally:
        process.terminate()
        process.wait(30)


def size_of(folder: Path) -> tuple[int, int]:
    """Return bytes and number of files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


def database(file: Path) -> dict[str, int]:
    """Return the server's database in bytes, and its rows of the tables that grow."""
    import sqlite3

    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        tables = ("flow_run", "task_run", "task_run_state", "artifact", "events", "log")
        rows = {t: connection.execute(f"select count(*) from {t}").fetchone()[0] for t in tables}
    files = file.parent.glob(f"{file.name}*")
    return {"bytes": sum(one.stat().st_size for one in files), **rows}


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and of its living and dead children."""
    times = process.cpu_times()
    own = times.user + times.system + times.children_user + times.children_system
    return own + sum(cpu_seconds(child) for child in process.children())


def measured(name: str, images: int, work: Any) -> dict[str, Any]:
    """Run `work` and print what it took; the processor time is that of everything, server too."""
    memory = Memory()
    start, cpu = time.monotonic(), cpu_seconds(psutil.Process())
    work()
    seconds, cpu = time.monotonic() - start, cpu_seconds(psutil.Process()) - cpu
    row = {
        "what": name,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "images_per_second": round(images / seconds, 1),
        "mib_at_quarters_and_peak": memory.stop(),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Parse the command line, run everything, print one JSON object a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    folder = args.out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    make_images(folder / "images", args.images)
    sets = make_sets()
    print(json.dumps({"date": str(date.today()), "images": args.images, "workers": args.workers}))
    with server(folder / "prefect") as db:
        # After the server's address is set: Prefect reads it at import.
        from flows import steps
        from flows.annotate import annotate_dataset

        file = str(make_project(folder, "out", args.workers))
        project = load_project(file)
        fake_encoder(sets)
        with open_workers(project.config.compute, "cpu", args.workers) as workers:
            if args.workers:
                workers.client.run(fake_encoder_of_worker, sets)
            steps.collect(file)
            flow = measured("embed, Prefect", args.images, lambda: steps.embed(file))
            steps.fit(file)
            measured("annotate, Prefect", args.images, lambda: steps.annotate(file))
            measured("nothing new, Prefect", args.images, lambda: annotate_dataset(file))
            print(json.dumps({"database": database(db)}), flush=True)
            alone = load_project(make_project(folder, "alone", args.workers))
            run_step("collect", alone)
            core = measured("embed, no Prefect", args.images, lambda: run_step("embed", alone))
        store_bytes, store_files = size_of(project.store_root)
        labels_bytes, label_files = size_of(step_folder(project, "annotate"))
    # Processor time: on a machine with other work, the clock differs by more than Prefect takes.
    over = flow["cpu_seconds"] - core["cpu_seconds"]
    summary = {
        "shards": len(list(project.store_root.glob("*/shards/*/index.parquet"))),
        "store": {"bytes": store_bytes, "files": store_files},
        "labels": {"bytes": labels_bytes, "files": label_files},
        "prefect_cpu_seconds_of_embed": round(over, 1),
        "prefect_percent_at_nano_speed": round(100 * over / (args.images * NANO_SECONDS), 2),
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
