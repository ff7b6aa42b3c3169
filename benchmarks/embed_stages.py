"""Where the time of `ours` in `embed.py` goes: each stage alone, the device in the pipeline."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import zarr
from embed_systems import synchronize
from zarr.storage import LocalStore, MemoryStore

from usam_core.images.read import read_image
from usam_core.sam.embedder import SamEmbedder, land
from usam_core.store.layout import COLUMNS, SHARDS
from usam_core.store.shard import ShardRecord
from usam_core.store.store import EmbeddingStore, column_of
from usam_core.types import ImageFile

ON_DEVICE = ("encode", "decode masks")


def stages(embedder: SamEmbedder, files: list[ImageFile], folder: Path) -> dict[str, float]:
    """Time every stage alone, nothing overlapping; seconds an image."""
    device = embedder.device.type
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable, *arguments):
        synchronize(device)
        started = time.perf_counter()
        made = function(*arguments)
        synchronize(device)
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
            sets += [embedder._mask_set(r, p.size_hw) for r, p in zip(rows, some, strict=True)]
    embedder._encode = encode
    seconds["decode masks"] -= seconds["encode"]
    store = EmbeddingStore.create_or_open(folder / "stages", embedder.spec)
    records = [ShardRecord(file, made) for file, made in zip(files, sets, strict=True)]
    shard = timed("compress and write", store.write_shard, records)
    for name in (*COLUMNS, *map(column_of, sets[0].features)):
        kept = zarr.open_array(LocalStore(store.path / SHARDS / shard / name), mode="r")
        timed("compress", _compress, kept, kept[...])
    seconds["write, seal, sync"] = seconds.pop("compress and write") - seconds["compress"]
    return seconds


def _compress(kept: zarr.Array, values: np.ndarray) -> None:
    """Compress values into memory, cut and packed as an array of the store is."""
    array = zarr.create_array(
        MemoryStore(),
        shape=kept.shape,
        dtype=kept.dtype,
        chunks=kept.chunks,
        shards=kept.shards,
        compressors=kept.compressors,
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def device_share(embedder: SamEmbedder, run: Callable[[], None]) -> float:
    """Return the share of a pass in which a CUDA device is between start and end of the model.

    Waits between the kernels of one call count as work. Not run yet: no GPU was at hand.
    """
    spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def marked(function: Callable) -> Callable:
        def call(*arguments):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            made = function(*arguments)
            end.record()
            spans.append((start, end))
            return made

        return call

    kept = embedder._encode, embedder._decode
    embedder._encode, embedder._decode = map(marked, kept)
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    embedder._encode, embedder._decode = kept
    return sum(start.elapsed_time(end) for start, end in spans) / 1000 / seconds
