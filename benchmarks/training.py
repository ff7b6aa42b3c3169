"""Training the head: bags a second, processor seconds an epoch and memory, by bags and classes.

    python benchmarks/training.py --out /tmp/training [--images 100 1000 4000] [--classes 2 20 100]

A store of 100 prompts an image is filled with mask sets that the nano SAM made of eight drawn
scenes; every image is a bag with one label, by turns. `usam_core.head.train` trains teacher and
student with the default head, each count in a process of its own, so that its highest memory is
its own; the best epoch of each role counts. The peer does the teacher's epoch as a plain loop
over single bags: the same head, loss and optimiser, gradients added up over as many bags as a
batch of ours has, the bags already in memory. `difference` is what both say of the first
batch's loss, without dropout.
"""

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from labelling import BLOCK, SIDE, fill
from memory import forget_peak, peak_mib
from torch import Tensor

from usam_core.config.schema import HeadConfig
from usam_core.head.bags import BagSource
from usam_core.head.losses import mil_loss
from usam_core.head.model import Head, make_head
from usam_core.head.train import passes, train
from usam_core.rng import generator
from usam_core.store.store import EmbeddingStore

SEED = 0
PEER_BAGS = 256


class Clock:
    """A progress that keeps the processor time of every advance."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator["Clock"]:
        """Yield itself."""
        del what, total
        self.advance()
        yield self

    def advance(self, count: int = 1) -> None:
        """Look at the clock."""
        del count
        self.times.append(time.process_time())


def plain_epoch(head: Head, bags: Tensor, labels: Tensor, config: HeadConfig) -> float:
    """Train bag by bag, a step every batch; return processor seconds a bag."""
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate)
    start = time.process_time()
    for first in range(0, len(bags), config.batch_size):
        optimizer.zero_grad()
        rows = range(first, min(first + config.batch_size, len(bags)))
        for row in rows:
            loss = mil_loss(head(bags[row : row + 1]), labels[row : row + 1], config.top_k_share)
            (loss / len(rows)).backward()
        optimizer.step()
    return (time.process_time() - start) / len(bags)


@torch.no_grad()
def difference(head: Head, bags: Tensor, labels: Tensor, share: float) -> float:
    """Return how far the losses of a batch and of its single bags lie apart."""
    head.eval()
    rows = zip(bags, labels, strict=True)
    single = [mil_loss(head(bag[None]), label[None], share) for bag, label in rows]
    return abs(float(mil_loss(head(bags), labels, share) - torch.stack(single).mean()))


def measure(folder: Path, images: int, classes: int, epochs: int) -> dict[str, float | int]:
    """Train on some bags and return one row of the table; the body of a process of its own."""
    torch.set_num_threads(1)
    store = EmbeddingStore.open(folder)
    store.index(refresh=True)
    labels = np.eye(classes, dtype=np.float32)[np.arange(images) % classes]
    batches = -(-images // HeadConfig().batch_size)
    config = HeadConfig(steps=epochs * batches)
    forget_peak()
    before, start = peak_mib(), time.process_time()
    source = BagSource(store, [f"{n:064x}" for n in range(images)], labels, [BLOCK])
    row: dict[str, float | int] = {"images": images, "classes": classes}
    row["read, processor s"] = time.process_time() - start
    clock = Clock()
    start = time.process_time()
    train(source, config, SEED, clock)
    row["all, processor s"] = time.process_time() - start
    row["epochs"] = len(clock.times) - 1
    took = np.diff(clock.times).reshape(2, passes(images, config))
    for role, seconds in zip(("teacher", "student"), took.min(axis=1), strict=True):
        row[f"{role}, s an epoch"] = float(seconds)
        row[f"{role}, bags a second"] = images / float(seconds)
    row["peak MiB"] = peak_mib()
    row["beyond the start MiB"] = peak_mib() - before
    some = next(source.batches(generator(SEED, "peer"), min(PEER_BAGS, images)))
    bags, wanted = map(torch.from_numpy, some[:2])
    torch.manual_seed(SEED)
    head = make_head(source.widths, classes, config.hidden, config.dropout)
    for name, moment in zip(("mean", "deviation"), source.moments(), strict=True):
        getattr(head, name).copy_(torch.from_numpy(moment))
    few = slice(config.batch_size)
    row["difference"] = difference(head, bags[few], wanted[few], config.top_k_share)
    head.train()
    best = min(plain_epoch(head, bags, wanted, config) for _ in range(epochs))
    row["plain loop, bags a second"] = 1 / best
    row["ours / plain loop"] = row["teacher, bags a second"] * best
    return row


def main() -> None:
    """Parse the command line, print one column a case, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 4000])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 20, 100])
    parser.add_argument("--epochs", type=int, default=2, help="of teacher and of student")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    store = fill(args.out / "store", max(args.images)).path
    fresh = multiprocessing.get_context("spawn")
    rows = []
    for images in args.images:
        for classes in args.classes:
            with ProcessPoolExecutor(1, mp_context=fresh) as process:
                case = process.submit(measure, store, images, classes, args.epochs)
                rows.append(case.result())
            print(json.dumps(rows[-1]), flush=True)
    print(
        f"\n{date.today()}, {platform.processor() or platform.machine()}, torch "
        f"{torch.__version__}, one thread, seed {SEED}, bags of {SIDE**2} masks\n"
    )
    print(pd.DataFrame(rows).set_index(["images", "classes"]).T.round(4).to_string())
    (args.out / "training.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
