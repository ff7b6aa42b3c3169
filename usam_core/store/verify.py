"""Looks at every shard of a store for damage."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from usam_core.files.digest import CheckedFolders
from usam_core.progress import Progress
from usam_core.store.arrays import Damaged
from usam_core.store.index import shard_names
from usam_core.store.layout import FEATURES
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
    """Return what is damaged; see `EmbeddingStore.verify`.

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
            found = _look_at(folder, fingerprint, deep=read)
            damaged += found
            if not found:
                checked.add(folder)
            elif deep:
                # Bytes that a disk changed by itself: a quick look shall find them too, from now.
                checked.forget(folder)
    checked.save(shard_names(shards))
    return damaged


def _look_at(folder: Path, fingerprint: str, *, deep: bool) -> list[DamagedShard]:
    before = _place(folder)
    try:
        check_shard(folder, fingerprint, deep=deep)
        blocks = check_added_blocks(folder, fingerprint, deep=deep)
        found = [DamagedShard(folder.name, reason, block) for block, reason in blocks.items()]
    except Damaged as error:
        found = [DamagedShard(folder.name, str(error))]
    if found and _place(folder) != before:
        # Dropped, or written again, while it was looked at: what is there now counts.
        return _look_at(folder, fingerprint, deep=deep) if folder.is_dir() else []
    return found


def _place(folder: Path) -> list[tuple[str, int]]:
    """Return what tells a folder from one that was put in its place, its added blocks too."""
    try:
        blocks = sorted((path.name, path.stat().st_ino) for path in (folder / FEATURES).iterdir())
        return [("", folder.stat().st_ino), *blocks]
    except OSError:
        return []
