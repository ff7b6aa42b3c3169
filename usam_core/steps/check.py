"""Is everything whole that a project's results stand on? Every byte is read again.

A step's folder is looked at under the step's own lock, so that no run writes there meanwhile; the
store's shards are never changed, only put there and dropped whole.
"""

import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from usam_core.config.project import Project
from usam_core.config.schema import CLASSES, PARENTS
from usam_core.errors import MissingStepError, StoreError
from usam_core.files.atomic import only_one
from usam_core.lineage.document import LINEAGE
from usam_core.progress import SILENT, Progress
from usam_core.steps.check_steps import StepCheck
from usam_core.steps.damage import Checked, Walk, first_bits
from usam_core.steps.folders import step_folder
from usam_core.steps.record import RECORD
from usam_core.store.layout import (
    CACHE_FILE,
    CHECKED_FILE,
    FEATURES,
    GROUP_FILE,
    SHARDS,
    make_store,
    read_group,
    remove_folder,
)
from usam_core.store.store import EmbeddingStore


def check_project(
    project: Project, *, repair: bool = False, progress: Progress = SILENT
) -> Checked:
    """Read everything that a project's results stand on, at all class levels.

    Args:
        project: the project.
        repair: drop what is damaged and can be made again. Decisions, images and exported files
            that a person has changed are never touched.
        progress: told of files and shards.

    Raises:
        MissingStepError: no step has run.
    """
    begun = time.monotonic()
    steps = [(level, step) for level in _levels(project) for step in _steps(level)]
    folders = [step_folder(level, step) for level, step in steps]
    if not any((folder / name).exists() for folder in folders for name in (RECORD, LINEAGE)):
        raise MissingStepError(
            f"{project.out}: nothing to check, no step has run yet; run `usam run {project.file}` "
            "first"
        )
    walk = Walk(project.root, repair, progress, Checked(repaired=repair))
    for (level, step), folder in zip(steps, folders, strict=True):
        with _locked(folder):
            StepCheck(walk, level, step).look()
    for path, spec in walk.stores.items():
        check_store(walk, path, spec)
    walk.found.seconds = time.monotonic() - begun
    return walk.found


def _levels(project: Project) -> Iterator[Project]:
    """Yield the project at each class level that has results."""
    names = [CLASSES]
    names += [PARENTS] if (project.out / PARENTS).is_dir() else []
    names += sorted(path.name for path in (project.out / "levels").glob("*") if path.is_dir())
    for name in names:
        yield replace(project, config=project.config.model_copy(update={"level": name}))


def _steps(project: Project) -> list[str]:
    from usam_core.steps import STEPS  # which imports this package's steps

    if project.config.level == CLASSES:
        return [*STEPS, "gate", "review"]
    return [step for step in (*STEPS, "gate") if step_folder(project, step).parent != project.out]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with ExitStack() as held:
        # A review holds its lock for hours, and only adds lines.
        if folder.is_dir() and folder.name != "review":
            with suppress(StoreError):  # nobody writes on a disk that cannot be written to
                held.enter_context(only_one(folder / ".lock", str(folder)))
        yield


def check_store(
    walk: Walk,
    path: Path,
    spec: dict[str, Any],
    images: set[str] | None = None,
    *,
    deep: bool = True,
) -> list[str]:
    """Check a store and its shards, and that it has all images that results stand on.

    Args:
        walk: knows these images.
        path: the store's folder.
        spec: of its embeddings.
        images: look at the shards of these alone.
        deep: see `EmbeddingStore.verify`.

    Returns:
        The shards that were looked at.
    """
    shards = path / SHARDS
    if not shards.is_dir():
        walk.tell(path, "missing", "embed", "run")
        return []
    make = partial(make_store, path.parent, spec)
    for folder, remade in ((path, "run"), (shards, "repair")):
        try:
            read_group(folder)
        except StoreError as error:
            walk.tell(folder / GROUP_FILE, str(error), "embed", remade, make)
    for file in (path / CACHE_FILE, path / CHECKED_FILE):
        if file.is_dir():
            walk.tell(file, "a folder, not a file", "embed", "repair", partial(remove_folder, file))
    store = EmbeddingStore(path, spec)
    sound = [one.step != "embed" for one in walk.found.damages]
    names, needed = store.shards(), walk.images
    if images is not None:
        index, needed = store.index(), first_bits(images)
        names = sorted(index.loc[index["sha256"].isin(images), "shard"].unique())
    for bad in store.verify(only=names, deep=deep, progress=walk.progress):
        if bad.block:
            folder = shards / bad.shard / FEATURES / bad.block
            mend = partial(store.drop_damaged_block, bad.shard, bad.block)
            walk.tell(folder, bad.reason, "describe", "run", mend)
        else:
            drop = partial(store.drop_shard, bad.shard)
            walk.tell(shards / bad.shard, bad.reason, "embed", "run", drop)
            sound.append(False)
    held = array("Q")
    for name in names:
        for file in (shards / name).rglob("*"):
            if file.is_file():
                walk.count(file)
        held.extend(first_bits(store.images_of(name)))
    missing = np.setdiff1d(np.array(needed, np.uint64), np.array(held, np.uint64))
    if len(missing) and all(sound):
        what = f"{len(missing)} images of the results are not in it, such as {missing[0]:016x}..."
        walk.tell(path, what, "embed", "run")
    return names
