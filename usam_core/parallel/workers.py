"""Runs pieces of a step's work: in this process, or on Dask workers, by the same call.

What a piece does must not depend on where it runs. The pieces here are groups of images that
become a shard, and labels of a shard; both are kept on disk when they are done, so that a run that
is killed loses the pieces in flight. One that is asked to stop finishes them
(`usam_core.interrupt`).
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch

from usam_core.config.results import ComputeConfig
from usam_core.errors import install, lacking, need
from usam_core.interrupt import finishing
from usam_core.progress import Advance, Bar, Progress

CORES_PER_WORKER = 4
"""Without a GPU: torch still gains from so many threads, and memory is needed by each worker."""

_log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """One piece of work: its name for errors, items in it such as images, arguments.

    The function is called with these arguments and a `Progress`.
    """

    name: str
    size: int
    arguments: tuple[Any, ...]


class Workers(Protocol):
    """Where pieces of work are done."""

    @property
    def count(self) -> int:
        """How many pieces are done at a time."""

    def run(self, function: Callable[..., Any], pieces: Sequence[Piece], bar: Bar) -> list[Any]:
        """Return what `function` returns for each piece, in the order of `pieces`."""
        ...


class InProcess:
    """Does one piece after the other in this process."""

    count = 1

    def run(self, function: Callable[..., Any], pieces: Sequence[Piece], bar: Bar) -> list[Any]:
        """See `Workers.run`."""
        results = []
        for piece in pieces:
            left = piece.size

            def advance(count: int) -> None:
                nonlocal left
                left -= count
                bar.advance(count)

            with finishing():
                results.append(function(*piece.arguments, Advance(advance)))
            # What was there already is done too, but nobody has told of it.
            bar.advance(left)
        return results


_open: list[Workers] = []


@contextmanager
def open_workers(config: ComputeConfig, device: str, pieces: int) -> Iterator[Workers]:
    """Have workers at hand while the block runs; an inner block uses those of the outer one.

    Args:
        config: how many, and where.
        device: where their torch will run: "auto", "cpu", "cuda" or "mps".
        pieces: how much there is to do; more workers than pieces are not started.

    Raises:
        MissingExtraError: workers were asked for, and Dask is not installed.
        TransientError: the scheduler cannot be reached, or no worker comes.
    """
    if _open:
        yield _open[-1]
        return
    count = 0 if config.scheduler else min(pieces, worker_count(config, device))
    if count and config.workers is None and lacking("dask"):
        if count > 1:
            _warn_of_one_process(count)
        count = 0
    if not pieces or not (count or config.scheduler):
        with _threads(config.threads):
            yield InProcess()
        return
    need("dask", f"compute: {config.scheduler or f'{count} workers'}")
    # Dask takes a second to import, which the many runs without it need not wait for.
    from usam_core.parallel.dask_workers import cluster_workers, local_workers

    if config.scheduler:
        manager = cluster_workers(config.scheduler, config.threads)
    else:
        threads = config.threads or max(1, _cores() // count)
        manager = local_workers(count, threads, _gpus(device))
    with manager as workers:
        _open.append(workers)
        try:
            yield workers
        finally:
            _open.remove(workers)


@cache
def _warn_of_one_process(count: int) -> None:
    """Warn, once a process, that nobody asked for workers and the default cannot have them."""
    advice = f"run {install('dask')}, or set compute.workers: 0"
    _log.warning("one process works where %d could: %s", count, advice)


def run_pieces(
    function: Callable[..., Any],
    pieces: Sequence[Piece],
    what: str,
    config: ComputeConfig,
    device: str,
    progress: Progress,
) -> list[Any]:
    """Do all pieces and return their results in order.

    `function`, of a module, is called with a piece's arguments and a `Progress`. The bar `what`
    counts the pieces' sizes. `config` and `device` as for `open_workers`.

    Raises:
        WorkerError: a piece's process died again and again.
    """
    with (
        open_workers(config, device, len(pieces)) as workers,
        progress.bar(what, sum(piece.size for piece in pieces)) as bar,
    ):
        return workers.run(function, pieces, bar)


def worker_count(config: ComputeConfig, device: str) -> int:
    """How many local worker processes a project's setting means; 0 is none."""
    if config.workers is not None:
        return config.workers
    count = _gpus(device)
    if not count and not (device != "cpu" and torch.backends.mps.is_available()):
        count = _cores() // CORES_PER_WORKER
    return count if count > 1 else 0


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gpus(device: str) -> int:
    return torch.cuda.device_count() if device in ("auto", "cuda") else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
