"""The images to be labelled, by content."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import pandas as pd

from usam_core.errors import InputError
from usam_core.image_list import read_image_list
from usam_core.listing import list_files, list_images
from usam_core.progress import SILENT, Progress
from usam_core.project import Project
from usam_core.stages.folders import step_folder

_T = TypeVar("_T")

_found: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("found", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within the block, each folder is listed once, however often it is asked for.

    A whole run is such a block: images that come while it works are the next run's, and none of
    its steps misses what an earlier one did not see. An inner block belongs to the outer one.
    """
    token = _found.set({}) if _found.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _found.reset(token)


def once(what: str, of: str, make: Callable[[], _T]) -> _T:
    """Return what `make` gives, within `listed_once` what it gave the first time.

    Args:
        what: what is made.
        of: what of, such as a folder.
        make: makes it; what it returns is shared and must not be changed.
    """
    found = _found.get()
    if found is None:
        return make()
    if (what, of) not in found:
        found[what, of] = make()
    return found[what, of]


def labelled_images(project: Project, progress: Progress = SILENT) -> pd.DataFrame:
    """Return the listing of the images to be labelled (columns as `list_images`).

    Digests of unchanged files are remembered, so that a second listing reads no file. The
    project's own results, training pictures and truth are left out where they lie among them. With
    `images.files`, exactly the images named there are listed.

    Raises:
        InputError: there is no file with one of the endings.
    """
    return once("listing", _name(project), lambda: _list(project, progress))


def labelled_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the digest of every image to be labelled that looks usable to one path that holds it."""
    return once("files", _name(project), lambda: _files(project, progress))


def _list(project: Project, progress: Progress) -> pd.DataFrame:
    config = project.config.images
    cache = step_folder(project, "embed") / "images.parquet"
    if project.image_list is not None:
        names = read_image_list(project.image_list)
        root = str(project.images_path)
        listing = list_files(config, [(n, os.path.join(root, n)) for n in names], cache, progress)
    else:
        own = [project.out, project.store_root, project.training_path, project.truth_path]
        own = [path for path in own if path is not None]
        listing = list_images(config, project.images_path, cache, progress, own)
    if listing.empty:
        raise InputError(
            f"{project.images_path}: no images; expected files ending in "
            f"{', '.join(config.extensions)}{'' if config.recursive else ' in the folder itself'}. "
            "Correct images.path or images.extensions"
        )
    return listing


def _files(project: Project, progress: Progress) -> dict[str, str]:
    listing = labelled_images(project, progress)
    usable = listing[listing["status"] == "ok"].drop_duplicates("sha256")
    root = str(project.images_path)
    paths = (os.path.join(root, path) for path in usable["path"].tolist())
    return dict(zip(usable["sha256"].tolist(), paths, strict=True))


def _name(project: Project) -> str:
    return project.config.model_dump_json() + str(project.file)
