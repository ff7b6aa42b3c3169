"""How quickly images become embeddings: ours beside three others, in one process.

    python benchmarks/embed.py --model nano --images 8
    python benchmarks/embed.py --model vit_h --device cuda --dtype bfloat16 --images 256 --compile

Drawn scenes are saved as JPEG files. `ours` goes from those files to a Zarr store, the way
`usam embed` does. The others begin with the same files, use the official weights-and-code or, for
`transformers`, random weights of the same architecture, ask the same 100 points, and keep nothing.
All run in turns, `--rounds` times; the best round of each counts, because other processes only
ever make one slower. Without `--checkpoint` the big models have random weights: then SAM's own
generator throws nearly all masks away before its costly steps, which favours it.

The floor is what the official model's matrix products alone would take at the rate that a large
product reaches here. Prints tables, and writes everything as JSON to `--out`.
"""

import argparse
import json
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from embed_systems import SIDE, all_systems, official_copy
from PIL import Image
from segment_anything import sam_model_registry
from torch.utils.flop_counter import FlopCounterMode

from usam_core.digest import file_digest
from usam_core.images import read_image
from usam_core.rng import generator
from usam_core.sam.embedder import SamEmbedder
from usam_core.sam.grid import grid_points
from usam_core.sam.landing import land
from usam_core.sam.nano import build_nano_sam
from usam_core.sam.tokens import decode
from usam_core.sources.scenes import FIELD_LOOK, scene
from usam_core.sources.shapes import SHAPES
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile

GFLOP = {"vit_b": 972 + 362, "vit_l": 2986 + 362, "vit_h": 5961 + 362}
"""An image through the official encoder and decoder, 2 x MAC (docs/speed.md)."""


def main() -> None:
    """Measure what the command line asks for, print it, write it."""
    options = _options()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    sam = build_nano_sam() if options.model == "nano" else _official(options)
    with tempfile.TemporaryDirectory() as folder:
        files = _draw(Path(folder), options.images, tuple(options.size))
        official = official_copy(sam, options)
        embedder = SamEmbedder(
            sam, options.model, "0" * 64, SIDE, None, options.device, options.dtype, options.compile
        )
        systems = all_systems(options, embedder, official, files, Path(folder))
        found = _measure(systems, options)
        rate = _matrix_rate(options.device, getattr(torch, options.dtype))
        gflop = GFLOP.get(options.model) or _count(official)
        stages = _stages(embedder, files, Path(folder))
    floor = gflop / rate
    result = {
        "machine": _machine(options.device),
        "date": date.today().isoformat(),
        "settings": {name: str(value) for name, value in vars(options).items()},
        "gflop_an_image": gflop,
        "gflop_a_second": rate,
        "floor_seconds": floor,
        "systems": found,
        "stages_seconds": stages,
    }
    _print(result, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(f"\nwritten to {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["nano", *GFLOP], default="nano")
    parser.add_argument("--checkpoint", type=Path, help="weights; else random ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("ROWS", "COLS"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; default: as many as cores")
    parser.add_argument(
        "--systems", nargs="+", default=["ours", "amg", "predictor", "transformers"]
    )
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/embed.json"))
    return parser.parse_args()


def _official(options: argparse.Namespace) -> torch.nn.Module:
    return sam_model_registry[options.model](checkpoint=options.checkpoint).eval()


def _draw(folder: Path, count: int, size_hw: tuple[int, int]) -> list[ImageFile]:
    files = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        drawn = scene(generator(5, "embed", number), list(SHAPES), size_hw, FIELD_LOOK)
        Image.fromarray(drawn.image).save(path, quality=90)
        files.append(ImageFile(str(path), file_digest(path)))
    return files


def _measure(
    systems: dict[str, Callable[[], None]], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Run the systems in turns; the best round of each, an image."""
    found: dict[str, dict[str, float]] = {}
    if "ours" in systems:  # loads, compiles, and is not counted
        started = time.perf_counter()
        systems["ours"]()
        print(f"first pass of ours: {time.perf_counter() - started:.1f} s")
    for _ in range(options.rounds):
        for name, run in systems.items():
            with _peak(options.device) as peak:
                wall, cpu = time.perf_counter(), time.process_time()
                try:
                    run()
                except Exception as error:  # another library's failure is a result, too
                    found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
                    continue
                _synchronize(options.device)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best = found.setdefault(name, {"seconds": np.inf, "cpu_seconds": np.inf, "peak_mb": 0})
            best["seconds"] = min(best["seconds"], wall / options.images)
            best["cpu_seconds"] = min(best["cpu_seconds"], cpu / options.images)
            best["peak_mb"] = max(best["peak_mb"], peak[0] / 1e6)
    return found


@contextmanager
def _peak(device: str):
    """Yield a list that holds, afterwards, the bytes in use at most beyond those in use before."""
    peak = [0]
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    process, stop = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _stages(embedder: SamEmbedder, files: list[ImageFile], folder: Path) -> dict[str, float]:
    """Time every stage alone, nothing overlapping; seconds an image."""
    device = embedder.device.type
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable, *arguments):
        _synchronize(device)
        started = time.perf_counter()
        made = function(*arguments)
        _synchronize(device)
        seconds[name] = seconds.get(name, 0) + (time.perf_counter() - started) / len(files)
        return made

    read = [timed("decode", read_image, file.path) for file in files]
    prepared = [timed("resize", embedder.prepare, picture.rgb) for picture in read]
    encode, embedder._encode = embedder._encode, partial(timed, "encode", embedder._encode)
    sets = []
    size = embedder.batch_size
    with torch.inference_mode():
        for start in range(0, len(files), size):
            some = prepared[start : start + size]
            columns = timed("decode masks", embedder._batch, some)
            rows = timed("copy and pack", land(columns))
            sets += embedder._mask_sets(rows, [image.size_hw for image in some])
    embedder._encode = encode
    seconds["decode masks"] -= seconds["encode"]
    store = EmbeddingStore.create_or_open(folder / "stages", embedder.spec)
    records = [ShardRecord(file, made) for file, made in zip(files, sets, strict=True)]
    timed("compress and write", store.write_shard, records)
    return seconds


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def _matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return GFLOP a second of a large matrix product."""
    n = 8192 if device == "cuda" else 1024
    a = torch.randn(n, n, device=device).to(dtype)
    best = np.inf
    for _ in range(10):
        _synchronize(device)
        started = time.perf_counter()
        a @ a
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best / 1e9


@torch.inference_mode()
def _count(sam: torch.nn.Module) -> float:
    side = sam.image_encoder.img_size
    points = torch.from_numpy(grid_points(SIDE) * side).to(sam.device)
    with FlopCounterMode(display=False) as counter:
        embedding = sam.image_encoder(torch.zeros(1, 3, side, side, device=sam.device))
        decode(sam, embedding, points)
    return counter.get_total_flops() / 1e9


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    threads = torch.get_num_threads()
    return f"{name or platform.machine()}, {threads} torch threads, torch {torch.__version__}"


def _print(result: dict, options: argparse.Namespace) -> None:
    print(f"\n{options.model}, {options.device}, {options.dtype}: {result['machine']}")
    print(
        f"floor: {result['gflop_an_image']:.0f} GFLOP an image at "
        f"{result['gflop_a_second']:.0f} GFLOP/s = {1000 * result['floor_seconds']:.1f} ms\n"
    )
    print("| system | images/s | CPU s/image | peak MB | of the floor | ours is quicker by |")
    print("|---|---|---|---|---|---|")
    ours = result["systems"].get("ours", {})
    for name, one in result["systems"].items():
        if "error" in one:
            print(f"| {name} | {one['error']} | | | | |")
            continue
        ratio = one["seconds"] / ours["seconds"] if "seconds" in ours else float("nan")
        print(
            f"| {name} | {1 / one['seconds']:.3g} | {one['cpu_seconds']:.3g} | "
            f"{one['peak_mb']:.0f} | {100 * result['floor_seconds'] / one['seconds']:.0f} % | "
            f"{ratio:.2f} |"
        )
    for missing in set(options.systems) - set(result["systems"]):
        print(f"| {missing} | has no such architecture | | | | |")
    print("\n| stage, alone | ms an image |\n|---|---|")
    for name, seconds in result["stages_seconds"].items():
        print(f"| {name} | {1000 * seconds:.1f} |")
    device = sum(result["stages_seconds"][name] for name in ("encode", "decode masks"))
    if "seconds" in ours:
        print(
            f"\nshare of ours in which the device is busy: {100 * device / ours['seconds']:.0f} %"
        )


if __name__ == "__main__":
    main()
