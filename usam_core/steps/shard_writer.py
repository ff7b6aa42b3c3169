"""One group of images on its way into the store: a lock, a last look, one shard."""

import functools
from contextlib import ExitStack
from pathlib import Path

from usam_core.files.atomic import only_one
from usam_core.files.digest import value_digest
from usam_core.store.store import Arrivals, EmbeddingStore, ShardRecord
from usam_core.files.locks import only_one
from usam_core.store.index import Arrivals
from usam_core.store.store import EmbeddingStore, ShardRecord
from usam_core.types import ImageFile

LOCKS = "locks"


class GroupShard:
    """A group that becomes one shard (`usam_core.sam.pipeline.Shard`).

    Args:
        store: nobody else's; the group is written on another thread than it is planned on.
        group: a path for each digest.

    Attributes:
        files: what is not stored yet.
    """

    def __init__(self, store: EmbeddingStore, group: dict[str, str]) -> None:
        self._store, self._group = store, group
        self._lock = ExitStack()
        self.files = [ImageFile(group[sha256], sha256) for sha256 in _missing(store, group)]

    def begin(self) -> set[str]:
        """Wait for other runs that do the same group; return what they have left."""
        path = self._store.path
        lock = path / LOCKS / value_digest(sorted(self._group))[:16]
        self._lock.enter_context(only_one(lock, f"{len(self._group)} images of {path}"))
        return set(_missing(self._store, self._group))

    def commit(self, records: list[ShardRecord]) -> dict[str, int]:
        """Write the shard; counts by the keys `embedded` and `quarantined`."""
        if records:
            self._store.write_shard(records)
        embedded = sum(record.embedded for record in records)
        return {"embedded": embedded, "quarantined": len(records) - embedded}

    def close(self) -> None:
        """Let the next run have the group."""
        self._lock.close()


@functools.lru_cache(maxsize=4)
def _arrivals(store: Path) -> Arrivals:
    return EmbeddingStore.open(store).arrivals()


def _missing(store: EmbeddingStore, group: dict[str, str]) -> list[str]:
    """Return what of a group is not stored, reading the whole index only if some of it may be."""
    if not _arrivals(store.path).may_hold(group):
        return list(group)
    return [sha256 for part in store.plan(group) for sha256 in part]
