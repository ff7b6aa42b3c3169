"""Dask behind `usam_core.parallel.workers`: local worker processes, or those of any scheduler.

Each worker does one piece at a time and is given the next when it is done: nothing waits in a
worker's queue, so that a death is blamed on the piece that was being done.
"""

import logging
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask.config
import torch
from distributed import Client, Future, KilledWorker, Nanny, Scheduler, SpecCluster, WorkerPlugin
from distributed import get_worker as dask_worker
from distributed.client import FutureCancelledError
from distributed.security import Security

from usam_core.errors import TransientError, WorkerError
from usam_core.interrupt import ask, finishing, stopping
from usam_core.parallel.workers import Piece
from usam_core.progress import Advance, Bar

DEATHS = 3
"""So many worker processes may die over one piece before it is given up."""
_START_SECONDS = 120
_REACH_SECONDS = 30
_TELL_SECONDS = 0.5
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_one_at_a_time = threading.Lock()


class DaskWorkers:
    """Does pieces on the workers of a Dask client, which has at least one.

    When the run is asked to stop, workers of its `own` seal what they have in hand; others, whom
    more runs may use, finish their piece.
    """

    def __init__(self, client: Client, *, own: bool = False) -> None:
        self.client = client
        self._own = own

    @property
    def count(self) -> int:
        """How many workers there are now; a cluster may grow and shrink."""
        return max(1, len(self.client.nthreads()))

    def run(self, function: Callable[..., Any], pieces: Sequence[Piece], bar: Bar) -> list[Any]:
        """See `usam_core.parallel.workers.Workers.run`."""
        with finishing():
            return self._run(function, pieces, bar)

    def _run(self, function: Callable[..., Any], pieces: Sequence[Piece], bar: Bar) -> list[Any]:
        # Dask calls back from a thread of its own; bars are only ever touched from this one.
        events: queue.SimpleQueue[Future[Any] | tuple[int, int]] = queue.SimpleQueue()
        topic = f"usam-{uuid.uuid4().hex}"
        self.client.subscribe_topic(topic, lambda event: events.put(event[1]))
        results: list[Any] = [None] * len(pieces)
        left = [piece.size for piece in pieces]
        waiting: Iterator[tuple[int, Piece]] = iter(enumerate(pieces))
        running: dict[Future[Any], int] = {}
        told = False
        try:
            while True:
                if stopping():
                    waiting = iter(())
                    if self._own and not told:
                        told = True
                        self.client.run(ask)
                while len(running) < self.count and (entry := next(waiting, None)) is not None:
                    number, piece = entry
                    future = self.client.submit(
                        _work, function, piece.arguments, topic, number, pure=False, retries=0
                    )
                    running[future] = number
                    future.add_done_callback(events.put)
                if not running:
                    return results
                event = events.get()
                if isinstance(event, Future):
                    number = running.pop(event)
                    results[number] = _result(event, pieces[number])
                    # A piece that was cut short has told of what it did, or nearly.
                    done = 0 if stopping() else left[number]
                else:
                    # A piece that is repeated after a death tells of its items again.
                    number, done = event[0], min(event[1], left[event[0]])
                left[number] -= done
                bar.advance(done)
        finally:
            self.client.cancel(list(running))
            self.client.unsubscribe_topic(topic)


@contextmanager
def local_workers(count: int, threads: int, gpus: int) -> Iterator[DaskWorkers]:
    """Start worker processes on this machine and stop them at the end of the block.

    Each has so many threads of torch; the workers take turns with the GPUs, each sees one.
    """
    settings = {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        # Dask's own guard would kill workers for memory that torch and not Dask holds.
        "distributed.worker.memory.terminate": False,
    }
    # A scheduler does what it is asked by whoever reaches its port: only who has this key does.
    security = Security.temporary()
    # Nothing is served to other machines, nor on a port that a second run would miss.
    local = {
        "host": "127.0.0.1",
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "security": security,
    }
    # What goes wrong is raised here; Dask would print it a second time.
    options = {**local, "nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    environments = [_environment(number, threads, gpus) for number in range(count)]
    specs = {
        number: {"cls": Nanny, "options": {**options, "env": environment}}
        for number, environment in enumerate(environments)
    }
    scheduler = {"cls": Scheduler, "options": {**local, "port": 0}}
    with (
        _quiet("distributed"),
        dask.config.set(settings),
        SpecCluster(
            workers=specs, scheduler=scheduler, security=security, silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_Deaf(), name="usam-deaf")
        yield _prepared(client, threads, f"{count} worker processes on this machine", own=True)


@contextmanager
def cluster_workers(address: str, threads: int | None) -> Iterator[DaskWorkers]:
    """Use the workers of a scheduler that runs already; it is left running.

    Who may reach its address is its owner's to say: over `tls://`, with the certificates of Dask's
    own settings (`distributed.comm.tls`). `threads` None: torch's are left as they are.
    """
    try:
        client = Client(address, timeout=_REACH_SECONDS, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise TransientError(
            f"compute.scheduler: no Dask scheduler answers at {address} ({error}); start it with "
            "`dask scheduler`, or remove the line to work on this machine"
        ) from error
    with client:
        yield _prepared(client, threads, f"the scheduler at {address}")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger tell errors only: Prefect shows Dask's greetings to everybody."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Threads(WorkerPlugin):
    """Sets torch's threads in every worker, also in those that start later."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def setup(self, worker: Any) -> None:
        torch.set_num_threads(self._threads)


class _Deaf(WorkerPlugin):
    """Lets a terminal's Ctrl-C go by in workers, which get it too: the run tells them."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _prepared(client: Client, threads: int | None, where: str, *, own: bool = False) -> DaskWorkers:
    try:
        client.wait_for_workers(1, timeout=_START_SECONDS)
    except TimeoutError as error:
        raise TransientError(
            f"{where}: no worker within {_START_SECONDS} s; start `dask worker` there, or set "
            "compute.workers to 0"
        ) from error
    if threads is not None:
        client.register_plugin(_Threads(threads), name="usam-threads")
    return DaskWorkers(client, own=own)


def _environment(number: int, threads: int, gpus: int) -> dict[str, str]:
    """A local worker's settings; its `number` picks its GPU."""
    settings = dict.fromkeys(_THREAD_SETTINGS, str(threads))
    if gpus:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        settings["CUDA_VISIBLE_DEVICES"] = seen.split(",")[number % gpus]
    return settings


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], topic: str, number: int) -> Any:
    """Do one piece in a worker, telling the client now and then how many items are done."""
    worker = dask_worker()
    pending, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal pending, last
        pending += count
        if time.monotonic() - last > _TELL_SECONDS:
            worker.log_event(topic, (number, pending))
            pending, last = 0, time.monotonic()

    # Workers of other schedulers may have several threads; a model in memory serves one.
    with _one_at_a_time:
        return function(*arguments, Advance(advance))


def _result(future: Future[Any], piece: Piece) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        deaths = error.allowed_failures + 1
        raise WorkerError(
            f"{piece.name}: {deaths} worker processes died over it, one after the other. Most "
            "often memory runs out: set compute.workers lower or sam.points_per_batch lower, or "
            "compute.workers to 0 to see what happens. What is finished is kept"
        ) from error
    except FutureCancelledError as error:
        # Nobody here cancels a piece that is waited for: the scheduler ended, or the line did.
        raise TransientError(
            f"{piece.name}: the Dask scheduler went away ({error}); start it again, or set "
            "compute.workers to 0 to work without. What is finished is kept"
        ) from error
