"""The checks of one composed scene: its file or its truth, its cut-outs' pictures, its masks."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from usam_core.lineage.chain import Chain, short
from usam_core.lineage.compare import (
    Broken,
    check_shards,
    compare,
    document_of,
    read_manifest,
)
from usam_core.lineage.document import portable
from usam_core.store.layout import SHARDS

TABLE = "scenes.parquet"


@dataclass(frozen=True, slots=True)
class _Scene:
    """A scene as the table of `compose` names it.

    Attributes:
        sha256: digest of its picture, which the store knows it by.
        own: digest of the file asked for, the picture or the truth.
        split: `train` or `held_out`.
        objects: the class and the picture's digest of each object, in their order.
        background: what lies behind them.
    """

    sha256: str
    own: str
    split: str
    objects: list[tuple[str, str]]
    background: str


def scene_checks(chain: Chain) -> dict[str, Callable[[], str | None]]:
    """Return the checks of a scene or of its truth, by what they look at."""
    scene = functools.cache(partial(_find, chain))
    return {
        "file": lambda: _check_file(chain, scene()),
        "cut-outs": lambda: _check_cutouts(chain, scene()),
        "masks": lambda: _check_masks(chain, scene()),
    }


def _find(chain: Chain) -> _Scene:
    """Return the scene that a file is, or is the truth of."""
    subject = chain.subject
    table = subject.folder / TABLE
    compare([(table, document_of(chain.last)["outputs"].get(TABLE))], chain)
    scenes = pd.read_parquet(table)
    for row in scenes.to_dict("records"):
        digests = {row["path"]: row["sha256"], row["truth"]: row["truth_sha256"]}
        if subject.name in digests:
            objects = list(zip(row["labels"], row["sources"], strict=True))
            own = digests[subject.name]
            return _Scene(row["sha256"], own, row["split"], objects, row["background"])
    raise Broken(
        f"{portable(subject.file, chain.root)}: {TABLE} does not name it; it was put there by "
        "hand, or is of other settings: run `usam compose` again"
    )


def _check_file(chain: Chain, scene: _Scene) -> str:
    compare([(chain.subject.file, scene.own)], chain)
    names = ", ".join(name for name, _ in scene.objects)
    return f"{short(scene.own)}, {scene.split}: {names} on {scene.background}"


def _check_cutouts(chain: Chain, scene: _Scene) -> str:
    manifest = read_manifest(chain, document_of(chain.last)["inputs"]["pictures"])
    paths = dict(zip(manifest["sha256"], manifest["path"], strict=True))
    gone = [f"{name} {short(sha256)}" for name, sha256 in scene.objects if sha256 not in paths]
    if gone:
        raise Broken(
            f"{', '.join(gone)}: the manifest does not name these pictures any more; they were "
            "collected again since: run `usam compose` again"
        )
    compare([(Path(paths[sha256]), sha256) for _, sha256 in scene.objects], chain)
    return ", ".join(
        f"{name} {portable(Path(paths[sha256]), chain.root)} {short(sha256)}"
        for name, sha256 in scene.objects
    )


def _check_masks(chain: Chain, scene: _Scene) -> str:
    named = document_of(chain.last)["inputs"]["store"]
    wanted = {scene.sha256, *(sha256 for _, sha256 in scene.objects)}
    shards = check_shards(chain, named, wanted, deep=True)
    return ", ".join(f"{named['path']}/{SHARDS}/{shard}" for shard in shards)
