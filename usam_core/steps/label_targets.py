"""The images that can be labelled, with the shards that hold them: whole ones, and tiled ones."""

import logging
from dataclasses import dataclass

import pandas as pd

from usam_core.config.project import Project
from usam_core.errors import MissingStepError
from usam_core.steps.blocks import with_blocks
from usam_core.steps.images_to_label import TiledImage, labelled_images, tiled_images
from usam_core.store.store import EmbeddingStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Labellable:
    """What can be labelled.

    Attributes:
        whole: path, sha256 and shard of each image that is embedded whole, by path.
        tiled: each image that is embedded in tiles, with the shard of each tile.
    """

    whole: pd.DataFrame
    tiled: list[tuple[TiledImage, list[str]]]

    def contents(self) -> dict[str, str]:
        """Return the content keys of all images by their paths, in the order of these."""
        found = dict(zip(self.whole["path"], self.whole["sha256"], strict=True))
        found |= {image.path: image.sha256 for image, _ in self.tiled}
        return dict(sorted(found.items())) if self.tiled else found


def labellable(project: Project, store: EmbeddingStore) -> Labellable:
    """Return the images that can be labelled; an image lacking a tile is left out.

    Raises:
        MissingStepError: some images are not embedded, or `describe` has not looked at them.
    """
    listing = labelled_images(project)
    tiled = tiled_images(project)
    listing = listing.loc[listing["status"] == "ok", ["path", "sha256"]]
    if tiled:
        listing = listing[~listing["path"].isin({image.path for image in tiled})]
    index = store.index(refresh=True)
    merged = listing.merge(index[["sha256", "shard", "status"]], on="sha256", how="left")
    missing = merged["shard"].isna()
    if missing.any():
        raise _not_embedded(project, int(missing.sum()), merged.loc[missing, "path"].iloc[0])
    usable = with_blocks(project, store, merged.loc[merged["status"] == "ok", "sha256"])
    whole = merged[merged["sha256"].isin(usable)].sort_values("path", ignore_index=True)
    return Labellable(whole, _tiled(project, store, index, tiled) if tiled else [])


def _tiled(
    project: Project, store: EmbeddingStore, index: pd.DataFrame, images: list[TiledImage]
) -> list[tuple[TiledImage, list[str]]]:
    wanted = {key for image in images for key in image.keys}
    rows = index[index["sha256"].isin(wanted)]
    shards = dict(zip(rows["sha256"], rows["shard"], strict=True))
    usable = with_blocks(project, store, rows.loc[rows["status"] == "ok", "sha256"])
    found = []
    for image in images:
        missing = [key for key in image.keys if key not in shards]
        if missing:
            raise _not_embedded(project, len(missing), f"a tile of {image.path}")
        bad = sum(key not in usable for key in image.keys)
        if bad:
            # A hole would look like background.
            _log.warning("%s is left out: %d of its tiles have no embedding", image.path, bad)
            continue
        found.append((image, [shards[key] for key in image.keys]))
    return found


def _not_embedded(project: Project, count: int, example: str) -> MissingStepError:
    return MissingStepError(
        f"{count} images are not embedded yet, such as {example}; run "
        f"`usam embed {project.file}` first"
    )
