"""The systems that `embed.py` compares: ours, SAM's generator, its predictor, `transformers`."""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

from usam_core.images.read import read_image
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.embedder import SamEmbedder, grid_points
from usam_core.sam.nano import build_nano_sam
from usam_core.sam.pipeline import embed_shards
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile

SIDE = 10
VISION = {
    "vit_b": {},
    "vit_l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
        "mlp_dim": 4096,
    },
    "vit_h": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
        "mlp_dim": 5120,
    },
}


def build_sam(options: argparse.Namespace) -> torch.nn.Module:
    """Return the wanted model on the CPU; random weights are the same in every process."""
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.model == "nano":
        return build_nano_sam()
    return sam_model_registry[options.model](checkpoint=options.checkpoint).eval()


def our_embedder(sam: torch.nn.Module, options: argparse.Namespace) -> SamEmbedder:
    """Return ours, which takes the model over."""
    return SamEmbedder(
        SegmentAnything(sam),
        options.model,
        "0" * 64,
        SIDE,
        None,
        options.device,
        options.dtype,
        options.compile,
    )


def synchronize(device: str) -> None:
    """Wait for what a CUDA device was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def official_copy(sam: torch.nn.Module, options: argparse.Namespace) -> torch.nn.Module:
    """Return a copy of a model on the device whose parts compute in the wanted precision.

    What they return is float32 again: SAM's own generator cannot go on with bfloat16.
    """
    official = copy.deepcopy(sam).to(options.device)
    if options.dtype == "float32":
        return official

    def rounded(forward: Callable) -> Callable:
        def run(*arguments, **named):
            with torch.autocast(options.device, getattr(torch, options.dtype)):
                made = forward(*arguments, **named)
            return tuple(x.float() for x in made) if isinstance(made, tuple) else made.float()

        return run

    for module in (official.image_encoder, official.mask_decoder):
        module.forward = rounded(module.forward)
    return official


class _ToStore:
    """A shard of a store that nobody else writes to."""

    def __init__(self, store: EmbeddingStore, files: list[ImageFile]) -> None:
        self.store, self.files = store, files

    def begin(self) -> set[str]:
        return {file.sha256 for file in self.files}

    def commit(self, records: list[ShardRecord]) -> None:
        self.store.write_shard(records)

    def close(self) -> None:
        pass


def all_systems(
    options: argparse.Namespace,
    embedder: SamEmbedder,
    official: torch.nn.Module,
    files: list[ImageFile],
    folder: Path,
) -> dict[str, Callable[[], None]]:
    """Return the wanted systems; each call embeds all files once."""

    def ours() -> None:
        store = EmbeddingStore.create_or_open(folder / f"store{time.monotonic_ns()}", embedder.spec)
        shards = [_ToStore(store, files[start : start + 64]) for start in range(0, len(files), 64)]
        embed_shards(embedder, shards, lambda file: read_image(file.path), lambda _: None)

    generator = SamAutomaticMaskGenerator(official, points_per_side=SIDE)

    def amg() -> None:
        for file in files:
            generator.generate(_rgb(file))

    predictor = SamPredictor(official)

    def predict() -> None:
        for file in files:
            image = _rgb(file)
            predictor.set_image(image)
            for point in grid_points(SIDE) * image.shape[1::-1]:
                predictor.predict(point[None], np.ones(1, int), multimask_output=True)

    made = {"ours": ours, "amg": amg, "predictor": predict}
    if options.model in VISION and "transformers" in options.systems:
        made["transformers"] = _transformers(options, files)
    return {name: made[name] for name in options.systems if name in made}


def _transformers(options: argparse.Namespace, files: list[ImageFile]) -> Callable[[], None]:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor
    from transformers.pipelines import MaskGenerationPipeline

    config = SamConfig(vision_config={**VISION[options.model], "initializer_range": 0.02})
    processor = SamProcessor(SamImageProcessor())
    pipe = MaskGenerationPipeline(
        model=SamModel(config).eval().to(getattr(torch, options.dtype)),
        image_processor=processor.image_processor,
        device=options.device,
    )

    def run() -> None:
        for file in files:
            pipe(Image.open(file.path).convert("RGB"), points_per_batch=64, points_per_crop=SIDE)

    return run


def _rgb(file: ImageFile) -> np.ndarray:
    return np.asarray(Image.open(file.path).convert("RGB"))
