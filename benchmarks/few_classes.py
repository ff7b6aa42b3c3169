"""Few classes: does what no class name speaks of stay background? Random subsets of the 20 names.

    python benchmarks/few_classes.py --data ../shared/data --out out/photographs

Takes the store of `photographs.py --split tune`, or makes it; of every subset only a head is new.
Classes outside the subset are background in the truth. Reduced, so that it ends: each picture
gives every fourth mask, 100 steps instead of 150, labels at half the photographs' size. What is
done is kept beside (`few_classes.json`), and a second call goes on.
"""

import argparse
import json
import platform
from argparse import Namespace
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from photographs import NAMES, project
from PIL import Image

from usam_core.config.project import Project
from usam_core.config.schema import HeadConfig, InferenceConfig
from usam_core.files.atomic import write_json
from usam_core.head.bags import BagSource
from usam_core.head.familiar import FamiliarHead, learn_familiar, shares_of
from usam_core.head.train import train
from usam_core.inference.scoring import label_image
from usam_core.metrics.scores import Confusion, FalsePositives
from usam_core.steps import embed, run_step
from usam_core.steps.collect import read_manifest
from usam_core.steps.compose import held_out_pictures
from usam_core.steps.images_to_label import listed_pairs
from usam_core.steps.training_set import choose_examples, masks_on_objects
from usam_core.store.store import EmbeddingStore
from usam_core.truth.base import VOID
from usam_core.types import MaskSet

EVERY = 4
HEAD = HeadConfig(steps=100)
SCORES = ("miou", "background", "false positives", "covered")


class Thinned:
    """Every `EVERY`-th mask of bags; what `train` reads of a `BagSource`."""

    def __init__(self, bags: BagSource) -> None:
        self._bags = bags
        self.labels, self.widths, self.features = bags.labels, bags.widths, bags.features
        self.moments = bags.moments

    def __len__(self) -> int:
        """Return n."""
        return len(self._bags)

    def batches(self, rng: np.random.Generator, batch_size: int):
        """Yield what `BagSource.batches` does, of fewer masks."""
        for rows, labels, targets in self._bags.batches(rng, batch_size):
            start = int(rng.integers(EVERY))
            yield rows[:, start::EVERY].copy(), labels, targets[:, start::EVERY]


def subset(count: int, draw: int) -> list[str]:
    """Return the names of a draw, in order; all of them where all are asked for."""
    if count >= len(NAMES):
        return NAMES
    return sorted(np.random.default_rng([count, draw]).choice(NAMES, count, replace=False).tolist())


def heads(this: Project, store: EmbeddingStore, names: list[str], draw: int) -> dict:
    """Return the head with and without "none of these"."""
    manifest = read_manifest(this)
    manifest = manifest[manifest["class"].isin(names)]
    manifest = manifest[~manifest["sha256"].isin(held_out_pictures(this))]
    index = store.index(refresh=True)
    manifest = manifest[manifest["sha256"].isin(index.loc[index["status"] == "ok", "sha256"])]
    table = (pd.crosstab(manifest["sha256"], manifest["class"]) > 0)[names]
    bags = BagSource(store, list(table.index), table.to_numpy(np.float32), HEAD.features)
    plain = train(Thinned(bags), HEAD, seed=draw).student
    if not shares_of(HEAD.familiar, len(names)):
        return {"plain": plain, "familiar": plain}
    examples = choose_examples(manifest, draw)
    shas = list(examples["sha256"])
    objects = masks_on_objects(this, store, shas, HEAD.mask_choice)
    numbers = np.array([names.index(name) for name in examples["class"]])
    few = BagSource(store, shas, np.ones((len(shas), 1), np.float32), HEAD.features)
    ours = FamiliarHead(plain, bags.width, list(range(len(names))), HEAD.familiar)
    ours.load_state_dict(learn_familiar(few, numbers, objects), strict=False)
    return {"plain": plain, "familiar": ours.eval()}


def rows(count: int) -> dict[str, tuple[str, float]]:
    """Return which head and threshold each row of the table has."""
    return {
        "threshold 0.3": ("plain", 0.3),
        "threshold 0.9": ("plain", 0.9),
        "threshold 1/C + 0.26 (1 - 1/C)": ("plain", 1 / count + 0.26 * (1 - 1 / count)),
        "none of these, threshold 0.3": ("familiar", 0.3),
    }


def score(head, threshold: float, names: list[str], images: list[tuple[MaskSet, np.ndarray]]):
    """Return the scores of one row, 0 to 1."""
    config = InferenceConfig(threshold=threshold)
    confusion, absent, covered = Confusion(names), FalsePositives(names), []
    table = np.zeros(256, np.int16)
    table[255] = VOID
    for number, name in enumerate(names, start=1):
        table[NAMES.index(name) + 1] = number
    for mask_set, truth in images:
        labels = label_image(head, mask_set, HEAD.features, config, names).labels
        confusion.add(table[truth], labels)
        absent.add(table[truth], labels)
        covered.append(float((labels > 0).mean()))
    found = confusion.scores()
    values = (found.miou, found.per_class["background"], absent.scores().rate, np.mean(covered))
    return dict(zip(SCORES, map(float, values), strict=True))


def photographs(this: Project, store: EmbeddingStore, data: Path):
    """Return what is stored of each photograph, and its truth, both at half its size."""
    found = []
    for name, sha256 in listed_pairs(this):
        with Image.open(data / "voc" / "SegmentationClass" / f"{Path(name).stem}.png") as truth:
            small = np.asarray(truth.resize([side // 2 for side in truth.size], 0))
        found.append((replace(store.read(sha256), tokens=None, size_hw=small.shape), small))
    return found


def main() -> None:
    """Parse the command line, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2, 3, 5, 10, 20])
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    asked = Namespace(data=args.data.resolve(), out=args.out, sam="nano", checkpoint=None)
    this = project(asked, "tune", {}, 0)
    for step in ("collect", "embed", "compose"):
        run_step(step, this)
    store = embed.open_store(this)
    images = photographs(this, store, asked.data)
    file = args.out / "few_classes.json"
    done = json.loads(file.read_text()) if file.exists() else {}
    for count in args.classes:
        for draw in range(args.draws):
            if f"{count} {draw}" not in done:
                names = subset(count, draw)
                made = heads(this, store, names, draw)
                done[f"{count} {draw}"] = {
                    row: score(made[kind], least, names, images)
                    for row, (kind, least) in rows(count).items()
                }
                write_json(file, done)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch "
        f"{torch.__version__}, draws and seeds 0 to {args.draws - 1}, {len(images)} photographs; "
        "percent, mean (each draw's false positives)\n"
    )
    print(f"| classes | row | {' | '.join(SCORES)} |\n| --- | --- |{' --- |' * len(SCORES)}")
    for count in args.classes:
        for row in rows(count):
            each = [done[f"{count} {draw}"][row] for draw in range(args.draws)]
            means = [f"{100 * np.mean([one[name] for one in each]):.1f}" for name in SCORES]
            means[2] += f" ({', '.join(f'{100 * one[SCORES[2]]:.1f}' for one in each)})"
            print(f"| {count} | {row} | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
