"""Which images a store has by now, cheap to ask again after every shard.

A worker that embeds one planned group after the other must notice what another run has embedded
meanwhile. Asking the index each time would look at every shard for every shard.
"""

import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from usam_core.store.layout import INDEX_FILE, SHARDS
from usam_core.store.store import EmbeddingStore

_DIGITS = 16


class Arrivals:
    """The images of all shards as eight bytes each; a new shard's index is read once.

    Args:
        store: the store; its index is read here, and not kept.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self._shards = store.path / SHARDS
        self._seen = set(os.listdir(self._shards))
        self._images = np.sort(_numbers(store.index(refresh=True)["sha256"]))

    def may_hold(self, shas: Iterable[str]) -> bool:
        """Return whether the store has had one of the images, or one whose digest begins alike.

        False is certain; after True, ask the store itself.
        """
        for name in os.listdir(self._shards):
            if name not in self._seen and not name.startswith("."):
                self._add(name)
        wanted = _numbers(shas)
        places = np.searchsorted(self._images, wanted)
        inside = places < len(self._images)
        return bool((self._images[places[inside]] == wanted[inside]).any())

    def _add(self, name: str) -> None:
        self._seen.add(name)
        try:
            table = pq.read_table(self._shards / name / INDEX_FILE, columns=["sha256"])
        except (OSError, pa.ArrowException):
            return  # damaged, or gone again: whoever reads the whole index deals with it
        arrived = np.sort(_numbers(table["sha256"].to_pylist()))
        self._images = np.insert(self._images, np.searchsorted(self._images, arrived), arrived)


def _numbers(shas: Iterable[str]) -> np.ndarray:
    return np.array([int(sha256[:_DIGITS], 16) for sha256 in shas], np.uint64)
