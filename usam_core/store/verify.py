"""Looks at every shard of a store for damage."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from usam_core.progress import Progress
from usam_core.stamps import CheckedFolders
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
    shards: Path,
    names: Iterable[str],
    fingerprint: str,
    checked: CheckedFolders,
    progress: Progress,
    *,
    deep: bool,
    fresh: bool,
) -> list[DamagedShard]:
    """See `EmbeddingStore.verify`.

    Args:
        shards: the folder of all shards.
        names: the shards to look at.
        fingerprint: the store's.
        checked: shards that were found whole before.
        progress: told of each shard.
        deep: read all bytes.
        fresh: read no bytes of shards that `checked` does not know.
    """
    names = sorted(names)
    damaged = []
    with progress.bar("Checking the store", len(names)) as bar:
        for name in names:
            bar.advance()
            folder = shards / name
            if not deep and checked.holds(folder):
                continue
            read = deep or not fresh or checked.knows(folder)
            try:
                check_shard(folder, fingerprint, deep=read)
                blocks = check_added_blocks(folder, fingerprint, deep=read)
            except Damaged as error:
                damaged.append(DamagedShard(name, str(error)))
            else:
                damaged += [DamagedShard(name, reason, block) for block, reason in blocks.items()]
                if not blocks:
                    checked.add(folder)
    checked.save(names)
    return damaged
