"""Embed: SAM's automatic mode once on every new image, saved shard by shard."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import MissingStepError, StoreError, UserError
from usam_core.files.code import code_digest
from usam_core.files.digest import values_digest
from usam_core.images.read import DecodedImage, read_image
from usam_core.lineage.document import portable
from usam_core.parallel.workers import InProcess, Piece, open_workers, run_pieces
from usam_core.progress import SILENT, Progress
from usam_core.sam.load import encoder_spec, open_embedder
from usam_core.sam.pipeline import embed_shards
from usam_core.steps.all_images import wanted_files
from usam_core.steps.base import Input, Inputs, StepResult
from usam_core.steps.collect import pictures_input
from usam_core.steps.embed_notes import (
    notes_on_endings,
    notes_on_kept,
    notes_on_shown,
    notes_on_tiles,
    shown_modes,
)
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import (
    images_input,
    labelled_files,
    labelled_images,
)
from usam_core.steps.once import listed_once, once
from usam_core.steps.read_settings import reading, reading_spec, settle_windows, windows_file
from usam_core.steps.record import intact_record
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


def spec(project: Project) -> dict[str, Any]:
    """What identifies the embeddings: the encoder and how images are read for it.

    Raises:
        MissingStepError: the windows of `images.window: store` are not known yet.
    """
    config = project.config
    encoder = encoder_spec(config.sam, project.checkpoint)
    said = {**encoder, **reading_spec(config.images, step_folder(project, "embed"))}
    precision = config.outputs.precision
    return said if precision == "float16" else {**said, PRECISION: precision}


def how_to_read(project: Project) -> dict[str, Any]:
    """See `read_settings.reading`."""
    return reading(project.config.images, step_folder(project, "embed"))


def store_folder(project: Project) -> Path:
    """Return the folder of this encoder's store, there or not."""
    return project.store_root / folder_name(spec(project))


def open_store(project: Project, *, create: bool = False) -> EmbeddingStore:
    """Open the project's store of embeddings.

    Raises:
        MissingStepError: it is not there and `create` is off.
    """
    if create:
        _settle_windows(project)
        return EmbeddingStore.create_or_open(project.store_root, spec(project))
    try:
        return EmbeddingStore.find(project.store_root, spec(project))
    except FileNotFoundError:
        raise MissingStepError(
            f"{project.store_root}: no embeddings of this SAM yet; run `usam embed {project.file}` "
            "first"
        ) from None


def inputs(project: Project) -> Inputs:
    """What the record depends on: the encoder, all images' contents, and the bad files."""
    with listed_once():
        _settle_windows(project)
        listing = labelled_images(project)
        bad = listing.loc[listing["status"] != "ok", ["path", "code"]]
        return {
            **embedding_inputs(project),
            "images": images_input(project, values_digest(sorted(wanted_files(project)))),
            "pictures": pictures_input(project, None),  # they are among the wanted files
            "bad": bad.to_dict("records"),
        }


def embedding_inputs(project: Project) -> Inputs:
    """The store and the checkpoint that made it, as inputs of a step."""
    said, folder, local = spec(project), store_folder(project), project.checkpoint
    store = {"path": portable(folder, project.root), "spec": said}
    checkpoint = {
        "model": said["model"],
        "sha256": said["checkpoint_sha256"],
        "path": portable(local, project.root) if local else None,
    }
    return {
        "store": Input(said, lambda: store, "embed"),
        "checkpoint": Input(said["checkpoint_sha256"], lambda: checkpoint, weights=True),
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
    windows_file(project.config.images, step_folder(project, "embed")).unlink(missing_ok=True)
    return len(held)


def plan(project: Project, progress: Progress = SILENT) -> list[dict[str, str]]:
    """Compare the images with the store; what is missing, in groups that become one shard each.

    Returns:
        A path for each digest, of each group.
    """
    store = open_store(project, create=True)
    wanted = wanted_files(project, progress)
    for damaged in _damaged(store):
        _log.warning("%s: %s; its images are embedded again", damaged.shard, damaged.reason)
        store.drop_shard(damaged.shard)
    planned = store.plan(wanted, project.config.outputs.shard_size)
    return [{sha256: wanted[sha256] for sha256 in group} for group in planned]


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


def _embed_some(
    project: Project, groups: list[dict[str, str]], progress: Progress
) -> list[dict[str, int]]:
    """Embed groups in this process.

    An image that cannot be read is quarantined with its reason; the others go on. Images that
    another run committed meanwhile are not done again.
    """
    shards = [GroupShard(_store_to_write(project), group) for group in groups]
    left = sum(len(shard.files) for shard in shards)
    if not left:
        return [{"embedded": 0, "quarantined": 0} for _ in groups]
    embedder = open_embedder(project.config.sam, project.checkpoint)
    read = functools.partial(_read, how_to_read(project))
    with progress.bar("Embedding", left) as bar:
        return embed_shards(embedder, shards, read, bar.advance)


@contextmanager
def workers(project: Project, groups: int) -> Iterator[int]:
    """Keep one set of workers for several calls of `embed_groups`; yield how many there are."""
    config = project.config
    with open_workers(config.compute, config.sam.device, groups) as opened:
        yield opened.count


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


def facts(_: Project, result: StepResult) -> dict[str, Any]:
    """How the images were shown, for the lineage."""
    return {"shown": result.summary["shown"]}


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    return (
        f"{summary['embedded']} images embedded, {summary['reused']} reused from the store, "
        f"{len(summary['quarantined'])} quarantined"
    )


def _settle_windows(project: Project) -> None:
    settle_windows(
        project.config.images,
        step_folder(project, "embed"),
        project.root,
        project.config.seed,
        labelled_files(project),
    )


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
