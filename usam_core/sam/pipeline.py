"""Files to shards with the device always busy.

    reading threads      this thread        landing thread      writing threads
    decode, resize   ->  encode, decode ->  copy, pack bits ->  compress, write, commit

Every arrow is a bounded queue. A batch never spans two shards: a shard that waits for another run
must not hold back one whose images are all there.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from usam_core.images.read import DecodedImage, UnusableImage
from usam_core.interrupt import stopping
from usam_core.sam.embedder import Prepared, SamEmbedder, next_batch
from usam_core.store.shard import ShardRecord
from usam_core.types import ImageFile, MaskSet

Item = TypeVar("Item")
Made = TypeVar("Made")
Committed = TypeVar("Committed", covariant=True)

_READERS = {"cpu": 1}
"""A CPU decodes an image in a tenth of the time that SAM takes there, on the same cores."""
_MAX_READERS = 16
_WRITERS = {"cpu": 1, "cuda": 2}
_BATCHES_AHEAD = 2
_BATCHES_LANDING = 2


class Shard(Protocol[Committed]):
    """One group of images on its way into the store; its files are read ahead of its turn."""

    files: Sequence[ImageFile]

    def begin(self) -> set[str]:
        """Return the digests that are still to be embedded, when the shard's turn has come."""

    def commit(self, records: list[ShardRecord]) -> Committed:
        """Write the shard, on another thread; records in the order of `files`."""

    def close(self) -> None:
        """Let go of what `begin` took, on any thread; called at least once."""


@dataclass(frozen=True, slots=True)
class _Read:
    file: ImageFile
    image: Prepared | UnusableImage
    mode: str = ""
    window: tuple[float, float] | None = None


def embed_shards(
    embedder: SamEmbedder,
    shards: Sequence[Shard[Committed]],
    read: Callable[[ImageFile], DecodedImage],
    advance: Callable[[int], None],
) -> list[Committed]:
    """Embed shards and return what `commit` gives for each, in order.

    When something fails, what is being written is finished, the rest is lost, and all threads end.
    When the run is asked to stop (`usam_core.interrupt`), the shard at hand is sealed with the
    images that it has, and no other is begun. The embedder is used from this thread, but for
    `prepare`.

    Args:
        read: decodes a file; called on several threads. `UnusableImage` quarantines it.
        advance: told of images that were given to the device.
    """

    def prepared(file: ImageFile) -> _Read:
        try:
            picture = read(file)
        except UnusableImage as error:
            return _Read(file, error)
        return _Read(file, embedder.prepare(picture.rgb), picture.mode, picture.window)

    device = embedder.device.type
    files = (file for shard in shards for file in shard.files)
    readers = _READERS.get(device, min(_MAX_READERS, os.cpu_count() or 1))
    depth = max(readers, _BATCHES_AHEAD * embedder.batch_size)
    writers = _WRITERS.get(device, 1)
    committed: list[Future[Committed]] = []
    with (
        ExitStack() as open_shards,
        closing(prefetch(prepared, files, readers, depth)) as images,
        BackgroundWriter(1, _BATCHES_LANDING) as landing,
        BackgroundWriter(writers, writers) as writing,
    ):
        for shard in shards:
            if stopping():
                break
            open_shards.callback(shard.close)
            wanted = shard.begin()
            some = islice(images, len(shard.files))
            landed = [
                landing.put(
                    _records,
                    batch,
                    embedder.submit([r.image for r in batch if isinstance(r.image, Prepared)]),
                )
                for batch in _batches(embedder, shard.files, some, wanted, advance)
            ]
            committed.append(writing.put(_commit, shard, landed))
    return [future.result() for future in committed]


def _batches(
    embedder: SamEmbedder,
    files: Sequence[ImageFile],
    images: Iterator[_Read],
    wanted: set[str],
    advance: Callable[[int], None],
) -> Iterator[list[_Read]]:
    """Yield equal batches of a shard's images; those stored meanwhile are passed over.

    No more of them once the run is asked to stop.
    """
    count = sum(file.sha256 in wanted for file in files)
    left = (image for image in images if image.file.sha256 in wanted)
    # The last turn, for an image that is not there, takes what is passed over at the end.
    while batch := list(islice(left, next_batch(max(1, count), embedder.batch_size))):
        count -= len(batch)
        yield batch
        advance(len(batch))
        if stopping():
            return


def _records(batch: list[_Read], wait: Callable[[], list[MaskSet]]) -> list[ShardRecord]:
    made = iter(wait())
    return [
        ShardRecord(read.file, read.image.quarantined)
        if isinstance(read.image, UnusableImage)
        else ShardRecord(read.file, next(made), read.mode, read.window)
        for read in batch
    ]


def _commit(shard: Shard[Committed], landed: list[Future[list[ShardRecord]]]) -> Committed:
    try:
        return shard.commit([record for future in landed for record in future.result()])
    finally:
        shard.close()


def prefetch(
    function: Callable[[Item], Made], items: Iterable[Item], threads: int, depth: int
) -> Generator[Made]:
    """Yield `function` of each item in order, worked out while the caller is busy with others.

    Close the iterator (`contextlib.closing`) if it may not be used up; what was begun is finished,
    nothing more is begun. An error is raised in its item's place. Items are taken from the
    caller's thread; at most `depth` are begun and not yet taken.
    """
    left = iter(items)
    with ThreadPoolExecutor(threads, "usam-ahead") as pool:
        waiting = deque(pool.submit(function, item) for item in islice(left, depth))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


class BackgroundWriter:
    """Does jobs on threads behind a loop; leaving the block waits for them.

    If the block is left by an error, jobs that are not begun are dropped. The first error of a job
    is raised at the next `put`, or when the block is left. With one thread jobs are done in order;
    `put` waits while `depth` of them are not done.
    """

    def __init__(self, threads: int, depth: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "usam-behind")
        self._depth = depth
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def put(self, function: Callable[..., Made], *arguments: Any) -> "Future[Made]":
        """Have `function(*arguments)` done; the result is in what is returned."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
        future = self._pool.submit(function, *arguments)
        self._waiting.append(future)
        return future
