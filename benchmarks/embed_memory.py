"""The memory that each system of `embed.py` needs, in a process of its own. Linux only.

In one process the systems would reuse each other's freed memory, and the order would decide.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from embed_systems import all_systems, build_sam, official_copy, our_embedder
from memory import forget_peak, peak_mib

from usam_core.types import ImageFile


def peaks(options: argparse.Namespace, files: list[ImageFile], folder: Path) -> dict[str, dict]:
    """Return what each wanted system's first pass needs beyond its loaded model, or its error."""
    fresh = multiprocessing.get_context("spawn")
    found: dict[str, dict] = {}
    for name in options.systems:
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            try:
                peak = process.submit(_peak, name, options, files, folder).result()
            except Exception as error:  # another library's failure is a result, too
                found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
                continue
        if peak is not None:
            found[name] = {"peak_mib": peak}
    return found


def _peak(
    name: str, options: argparse.Namespace, files: list[ImageFile], folder: Path
) -> float | None:
    """Return the most that a system's first pass takes, MiB; None where it cannot run the model."""
    sam = build_sam(options)
    official = official_copy(sam, options)
    alone = argparse.Namespace(**{**vars(options), "systems": [name]})
    systems = all_systems(alone, our_embedder(sam, options), official, files, folder)
    if name not in systems:
        return None
    started = time.perf_counter()
    if options.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        systems[name]()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        forget_peak()
        before = peak_mib()
        systems[name]()
        peak = peak_mib() - before
    print(f"{name}, first pass: {time.perf_counter() - started:.1f} s, {peak:.0f} MiB", flush=True)
    return peak
