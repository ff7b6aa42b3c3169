"""Looks at every shard of a store for damage."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from usam_core.progress import Progress
from usam_core.store.arrays import Damaged
from usam_core.store.shard import check_added_blocks, check_shard


@dataclass(frozen=True, slots=True)
class DamagedShard:
    """A shard, or one block that was added to it, that is not as it was written.

    Attributes:
        shard: the shard's id.
        reason: names the file.
        block: the added block's id; empty for the shard itself.
    """

    shard: str
    reason: str
    block: str = ""


def damaged_shards(
    shards: Path, names: Iterable[str], fingerprint: str, progress: Progress, *, deep: bool
) -> list[DamagedShard]:
    """See `EmbeddingStore.verify`.

    Args:
        shards: the folder of all shards.
        names: the shards to look at.
        fingerprint: the store's.
        progress: told of each shard.
        deep: read all bytes.
    """
    names = sorted(names)
    damaged = []
    with progress.bar("Checking the store", len(names)) as bar:
        for name in names:
            try:
                check_shard(shards / name, fingerprint, deep=deep)
                blocks = check_added_blocks(shards / name, fingerprint, deep=deep)
            except Damaged as error:
                damaged.append(DamagedShard(name, str(error)))
            else:
                damaged += [DamagedShard(name, reason, block) for block, reason in blocks.items()]
            bar.advance()
    return damaged
