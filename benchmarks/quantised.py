"""int8 on the CPU: does torch's dynamic quantisation of SAM's linear layers pay, and what is lost?

    python benchmarks/quantised.py --out /tmp/quantised [--model nano] [--images 8]

The same model three times, in turns, the best of the rounds: in float32, in bfloat16
(`sam.dtype`), and with every `nn.Linear` replaced by `torch.ao.quantization.quantize_dynamic`
(int8 weights, activations to int8 as they come). Ours is the embedder, one image at a time;
`official decoder` is SAM's own on ours' embeddings, which has more linear layers left. Masks are
compared with float32's, those of more than 20 pixels. ViTs have random weights here: their masks
say little.
"""

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from official_decoder import decode
from segment_anything import sam_model_registry
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear as QuantisedLinear
from torch.ao.quantization import quantize_dynamic

from usam_core.rng import generator
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.embedder import SamEmbedder, grid_points
from usam_core.sam.nano import build_nano_sam
from usam_core.sources.scenes import FIELD_LOOK, SHAPES, scene
from usam_core.types import MaskSet

SEED = 5
SIDE = 10
SIZE_HW = (480, 640)
SMALLEST = 20
AT_ONCE = 10


class Way:
    """One kind of arithmetic.

    Args:
        sam: the model; copied.
        name: `float32`, `bfloat16` or `int8`.
    """

    def __init__(self, sam: nn.Module, name: str) -> None:
        dtype = "bfloat16" if name == "bfloat16" else "float32"
        # The embedder first: what it makes of the weights stays float32, its layers do not.
        self.embedder = SamEmbedder(
            SegmentAnything(copy.deepcopy(sam)), name, "0" * 64, SIDE, None, "cpu", dtype
        )
        self.sam = self.embedder.sam.sam
        if name == "int8":
            for part in (self.sam.image_encoder, self.sam.prompt_encoder, self.sam.mask_decoder):
                quantize_dynamic(part, {nn.Linear}, inplace=True)
        self.autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        side = self.sam.image_encoder.img_size
        self._points = torch.from_numpy(grid_points(SIDE) * side)
        self._frame = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(SEED))
        with torch.inference_mode():
            self._embedding = self.sam.image_encoder(self._frame)

    def embed(self, images: list[np.ndarray]) -> list[MaskSet]:
        """Return the mask sets, one image at a time."""
        return [self.embedder.embed([image])[0] for image in images]

    def encode(self) -> None:
        """Run the image encoder."""
        with torch.inference_mode(), self.autocast():
            self.sam.image_encoder(self._frame)

    def decode_officially(self) -> None:
        """Run SAM's own decoder over all prompts."""
        with torch.inference_mode(), self.autocast():
            for points in self._points.split(AT_ONCE):
                decode(self.sam, self._embedding, points)


def mask_iou(ours: list[MaskSet], exact: list[MaskSet]) -> np.ndarray:
    """Return the IoU of every mask with the one of float32."""
    found = []
    for one, other in zip(ours, exact, strict=True):
        a, b = one.packed_masks, other.packed_masks
        shared, either = (
            np.bitwise_count(bits).sum(axis=(2, 3), dtype=np.int64) for bits in (a & b, a | b)
        )
        area = np.bitwise_count(b).sum(axis=(2, 3), dtype=np.int64)
        found.append((shared / np.maximum(either, 1))[area > SMALLEST])
    return np.concatenate(found)


def timed(work: Callable[[], object]) -> float:
    """Return the processor seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Parse the command line, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=["nano", "vit_b", "vit_l", "vit_h"], default="nano")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    sam = build_nano_sam() if args.model == "nano" else sam_model_registry[args.model]().eval()
    images = [
        scene(generator(SEED, "embed", number), list(SHAPES), SIZE_HW, FIELD_LOOK).image
        for number in range(args.images)
    ]
    ways = {name: Way(sam, name) for name in ("float32", "bfloat16", "int8")}
    sets = {name: way.embed(images) for name, way in ways.items()}
    rows: dict[str, dict] = {}
    for name, way in ways.items():
        iou = mask_iou(sets[name], sets["float32"])
        layers = [layer for layer in way.sam.modules() if isinstance(layer, QuantisedLinear)]
        rows[name] = {
            "quantised layers": len(layers),
            "mean mask IoU": float(iou.mean()),
            "masks under 0.9, %": float(100 * np.mean(iou < 0.9)),
        }
    for _ in range(args.rounds):
        for name, way in ways.items():
            for what, work, count in (
                ("ours, s an image", partial(way.embed, images), len(images)),
                ("encoder, s an image", way.encode, 1),
                ("official decoder, s an image", way.decode_officially, 1),
            ):
                taken = timed(work) / count
                rows[name][what] = min(taken, rows[name].get(what, np.inf))
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"one thread, seed {SEED}, {args.model}, {len(images)} images; processor seconds\n"
    )
    print(pd.DataFrame(rows).round(4).to_string())
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"quantised-{args.model}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
