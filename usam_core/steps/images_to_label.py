"""The images to be labelled, by content."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from usam_core.config.project import Project
from usam_core.errors import InputError
from usam_core.files.digest import listed_digest
from usam_core.files.fsspec_io import is_url, join
from usam_core.images.listing.lists import read_names
from usam_core.images.listing.row import large_size
from usam_core.images.listing.scan import list_images, list_names
from usam_core.images.listing.walk import Globs
from usam_core.images.ref import ImageRef, Tile, tile_digest, tiles_of
from usam_core.lineage.document import portable
from usam_core.progress import SILENT, Progress
from usam_core.steps.base import Input, once, step_folder

_AT_ONCE = 10_000
"""Images whose names are Python objects at a time: of millions, they would fill the memory."""


@dataclass(frozen=True, slots=True)
class TiledImage:
    """An image that is embedded and labelled tile by tile.

    Attributes:
        path: as it is listed.
        sha256: its content key.
        size_hw: its rows and columns.
        tiles: row by row.
        keys: the content key of each tile.
    """

    path: str
    sha256: str
    size_hw: tuple[int, int]
    tiles: list[Tile]
    keys: list[str]


def labelled_images(project: Project, progress: Progress = SILENT) -> pd.DataFrame:
    """The listing of the images to be labelled (columns as `list_images`).

    Digests of unchanged files are cached, so that a second listing reads no file. The project's
    own results, training pictures and truth are left out where they lie among the images. Where a
    file names the images, exactly those are listed.

    Raises:
        InputError: there is no file with one of the endings.
    """
    return once("listing", _name(project), lambda: _list(project, progress))


def listed_pairs(project: Project) -> Iterator[tuple[str, str]]:
    """Yield path and digest of every listed image in order; "" where there is no digest."""
    listing = labelled_images(project)
    for start in range(0, len(listing), _AT_ONCE):
        part = listing.iloc[start : start + _AT_ONCE]
        yield from zip(part["path"].tolist(), part["sha256"].fillna("").tolist(), strict=True)


def images_input(project: Project, identity: Any) -> Input:
    """The images to be labelled as an input of a step; `identity` is what of them decides."""

    def lineage() -> dict[str, Any]:
        root = project.images.root
        return {
            "path": root if is_url(root) else portable(project.images_path, project.root),
            "count": len(labelled_images(project)),
            "sha256": listed_digest(listed_pairs(project)),
        }

    return Input(identity, lineage)


def labelled_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the digest of every image to be labelled that looks usable to one path that holds it."""

    def files() -> dict[str, str]:
        listing = labelled_images(project, progress)
        usable = listing[listing["status"] == "ok"].drop_duplicates("sha256")
        root = project.images.root
        paths = (join(root, path) for path in usable["path"].tolist())
        return dict(zip(usable["sha256"].tolist(), paths, strict=True))

    return once("files", _name(project), files)


def tiled_images(project: Project, progress: Progress = SILENT) -> list[TiledImage]:
    """The usable images that are cut into tiles, as often as they are listed."""
    config = project.config.images

    def tiled(side: int) -> Iterator[TiledImage]:
        listing = labelled_images(project, progress)
        for row in listing[(listing["status"] == "ok") & (listing["planes"] != "")].itertuples():
            size_hw = large_size(row.planes)
            tiles = tiles_of(size_hw, side, config.overlap)
            keys = [tile_digest(row.sha256, tile.box) for tile in tiles]
            yield TiledImage(row.path, row.sha256, size_hw, tiles, keys)

    side = config.tile
    return [] if side is None else once("tiled", _name(project), lambda: list(tiled(side)))


def embedded_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the digest of each image, or tile of one, that is embedded to its address."""
    large = {image.sha256: image for image in tiled_images(project, progress)}
    files: dict[str, str] = {}
    for sha256, path in labelled_files(project, progress).items():
        if sha256 not in large:
            files[sha256] = path
            continue
        image, ref = large[sha256], ImageRef.parse(path)
        for key, tile in zip(image.keys, image.tiles, strict=True):
            files[key] = str(ImageRef(ref.file, ref.plane, tile.box))
    return files


def _list(project: Project, progress: Progress) -> pd.DataFrame:
    config, place = project.config.images, project.images
    cache = step_folder(project, "embed") / "images.parquet"
    globs = Globs(config.include, config.exclude)
    if place.names is not None:
        names = [n for n in read_names(place, config.extensions) if globs.wants(n)]
        listing = list_names(config, place.root, names, cache, progress)
    else:
        own = [project.out, project.store_root, project.training_path, project.truth_path]
        own.append(project.objects_path)
        skipped = [path for path in own if path is not None]
        listing = list_images(config, place.root, cache, progress, skipped, globs)
    if listing.empty:
        raise InputError(
            f"{place.names or place.root}: no images; expected files ending in "
            f"{', '.join(config.extensions)}{'' if config.recursive else ' in the folder itself'}"
            f"{' that include and exclude let pass' if config.include or config.exclude else ''}. "
            "Correct images.path, images.extensions or the patterns"
        )
    return listing


def _name(project: Project) -> str:
    return project.config.model_dump_json() + str(project.file)
