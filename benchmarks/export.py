"""Every output format in one pass over many instances: seconds, and memory.

    python benchmarks/export.py --instances 100000

Parts as `annotate` writes them are made up (blobs with holes, 10 an image of 512 x 512 pixels) and
exported by `export_part`, as the step does it, with index files. For the ratio, a plain
`json.dump` of the same annotations is timed in the same process. Memory is the process's peak, of
which the libraries' share is printed too.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from usam_core.labels import Instance, LabelledImage, LabelMap
from usam_core.labels.parts import Parts, write_part
from usam_core.masks.label_png import save_label_png
from usam_core.masks.rle import mask_record
from usam_core.outputs.base import Target
from usam_core.outputs.formats import WRITERS, open_writer
from usam_core.outputs.ledger import Ledger
from usam_core.steps.exporting import Job, export_part, read_rows, rows_file

SIDE = 512
AN_IMAGE = 10
A_SHARD = 64
CLASSES = ["nucleus", "cell", "debris"]


def masks(seed: int) -> list[np.ndarray]:
    """Return blobs with rough borders and holes, bool (512, 512) each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    found = []
    for _ in range(AN_IMAGE):
        cy, cx, radius = *rng.uniform(60, SIDE - 60, 2), rng.uniform(15, 50)
        noise = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 4) * 60
        apart = np.hypot(y - cy, x - cx) + noise
        found.append((apart < radius) & (apart > radius * rng.uniform(0, 0.3)))
    return found


def write_parts(folder: Path, images: int) -> list[Path]:
    """Write parts, from a few images again and again under other names."""
    drawn = []
    for seed in range(16):
        records = [
            {
                **mask_record(mask, number % len(CLASSES) + 1),
                "score": 0.5,
                "probability": 0.5,
                "runner_up": 1,
                "entropy": 0.5,
                "predicted_iou": 0.9,
                "prompt": number,
                "point": [1.0, 1.0],
            }
            for number, mask in enumerate(masks(seed))
        ]
        drawn.append(tuple(map(Instance.from_coco, records)))
    save_label_png(folder / "masks" / "any.png", np.zeros((SIDE, SIDE), np.uint8))
    parts = []
    for start in range(0, images, A_SHARD):
        images_here = []
        for n in range(start, min(images, start + A_SHARD)):
            path = f"plate{n // 1000}/w{n:06}.png"
            image = LabelledImage(
                path=path,
                sha256=f"{n:064x}",
                size_hw=(SIDE, SIDE),
                label_map=LabelMap.of_names(CLASSES),
                instances=drawn[n % len(drawn)],
                png=f"masks/{path}",
                folder=folder,
            )
            image.png_file.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / "masks" / "any.png", image.png_file)
            images_here.append(image)
        parts.append(f"{start:08}.parquet")
        write_part(folder / parts[-1], images_here)
    return parts


def peak_mb() -> float:
    """Return the most memory that this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Make the parts, export them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--formats", default=",".join(sorted(WRITERS)))
    parser.add_argument("--folder", type=Path, default=Path("export-benchmark"))
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    parts = write_parts(given.folder / "annotate", given.instances // AN_IMAGE)
    root, label_map = str(given.folder / "images"), LabelMap.of_names(CLASSES)
    labels = Parts(given.folder / "annotate", dict.fromkeys(parts), label_map, root)
    before = peak_mb()

    began = time.process_time()
    with open(given.folder / "plain.json", "w", encoding="utf-8") as file:
        for image in labels.images():
            json.dump(image.to_coco(), file)
    plain = time.process_time() - began

    out = given.folder / "export"
    writers = [
        open_writer(
            name,
            Target(
                folder=out / name,
                label_map=labels.label_map,
                run="0" * 64,
            ),
        )
        for name in given.formats.split(",")
    ]
    began, worked = time.perf_counter(), time.process_time()
    with Ledger(out / "ledger.sqlite") as ledger:
        for part in parts:
            some = replace(labels, files={part: None}).images(["instances"])
            export_part(part, some, [Job(writer, "key") for writer in writers], ledger)
        for writer in writers:
            there = [rows_file(out, writer.name, part) for part in parts]
            writer.finish(read_rows(there if writer.indexed else []))
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"{platform.machine()}, {os.cpu_count()} cores, one process; {given.formats}")
    images = given.instances // AN_IMAGE
    print(f"{given.instances} instances in {images} images, {len(parts)} shards")
    print(f"plain json.dump: {plain:.1f} s of the processor")
    print(f"export: {worked:.1f} s of the processor, {worked / plain:.0f} times that")
    print(f"{seconds:.1f} s by the clock, {size / 1e6:.0f} MB written")
    print(f"peak memory {peak_mb():.0f} MB, of which {before:.0f} MB before the export")
    shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
