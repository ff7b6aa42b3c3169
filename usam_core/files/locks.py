"""One process at a time: the others wait, and then find what the first has done."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from usam_core.files.atomic import disk_errors

_PATIENCE = 1.0
"""Seconds before a person is told what is waited for."""

_log = logging.getLogger(__name__)


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; it is freed when the process ends, however it ends.

    Args:
        lock: the lock file; it stays behind, empty.
        what: what is done under the lock, for the message to those who wait.
    """
    # Not bound to this thread: a shard's writer may let go of what another thread took.
    held = FileLock(lock, thread_local=False)
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=_PATIENCE)
        except Timeout:
            _log.warning("%s: another run is at work on it; waiting", what)
            held.acquire()
    try:
        yield
    finally:
        held.release()
