"""One class's pictures: got from the source, filtered, topped up, and kept for the manifest."""

from pathlib import Path
from typing import Any

import numpy as np

from usam_core.config.project import Project
from usam_core.config.schema import ClassSpec
from usam_core.errors import StoreError
from usam_core.files.atomic import only_one
from usam_core.files.digest import read_sealed, value_digest, write_sealed
from usam_core.lineage.document import portable
from usam_core.progress import Progress
from usam_core.sources.base import Collected, PictureSource, class_folder
from usam_core.sources.filters import filter_pictures, picture_looks
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import labelled_files

FOUND = "found"

_NO_HASHES = np.empty(0, np.uint64)


def looks_for_leaks(project: Project) -> bool:
    """Return whether training pictures are compared with the images to be labelled."""
    training = project.config.training
    return training.source in ("folder", "web") and training.filters.leak_bits is not None


def gather(
    project: Project,
    source: PictureSource,
    spec: ClassSpec,
    progress: Progress,
    *,
    refresh: bool = False,
) -> Collected:
    """Get and filter the pictures of a class, and remember them for the manifest.

    What the filters drop is made up for: the source is asked for as many more, until the class
    has what it wants, the source has no more, or twice the number was looked at.

    Args:
        project: the project.
        source: its source.
        spec: the class.
        progress: told how it goes on.
        refresh: drop what was made or fetched for the class before, and begin anew.
    """
    folder = step_folder(project, "collect")
    with only_one(folder / "locks" / class_folder(spec.name), f"the pictures of {spec.name!r}"):
        if refresh:
            source.forget(spec)
        found = _get(project, source, spec, progress)
        key = _key(project, source, spec)
        value = found.to_json()
        for picture in value["pictures"]:
            # Pictures below the project's folder move with it.
            picture["path"] = portable(Path(picture["path"]), project.root)
        write_sealed(_file(folder, spec), {"key": key, **value})
    return found


def gathered(project: Project, source: PictureSource, spec: ClassSpec) -> Collected | None:
    """Return what `gather` remembered of a class, if it still holds and its files are there."""
    folder = step_folder(project, "collect")
    try:
        value = read_sealed(_file(folder, spec))
        for picture in value["pictures"]:
            picture["path"] = str(project.picture(picture["path"], _file(folder, spec)))
        found = Collected.from_json(value)
    except (OSError, ValueError, KeyError, TypeError, StoreError):
        return None
    same = value["key"] == _key(project, source, spec)
    there = all(_has_size(picture.path, picture.bytes) for picture in found.pictures)
    return found if same and there else None


def forget_gathered(project: Project, spec: ClassSpec) -> None:
    """Forget what was remembered of a class; its pictures stay."""
    _file(step_folder(project, "collect"), spec).unlink(missing_ok=True)


def _get(project: Project, source: PictureSource, spec: ClassSpec, progress: Progress) -> Collected:
    found = source.collect(spec, progress)
    if not source.filtered:
        return found
    hashes = _labelled_hashes(project, progress)
    looked_at, spare = -1, 0
    while True:
        count = len(found.pictures)
        kept = _filter(project, found, hashes, progress)
        short = 0 if source.wanted is None else source.wanted - len(kept.pictures)
        if short <= 0 or count <= looked_at or spare >= (source.wanted or 0):
            break
        looked_at, spare = count, min(spare + short, source.wanted or 0)
        found = source.collect(spec, progress, spare)
    kept.pictures = kept.pictures[: source.wanted]
    return kept


def _filter(
    project: Project, found: Collected, hashes: np.ndarray, progress: Progress
) -> Collected:
    config = project.config
    looks = picture_looks(
        {picture.sha256: picture.path for picture in found.pictures},
        config.images,
        step_folder(project, "collect") / "looks.parquet",
        progress,
        features=config.training.filters.outlier_deviations is not None,
    ).set_index("sha256", drop=False)
    rows = looks.loc[[picture.sha256 for picture in found.pictures]].reset_index(drop=True)
    kept, dropped = filter_pictures(found.pictures, rows, config.training.filters, hashes)
    return Collected(kept, [*found.rejected, *dropped], found.notes, found.complete)


def _labelled_hashes(project: Project, progress: Progress) -> np.ndarray:
    if not looks_for_leaks(project):
        return _NO_HASHES
    cache = step_folder(project, "collect") / "labelled_looks.parquet"
    files = labelled_files(project, progress)
    looks = picture_looks(files, project.config.images, cache, progress, features=False)
    return looks.loc[looks["code"] == "", "phash"].to_numpy(np.uint64)


def _key(project: Project, source: PictureSource, spec: ClassSpec) -> str:
    filters = project.config.training.filters if source.filtered else None
    parts: list[Any] = [source.name, source.inputs(spec)]
    parts.append(filters and filters.model_dump(mode="json"))
    parts.append(sorted(labelled_files(project)) if looks_for_leaks(project) else None)
    return value_digest(parts)


def _file(folder: Path, spec: ClassSpec) -> Path:
    return folder / FOUND / f"{class_folder(spec.name)}.json"


def _has_size(path: str, size: int) -> bool:
    try:
        return Path(path).stat().st_size == size
    except OSError:
        return False
