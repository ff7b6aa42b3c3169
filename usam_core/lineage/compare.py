"""What the checks of a chain are made of: digests of files, the manifest, the store's shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.imagestores.content import mismatch
from usam_core.imagestores.opener import is_url, join
from usam_core.lineage.chain import Chain, Link
from usam_core.lineage.document import LINEAGE, portable
from usam_core.paths import inside
from usam_core.progress import SILENT, Progress
from usam_core.store.store import EmbeddingStore

_MOST_NAMED = 3
"""So many broken files are named; the others are counted."""

Entry = dict[str, Any]
"""What a document says of one thing that a step read."""


class Broken(Exception):
    """Something is not what the documents say; the message names it."""


def compare(
    files: Sequence[tuple[Path | str, str | None]],
    chain: Chain,
    progress: Progress = SILENT,
    advice: str = "it was changed or replaced since",
) -> None:
    """Compare the digests of files with those that are expected; several misses make one error."""
    misses = []
    with progress.bar("Checking files", len(files)) as bar:
        for path, expected in files:
            what = mismatch(path, expected)
            if what:
                misses.append(f"{shown(path, chain)}: {what}")
            bar.advance()
    if misses:
        others = f" (and {len(misses) - _MOST_NAMED} more)" if len(misses) > _MOST_NAMED else ""
        raise Broken("; ".join(misses[:_MOST_NAMED]) + f"{others}: {advice}")


def shown(file: Path | str, chain: Chain) -> str:
    """Return how a message names a file or a URL."""
    return file if isinstance(file, str) else portable(file, chain.root)


def image_at(chain: Chain, images: Entry, name: str) -> Path | str:
    """Return where an image lies that a step read: a path or a URL."""
    if is_url(images["path"]):
        return join(images["path"], name)
    return inside(chain.at(images["path"]), name, LINEAGE, linked=True)


def document_of(link: Link) -> dict[str, Any]:
    """Return the document of a link that has one: those without are not checked further."""
    assert link.document is not None
    return link.document


def read_manifest(chain: Chain, pictures: Entry) -> pd.DataFrame:
    """Return the manifest of the training pictures as it is now, its paths absolute."""
    table = pd.read_parquet(chain.at(pictures["manifest"]))
    return table.assign(path=[str(chain.at(path)) for path in table["path"]])


def check_shards(
    chain: Chain, entry: Entry, wanted: set[str] | None, *, deep: bool = False
) -> list[str]:
    """Check the shards of some images, or all of the store; return their names."""
    store = EmbeddingStore.find(chain.at(entry["path"]).parent, entry["spec"])
    index = store.index()
    if wanted is not None:
        index = index[index["sha256"].isin(wanted)]
        if len(index) < len(wanted):
            raise Broken(
                f"{entry['path']}: {len(wanted) - len(index)} of {len(wanted)} images are no "
                "longer in the store, or their shard is damaged; run `usam embed` again"
            )
    shards = sorted(index["shard"].unique())
    for damaged in store.verify(only=None if wanted is None else shards, deep=deep):
        if not damaged.block:  # those are told by the check of the blocks
            raise Broken(f"{damaged.reason}; run `usam embed` again")
    return shards


def check_blocks(chain: Chain, entry: Entry, blocks: set[str], wanted: set[str]) -> None:
    """Check feature blocks that were added to a store, and that some images have them."""
    store = EmbeddingStore.find(chain.at(entry["path"]).parent, entry["spec"])
    for damaged in store.verify(deep=False):
        if damaged.block in blocks:
            raise Broken(f"{damaged.reason}; run `usam describe` again")
    if store.lacking(blocks, wanted):
        raise Broken(f"{entry['path']}: no features of {min(wanted)}; run `usam describe` again")
