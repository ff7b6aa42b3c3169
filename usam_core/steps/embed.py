"""Embed: SAM's automatic mode once on every new image, saved shard by shard."""

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import MissingStepError, StoreError, UserError
from usam_core.files.code import code_digest
from usam_core.files.digest import values_digest
from usam_core.images.read import DecodedImage, read_image
from usam_core.parallel.workers import InProcess, Piece, open_workers, run_pieces
from usam_core.progress import SILENT, Progress
from usam_core.sam.load import encoder_spec, open_embedder
from usam_core.sam.pipeline import embed_shards
from usam_core.steps.all_images import wanted_files
from usam_core.steps.embed_notes import (
    notes_on_endings,
    notes_on_kept,
    notes_on_shown,
    notes_on_tiles,
    shown_modes,
)
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import labelled_images, listed_once, once
from usam_core.steps.read_settings import forget_windows, reading, reading_spec
from usam_core.steps.record import StepResult, intact_record
from usam_core.steps.shard_writer import GroupShard
from usam_core.store.layout import PRECISION, folder_name
from usam_core.store.store import DamagedShard, EmbeddingStore
from usam_core.types import ImageFile

CALCULATIONS = (
    "usam_core.images.read",
    "usam_core.sam.embedder",
    "usam_core.sam.load",
)
"""Modules that decide the step's results."""
_TOGETHER = 32
"""Groups that one pipeline does; between pipelines the device waits for a shard to be written."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """What is still to be embedded.

    Attributes:
        groups: the missing images, a path for each digest; each group becomes one shard.
        total: images wanted, training pictures included.
        stored: of these, how many the store already knows.
    """

    groups: list[dict[str, str]]
    total: int
    stored: int


def spec(project: Project) -> dict[str, Any]:
    """Return what identifies the embeddings: the encoder and how images are read for it."""
    said = {**encoder_spec(project.config.sam, project.checkpoint), **reading_spec(project)}
    precision = project.config.outputs.precision
    return said if precision == "float16" else {**said, PRECISION: precision}


def store_folder(project: Project) -> Path:
    """Return the folder of this encoder's store, there or not."""
    return project.store_root / folder_name(spec(project))


def open_store(project: Project, *, create: bool = False) -> EmbeddingStore:
    """Open the project's store of embeddings.

    Raises:
        MissingStepError: it is not there and `create` is off.
    """
    if create:
        return EmbeddingStore.create_or_open(project.store_root, spec(project))
    try:
        return EmbeddingStore.find(project.store_root, spec(project))
    except FileNotFoundError:
        raise MissingStepError(
            f"{project.store_root}: no embeddings of this SAM yet; run `usam embed {project.file}` "
            "first"
        ) from None


def inputs(project: Project) -> dict[str, Any]:
    """Return what the record depends on: the encoder, all images' contents, and the bad files."""
    with listed_once():
        listing = labelled_images(project)
        bad = listing.loc[listing["status"] != "ok", ["path", "code"]]
        return {
            "spec": spec(project),
            "images": values_digest(sorted(wanted_files(project))),
            "bad": bad.to_dict("records"),
        }


def forget(project: Project) -> int:
    """Remove the shards that hold images of the project, so that they are embedded again.

    In a store that projects share, other projects' images of these shards go too; their next run
    embeds them again.

    The windows of `images.window: store` are computed anew too, from the images of today.

    Returns:
        How many shards were removed.
    """
    store = open_store(project, create=True)
    index = store.index(refresh=True)
    held = index.loc[index["sha256"].isin(wanted_files(project)), "shard"].unique()
    for shard in held:
        store.drop_shard(shard)
    forget_windows(project)
    return len(held)


def plan(project: Project, progress: Progress = SILENT) -> EmbedPlan:
    """Compare the images with the store and say what is missing."""
    store = open_store(project, create=True)
    wanted = wanted_files(project, progress)
    for damaged in _damaged(store):
        _log.warning("%s: %s; its images are embedded again", damaged.shard, damaged.reason)
        store.drop_shard(damaged.shard)
    planned = store.plan(wanted, project.config.outputs.shard_size)
    groups = [{sha256: wanted[sha256] for sha256 in group} for group in planned]
    missing = sum(len(group) for group in groups)
    return EmbedPlan(groups, total=len(wanted), stored=len(wanted) - missing)


def embed_groups(
    project: Project, groups: list[dict[str, str]], progress: Progress = SILENT
) -> list[dict[str, int]]:
    """Embed groups of images where `compute` says, each of them one shard; counts for each.

    Raises:
        WorkerError: a worker process died again and again over one group.
    """
    config = project.config
    with open_workers(config.compute, config.sam.device, len(groups)) as workers:
        # In this process one shard is written while the next is embedded. A worker that dies
        # should lose but one.
        size = _TOGETHER if isinstance(workers, InProcess) else 1
        pieces = []
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            count = sum(map(len, some))
            name = f"embedding {count} images from {next(iter(some[0].values()))} on"
            pieces.append(Piece(name, count, (project, some)))
        counts = run_pieces(
            _embed_some, pieces, "Embedding", config.compute, config.sam.device, progress
        )
    return [count for piece in counts for count in piece]


def embed_group(
    project: Project, group: dict[str, str], progress: Progress = SILENT
) -> dict[str, int]:
    """Embed one group of images and commit it as one shard.

    An image that cannot be read is quarantined with its reason; the others go on. Images that
    another run committed meanwhile are not done again.

    Args:
        project: the project.
        group: a path for each digest, as `plan` gives them.
        progress: told of each image.

    Returns:
        Counts by the keys `embedded` and `quarantined`.
    """
    (counts,) = _embed_some(project, [group], progress)
    return counts


def _embed_some(
    project: Project, groups: list[dict[str, str]], progress: Progress
) -> list[dict[str, int]]:
    shards = [GroupShard(_store_to_write(project), group) for group in groups]
    left = sum(len(shard.files) for shard in shards)
    if not left:
        return [{"embedded": 0, "quarantined": 0} for _ in groups]
    embedder = open_embedder(project.config.sam, project.checkpoint)
    read = functools.partial(_read, reading(project))
    with progress.bar("Embedding", left) as bar:
        return embed_shards(embedder, shards, read, bar.advance)


def finish(project: Project, key: str, embedded: int) -> StepResult:
    """Check that every image is in the store, and say what became of all of them.

    Args:
        project: the project.
        key: the step's key.
        embedded: how many images this run embedded, for the summary.
    """
    store = open_store(project)
    index = store.index(refresh=True)
    store.verify(deep=False, fresh=True)
    with listed_once():
        wanted = wanted_files(project)
        listing = labelled_images(project)
    rows = index[index["sha256"].isin(wanted)]
    unread = listing[listing["status"] != "ok"][["path", "code", "reason"]]
    stored_bad = rows[rows["status"] != "ok"][["sha256", "code", "reason"]]
    quarantine = [
        {**row, "path": project.image_address(row["path"])} for row in unread.to_dict("records")
    ] + [
        {"path": wanted[row.sha256], "code": row.code, "reason": row.reason}
        for row in stored_bad.itertuples()
    ]
    code = code_digest(__name__, CALCULATIONS)
    shown = shown_modes(rows)
    for bad in quarantine:
        _log.warning("quarantined %s: %s", bad["path"], bad["reason"])
    return StepResult(
        step="embed",
        key=key,
        reused=False,
        path=str(store.path),
        summary={
            "images": len(wanted),
            "embedded": embedded,
            "reused": len(wanted) - embedded,
            "quarantined": quarantine,
            "shown": shown,
            "notes": notes_on_kept(project, len(wanted) - embedded, code)
            + notes_on_shown(shown)
            + notes_on_tiles(project)
            + notes_on_endings(project),
        },
    )


def intact(project: Project, key: str) -> StepResult | None:
    """Return the record if its key holds and the store still has every image."""
    record = intact_record(step_folder(project, "embed"), key)
    if record is None:
        return None
    try:
        store = open_store(project)
    except (UserError, StoreError):  # damaged metadata are written again
        return None
    store.index(refresh=True)
    if store.plan(wanted_files(project)) or _damaged(store):
        return None
    summary = {**record.summary, "embedded": 0, "reused": record.summary["images"]}
    return replace(record, summary=summary)


def _damaged(store: EmbeddingStore) -> list[DamagedShard]:
    """Return the damaged shards; within `listed_once` a whole store is looked through once.

    Blocks that were added to a shard are for `describe` to make again.
    """

    def damaged() -> list[DamagedShard]:
        return [found for found in store.verify(deep=False) if not found.block]

    return [] if once("whole", str(store.path), lambda: not damaged()) else damaged()


def _store_to_write(project: Project) -> EmbeddingStore:
    try:
        return open_store(project)
    except MissingStepError:
        # Not always: it looks through all shards for what killed writers left.
        return open_store(project, create=True)


def _read(how: dict[str, Any], file: ImageFile) -> DecodedImage:
    return read_image(file.path, sha256=file.sha256, **how)
