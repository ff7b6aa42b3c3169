"""Labelling from the store: images a second on one core, stage by stage, and per number of classes.

    python benchmarks/labelling.py --out /tmp/labelling [--images 256] [--classes 20 100]

A store of 100 prompts an image is filled with mask sets that the nano SAM made of eight drawn
scenes; the images count as 512 x 512. The nano SAM's masks have 80 x 80 pixels; `--frame 256`
scales them to the official models' size. The head is untrained and of the default size; its
threshold lets a share of all masks pass (`--passing`). *Head to label map* reads each image, a
JPEG, for its edges; *on the grid* does not. *Before painting* is reading, head,
thresholds and suppression; *all* adds scaling, painting, palette PNG and run lengths, as the step
annotate does.
The peer is the plain way: every mask that passes is scaled to the image's size first, and
suppressed there.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import scale
import torch
from PIL import Image

from usam_core.config.schema import InferenceConfig, SamConfig
from usam_core.head.model import Head
from usam_core.images.read import read_image
from usam_core.inference.scoring import Candidates, candidates, is_good, label_image, mask_scores
from usam_core.labels.image import list_instances
from usam_core.masks.bits import pack, upscale
from usam_core.masks.label_png import save_label_png
from usam_core.masks.paint import suppress
from usam_core.sam.load import encoder_spec
from usam_core.store.shard import ShardRecord
from usam_core.store.store import EmbeddingStore
from usam_core.types import ImageFile

SIDE = 10
SIZE_HW = (512, 512)
SHARD = 64
BLOCK = "encoder"
REPEATS = 7


def fill(folder: Path, images: int, frame: int | None) -> EmbeddingStore:
    """Return a store of `images` with the mask sets of eight drawn scenes, by turns."""
    store = EmbeddingStore.create_or_open(folder, encoder_spec(SamConfig(), None))
    sets = [replace(one, size_hw=SIZE_HW) for one in scale.make_sets(SIDE)]
    if frame is not None:
        sets = [replace(one, packed_masks=enlarged(one.packed_masks, frame)) for one in sets]
    for start in range(0, images, SHARD):
        numbers = range(start, min(start + SHARD, images))
        files = [ImageFile(str(number), f"{number:064x}") for number in numbers]
        some = [sets[number % len(sets)] for number in numbers]
        store.write_shard([ShardRecord(*pair) for pair in zip(files, some, strict=True)])
    return store


def enlarged(packed: np.ndarray, frame: int) -> np.ndarray:
    """Return masks, uint8 (d, m, u, b), scaled to a frame of another side."""
    d, m, *rest = packed.shape
    scaled = upscale(packed.reshape(d * m, *rest), (frame, frame))
    return pack(scaled).reshape(d, m, frame, -1)


def read(store: EmbeddingStore) -> list:
    """Read everything that labelling needs of every image; every shard is opened anew."""
    store = EmbeddingStore.open(store.path)
    index = store.index(refresh=True)
    return [
        masks
        for shard, group in index.groupby("shard")
        for _, masks in store.read_shard(shard, group["sha256"], [BLOCK], tokens=False, single=True)
    ]


def passing_threshold(head: torch.nn.Module, sets: Sequence, share: float) -> InferenceConfig:
    """Return settings with the threshold that lets a share of all candidates pass."""
    sure = [candidates(head, masks, [BLOCK], InferenceConfig()).confidence for masks in sets]
    return InferenceConfig(threshold=float(np.quantile(np.concatenate(sure), 1 - share)))


def passed(head: torch.nn.Module, masks: object, config: InferenceConfig) -> Candidates:
    """Return the candidates of an image that pass all thresholds."""
    found = candidates(head, masks, [BLOCK], config)
    return found[is_good(found, masks.size_hw, config) & (found.confidence >= config.threshold)]


def before_painting(head: torch.nn.Module, sets: Sequence, config: InferenceConfig) -> None:
    """Score, threshold and suppress."""
    for masks in sets:
        kept = passed(head, masks, config)
        scores = mask_scores(kept.confidence, kept.predicted_iou, config)
        suppress(kept.packed, scores, config.nms_iou)


def at_full_size(head: torch.nn.Module, sets: Sequence, config: InferenceConfig) -> None:
    """The plain way: scale every mask that passes, and suppress at the image's size."""
    for masks in sets:
        kept = passed(head, masks, config)
        scores = mask_scores(kept.confidence, kept.predicted_iou, config)
        full = upscale(kept.packed, masks.size_hw).reshape(len(kept), -1).astype(np.float32)
        shared, area = full @ full.T, full.sum(axis=1)
        iou = shared / np.maximum(area[:, None] + area[None] - shared, 1)
        alive = np.ones(len(kept), bool)
        for number in np.argsort(-scores):
            if alive[number]:
                alive &= ~((iou[number] > config.nms_iou) & (scores < scores[number]))


def seconds(work: Callable[[], object]) -> float:
    """Return the least processor time of some repeats: others may work on the machine too."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure(store: EmbeddingStore, folder: Path, classes: int, passing: float) -> dict:
    """Return images a second of every stage for one number of classes."""
    sets = read(store)
    names = [f"class {number}" for number in range(classes)]
    torch.manual_seed(0)
    head = Head(sets[0].features[BLOCK].shape[-1], classes).eval()
    config = passing_threshold(head, sets, passing)
    files = [folder / f"picture-{number}.jpg" for number in range(8)]
    for file, picture in zip(files, scale.draw(), strict=True):
        Image.fromarray(picture).resize(SIZE_HW[::-1]).save(file, quality=90)

    def label_all(wanted: InferenceConfig) -> list:
        return [
            label_image(
                head,
                masks,
                [BLOCK],
                wanted,
                names,
                rgb=lambda n=n: read_image(files[n % len(files)]).rgb,
            )
            for n, masks in enumerate(sets)
        ]

    labelled = label_all(config)
    on_grid = config.model_copy(update={"edges": "grid"})

    def pngs() -> None:
        for number, done in enumerate(labelled):
            save_label_png(folder / f"{number}.png", done.labels)

    times = {
        "read": seconds(lambda: read(store)),
        "head to suppression": seconds(lambda: before_painting(head, sets, config)),
        "the same at full size": seconds(lambda: at_full_size(head, sets, config)),
        "head to label map": seconds(lambda: label_all(config)),
        "the same on the grid": seconds(lambda: label_all(on_grid)),
        "palette PNG": seconds(pngs),
        "run lengths": seconds(lambda: [list_instances(done.instances) for done in labelled]),
    }
    times["before painting"] = times["read"] + times["head to suppression"]
    times["all"] = sum(
        times[name] for name in ("read", "head to label map", "palette PNG", "run lengths")
    )
    row = {name: round(len(sets) / taken, 1) for name, taken in times.items()}
    instances = sum(len(done.instances) for done in labelled) / len(sets)
    ratio = times["the same at full size"] / times["head to suppression"]
    return {"classes": classes, "instances": round(instances, 1), **row, "ratio": round(ratio, 1)}


def main() -> None:
    """Parse the command line, print one column a number of classes, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 20, 100, 500])
    parser.add_argument("--frame", type=int, help="side of the stored masks; default: nano's 80")
    parser.add_argument("--passing", type=float, default=0.4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    store = fill(args.out / f"store-{args.frame or 'nano'}", args.images, args.frame)
    rows = [measure(store, args.out, classes, args.passing) for classes in args.classes]
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"one thread, {args.images} images of {SIDE**2} prompts at {SIZE_HW}, masks of "
        f"{args.frame or 80} x {args.frame or 80}; images a processor second\n"
    )
    print(pd.DataFrame(rows).set_index("classes").T.to_string())
    (args.out / "labelling.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
