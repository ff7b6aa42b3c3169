"""How quickly each SAM of the hub embeds: ours beside its own forward in `transformers`.

    python benchmarks/sams.py --models sam2.1_tiny edgetam --threads 1

Random weights of the real architecture and size: times are those of real ones, masks mean nothing.
One image of 480 x 640 and the 100 points of the grid; both systems do encoder and decoder, ours all
four masks of each point, packed, with tokens, stability and pooled features, the reference three
masks and nothing else. Each is run `--rounds` times, the best counts: seconds of the clock on a
GPU, of processors on a CPU.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usam_core.sam.embedder import SamEmbedder
from usam_core.sam.hub_models import HUB_SAMS
from usam_core.sam.translated import TranslatedSam

HIERA: dict[str, dict[str, Any]] = {
    "sam2.1_tiny": {},
    "sam2.1_small": {
        "blocks_per_stage": [1, 2, 11, 2],
        "global_attention_blocks": [7, 10, 13],
    },
    "sam2.1_base_plus": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
    "sam2.1_large": {
        "hidden_size": 144,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 6, 36, 4],
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 16, 8],
        "global_attention_blocks": [23, 33, 43],
    },
}
"""What differs from tiny in the published encoders (facebookresearch/sam2, sam2/configs/sam2.1)."""
SIDE = 10


def build(name: str) -> Any:
    """Return a model of the published size, on the CPU, its weights random."""
    import transformers

    torch.manual_seed(0)
    if name in HIERA:
        widths = HIERA[name].get("embed_dim_per_stage", [96, 192, 384, 768])
        vision = {
            "model_type": "sam2_vision_model",
            "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA[name]},
            "backbone_channel_list": widths[::-1],
        }
        model = transformers.Sam2Model(transformers.Sam2Config(vision_config=vision))
    elif name == "edgetam":
        backbone = {
            "model_type": "timm_wrapper",
            "architecture": "repvit_m1",
            "num_classes": 1000,
            "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
        }
        vision = {"model_type": "edgetam_vision_model", "backbone_config": backbone}
        model = transformers.EdgeTamModel(transformers.EdgeTamConfig(vision_config=vision))
    else:
        model = transformers.Sam3TrackerModel(transformers.Sam3TrackerConfig())
    return model.eval()


def best(run: Callable[[], object], rounds: int, device: str) -> float:
    """Return the seconds of the quickest of some rounds."""
    seconds, clock = [], time.perf_counter if device == "cuda" else time.process_time
    for _ in range(rounds):
        started = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return min(seconds)


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return seconds an image of ours and of the reference, and the millions of parameters."""
    model = build(name)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    how = HUB_SAMS[name].architecture.mean_and_std
    sam = TranslatedSam(model, *how)
    embedder = SamEmbedder(sam, name, "0", SIDE, None, options.device, options.dtype)
    points = torch.from_numpy(embedder._points).to(options.device)[None, :, None] * sam.side
    labels = torch.ones(1, SIDE**2, 1, dtype=torch.int, device=options.device)

    @torch.inference_mode()
    def reference() -> None:
        frame = sam.frame(embedder.prepare(image).pixels.to(options.device).float())[None]
        with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            levels = model.get_image_embeddings(frame)
            # All 100 at once need gigabytes: its decoder copies the image side for each.
            for start in range(0, SIDE**2, options.at_once):
                some = slice(start, start + options.at_once)
                model(
                    image_embeddings=list(levels),
                    input_points=points[:, some],
                    input_labels=labels[:, some],
                )

    return {
        "parameters": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "ours": best(lambda: embedder.embed([image]), options.rounds, options.device),
        "transformers": best(reference, options.rounds, options.device),
    }


def main() -> None:
    """Measure what the command line asks for, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=[*HUB_SAMS], default=[*HUB_SAMS])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--at-once", type=int, default=10, help="points of the reference")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/sams.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = {}
    print("| SAM | million parameters | ours, s an image | transformers | times |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.models:
        row = rows[name] = measure(name, options)
        times = row["transformers"] / row["ours"]
        print(
            f"| {name} | {row['parameters']:.0f} | {row['ours']:.2f} | "
            f"{row['transformers']:.2f} | {times:.1f} |",
            flush=True,
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) for key, value in vars(options).items()}
    written = {"date": date.today().isoformat(), "settings": settings, "rows": rows}
    options.out.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
