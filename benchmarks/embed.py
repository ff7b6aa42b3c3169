"""How quickly images become embeddings: ours beside three others.

    python benchmarks/embed.py --model nano --images 8
    python benchmarks/embed.py --model vit_h --device cuda --dtype bfloat16 --images 256 --compile

Drawn scenes are saved as JPEG files. `ours` goes from those files to a Zarr store, the way
`usam embed` does. The others begin with the same files, use the official weights-and-code or, for
`transformers`, random weights of the same architecture, ask the same 100 points, and keep nothing.
All run in turns in one process, `--rounds` times; the best round of each counts, because other
processes only ever make one slower. Peak memory is that of a first pass, beyond the loaded model,
each system in a process of its own. Without `--checkpoint` the big models have random weights:
then SAM's own generator throws nearly all masks away before its costly steps, which favours it.

The floor is what the official model's matrix products alone would take at the rate that a large
product reaches here. Prints tables, and writes everything as JSON to `--out`.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from embed_memory import peaks
from embed_stages import ON_DEVICE, device_share, stages
from embed_systems import SIDE, all_systems, build_sam, official_copy, our_embedder, synchronize
from official_decoder import decode
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from usam_core.files.digest import file_digest
from usam_core.rng import generator
from usam_core.sam.embedder import grid_points
from usam_core.sources.scenes import FIELD_LOOK, SHAPES, scene
from usam_core.types import ImageFile

MODELS = ("nano", "vit_b", "vit_l", "vit_h")


def main() -> None:
    """Measure what the command line asks for, print it, write it."""
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = _draw(folder, options.images, tuple(options.size))
        found = peaks(options, files, folder)  # while this process holds nothing of the device
        sam = build_sam(options)
        official = official_copy(sam, options)
        embedder = our_embedder(sam, options)
        systems = all_systems(options, embedder, official, files, folder)
        measure(systems, found, options)
        rate = _matrix_rate(options.device, getattr(torch, options.dtype))
        gflop = _count(options, official)
        alone = stages(embedder, files, folder)
        cuda = options.device == "cuda" and "seconds" in found.get("ours", {})
        busy = device_share(embedder, systems["ours"]) if cuda else None
    result = {
        "machine": _machine(options.device),
        "date": date.today().isoformat(),
        "settings": {name: str(value) for name, value in vars(options).items()},
        "gflop_an_image": gflop,
        "gflop_a_second": rate,
        "floor_seconds": sum(gflop.values()) / rate,
        "systems": found,
        "stages_seconds": alone,
        "device_share": busy,
    }
    _print(result, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(f"\nwritten to {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="nano")
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


def _draw(folder: Path, count: int, size_hw: tuple[int, int]) -> list[ImageFile]:
    files = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        drawn = scene(generator(5, "embed", number), list(SHAPES), size_hw, FIELD_LOOK)
        Image.fromarray(drawn.image).save(path, quality=90)
        files.append(ImageFile(str(path), file_digest(path)))
    return files


def measure(
    systems: dict[str, Callable[[], None]],
    found: dict[str, dict],
    options: argparse.Namespace,
) -> None:
    """Run the systems in turns and add the best round of each, an image.

    One that has failed, here or before, is not run again and has no times.
    """
    if "ours" in systems and options.compile:
        started = time.perf_counter()
        systems["ours"]()
        print(f"first pass of ours, not counted: {time.perf_counter() - started:.1f} s")
    for _ in range(options.rounds):
        for name, run in systems.items():
            one = found.setdefault(name, {})
            if "error" in one:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                run()
                synchronize(options.device)
            except Exception as error:  # another library's failure is a result, too
                found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
                continue
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            one["seconds"] = min(one.get("seconds", np.inf), wall / options.images)
            one["cpu_seconds"] = min(one.get("cpu_seconds", np.inf), cpu / options.images)


@torch.inference_mode()
def _matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return GFLOP a second of a large matrix product."""
    n = 8192 if device == "cuda" else 1024
    a = torch.randn(n, n, device=device).to(dtype)
    best = np.inf
    for _ in range(10):
        synchronize(device)
        started = time.perf_counter()
        a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best / 1e9


@torch.inference_mode()
def _count(options: argparse.Namespace, official: torch.nn.Module) -> dict[str, float]:
    """Return the GFLOP of an image's matrix products and convolutions, 2 x multiply-add.

    The encoder is counted without being run; the decoder is run.
    """
    encoder = build_sam(options).image_encoder.to("meta")
    side = encoder.img_size
    with FlopCounterMode(display=False) as encoding:
        shape = encoder(torch.zeros(1, 3, side, side, device="meta")).shape
    points = torch.from_numpy(grid_points(SIDE) * side).to(official.device)
    with FlopCounterMode(display=False) as decoding:
        decode(official, torch.zeros(shape, device=official.device), points)
    counted = {"encoder": encoding, "decoder": decoding}
    return {part: counter.get_total_flops() / 1e9 for part, counter in counted.items()}


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    threads = torch.get_num_threads()
    return f"{name or platform.machine()}, {threads} torch threads, torch {torch.__version__}"


def _print(result: dict, options: argparse.Namespace) -> None:
    gflop = result["gflop_an_image"]
    print(f"\n{options.model}, {options.device}, {options.dtype}: {result['machine']}")
    print(
        f"floor: {gflop['encoder']:.0f} + {gflop['decoder']:.0f} GFLOP an image at "
        f"{result['gflop_a_second']:.0f} GFLOP/s = {1000 * result['floor_seconds']:.1f} ms\n"
    )
    print("| system | images/s | CPU s/image | peak MiB | of the floor | ours is quicker by |")
    print("|---|---|---|---|---|---|")
    ours = result["systems"].get("ours", {})
    for name, one in result["systems"].items():
        if "error" in one:
            print(f"| {name} | {one['error']} | | | | |")
            continue
        ratio = one["seconds"] / ours["seconds"] if "seconds" in ours else float("nan")
        print(
            f"| {name} | {1 / one['seconds']:.3g} | {one['cpu_seconds']:.3g} | "
            f"{one['peak_mib']:.0f} | {100 * result['floor_seconds'] / one['seconds']:.0f} % | "
            f"{ratio:.2f} |"
        )
    for missing in set(options.systems) - set(result["systems"]):
        print(f"| {missing} | has no such architecture | | | | |")
    print("\n| stage, alone | ms an image |\n|---|---|")
    for name, seconds in result["stages_seconds"].items():
        print(f"| {name} | {1000 * seconds:.1f} |")
    if "seconds" in ours:
        share = sum(result["stages_seconds"][name] for name in ON_DEVICE) / ours["seconds"]
        print(f"\nencoder and decoder alone take {100 * share:.0f} % of the time of ours")
    if result["device_share"] is not None:
        print(f"in the pipeline the device is in one of them {100 * result['device_share']:.0f} %")


if __name__ == "__main__":
    main()
