"""Pictures a second and memory of Stable Diffusion v1's architecture, with random weights.

    python benchmarks/stable_diffusion.py --out out/sd                          # a GPU, 50 steps
    python benchmarks/stable_diffusion.py --out out/sd --steps 1 --batches 1    # a CPU

Goes through the code that the synthetic source uses (`usam_core.sources.diffusion`); the peer is
the same pipeline called once a picture, which is what a loop over names would do.
"""

import argparse
import platform
import time
from datetime import date
from pathlib import Path

import psutil
import torch
from untrained_diffusion import save_untrained

from usam_core.config.training import SyntheticConfig
from usam_core.sources.diffusion import Order, Painter


def measure(config: SyntheticConfig, folder: Path, pictures: int) -> tuple[float, float]:
    """Return pictures a second and the peak memory in GB (of the GPU, or of the process)."""
    painter = Painter(config, folder)
    orders = [Order("a photo of a dog", number) for number in range(pictures)]
    gpu = torch.cuda.is_available()
    if gpu:
        painter.draw(orders[: config.batch_size], steps=2)  # kernels are chosen at the first call
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.monotonic()
    painter.draw(orders)
    rate = pictures / (time.monotonic() - start)
    peak = torch.cuda.max_memory_allocated() if gpu else psutil.Process().memory_info().rss
    return rate, peak / 1e9


def main() -> None:
    """Make the pipeline, time every batch size, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the 2.1 GB of weights go")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--toy", action="store_true", help="the toy instead: to try the script")
    args = parser.parse_args()
    folder = save_untrained(args.out, toy=args.toy, dtype=torch.float16)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"{date.today()}, {where}, torch {torch.__version__}, {args.steps} steps, {args.size} px")
    print("| batch | pictures a second | against batch 1 | memory, GB |\n|---|---|---|---|")
    first = None
    for batch in args.batches:
        config = SyntheticConfig(
            model=str(folder), size=args.size, steps=args.steps, batch_size=batch
        )
        rate, memory = measure(config, folder, pictures=2 * batch)
        first = first or rate
        print(f"| {batch} | {rate:.3f} | {rate / first:.2f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
