"""Embed: SAM's automatic mode once on every new image, saved shard by shard."""

import functools
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.config.recipes import poor_features
from usam_core.errors import MissingStepError, StoreError, UserError
from usam_core.files.atomic import only_one
from usam_core.files.code import code_digest
from usam_core.files.digest import value_digest, values_digest
from usam_core.images.read import DecodedImage, read_image
from usam_core.lineage.document import portable
from usam_core.parallel.workers import InProcess, Piece, open_workers, run_pieces
from usam_core.progress import SILENT, Progress
from usam_core.sam.load import encoder_spec, open_embedder
from usam_core.sam.pipeline import Shard, embed_shards
from usam_core.steps.base import Input, Inputs, StepResult, listed_once, once, step_folder
from usam_core.steps.collect import pictures_input, read_manifest
from usam_core.steps.embed_notes import embed_notes, shown_modes
from usam_core.steps.images_to_label import (
    embedded_files,
    images_input,
    labelled_images,
)
from usam_core.steps.read_settings import (
    how_to_read,
    reading_spec,
    settle_windows,
    windows_file,
)
from usam_core.steps.record import intact_record
from usam_core.store.index import Arrivals
from usam_core.store.layout import PRECISION, folder_name
from usam_core.store.store import DamagedShard, EmbeddingStore, ShardRecord
from usam_core.types import ImageFile

CALCULATIONS = (
    "usam_core.images.read",
    "usam_core.sam.embedder",
    "usam_core.sam.load",
)
"""Modules that decide the step's results."""
LOCKS = "locks"
"""Folder of the store for locks of groups and shards."""
_GROUPS_PER_PIPELINE = 32
"""Between pipelines the device waits for a shard to be written."""
_log = logging.getLogger(__name__)


def wanted_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the content digest of every image, or tile of one, that needs embedding to its address.

    Training pictures come first: when a run is cut short, a head can be fitted already.
    """
    manifest = read_manifest(project)
    wanted = dict(zip(manifest["sha256"], manifest["path"], strict=True))
    for sha256, path in embedded_files(project, progress).items():
        wanted.setdefault(sha256, path)
    return wanted


def spec(project: Project) -> dict[str, Any]:
    """What identifies the embeddings: the encoder and how images are read for it.

    Raises:
        MissingStepError: the windows of `images.window: store` are not known yet.
    """
    config, precision = project.config, project.config.outputs.precision
    encoder = encoder_spec(config.sam, project.checkpoint)
    return {
        **encoder,
        **reading_spec(project),
        **({} if precision == "float16" else {PRECISION: precision}),
    }


def store_folder(project: Project) -> Path:
    """Folder of this encoder's store, there or not."""
    return project.store_root / folder_name(spec(project))


def open_store(project: Project, *, create: bool = False) -> EmbeddingStore:
    """Open the project's store of embeddings.

    Raises:
        MissingStepError: it is not there and `create` is off.
    """
    if create:
        settle_windows(project)
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
        settle_windows(project)
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
    identity, local = spec(project), project.checkpoint
    path = portable(store_folder(project), project.root)
    checkpoint = {
        "model": identity["model"],
        "sha256": identity["checkpoint_sha256"],
        "path": portable(local, project.root) if local else None,
    }
    return {
        "store": Input(identity, lambda: {"path": path, "spec": identity}, "embed"),
        "checkpoint": Input(identity["checkpoint_sha256"], lambda: checkpoint, weights=True),
    }


def forget(project: Project) -> int:
    """Remove the shards that hold images of the project, so that they are embedded again.

    In a store that projects share, other projects' images of these shards go too; their next run
    embeds them again. The windows of `images.window: store` are computed again too, from today's
    images.

    Returns:
        How many shards were removed.
    """
    store = open_store(project, create=True)
    index = store.index(refresh=True)
    held = index.loc[index["sha256"].isin(wanted_files(project)), "shard"].unique()
    for shard in held:
        store.drop_shard(shard)
    windows_file(project).unlink(missing_ok=True)
    return len(held)


def plan(project: Project, progress: Progress = SILENT) -> list[dict[str, str]]:
    """Compare the images with the store; what is missing, in groups that become one shard each.

    Returns:
        A path for each digest, of each group.
    """
    warn_of_features(project)
    store = open_store(project, create=True)
    wanted = wanted_files(project, progress)
    for damaged in _damaged(store):
        _log.warning("%s: %s; its images are embedded again", damaged.shard, damaged.reason)
        store.drop_shard(damaged.shard)
    return group_files(project, store, wanted)


def warn_of_features(project: Project) -> None:
    """Warn if the head would look at a real SAM through its own eyes alone."""
    config = project.config
    head = config.head
    if text := poor_features(config.sam.model, head.features, head.text, config.recipe):
        _log.warning("%s: %s", project.file.name, text)


def group_files(
    project: Project, store: EmbeddingStore, files: dict[str, str]
) -> list[dict[str, str]]:
    """Those of the files, by digest, that the store lacks, in groups that become one shard each."""
    planned = store.plan(files, project.config.outputs.shard_size)
    return [{sha256: files[sha256] for sha256 in group} for group in planned]


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
        size = _GROUPS_PER_PIPELINE if isinstance(workers, InProcess) else 1
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
    shards = [_GroupShard(_store_to_write(project), group) for group in groups]
    left = sum(len(shard.files) for shard in shards)
    if not left:
        return [{"embedded": 0, "quarantined": 0} for _ in groups]
    embedder, how = open_embedder(project.config.sam, project.checkpoint), how_to_read(project)

    def read(file: ImageFile) -> DecodedImage:
        return read_image(file.path, sha256=file.sha256, **how)

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
    for bad in quarantine:
        _log.warning("quarantined %s: %s", bad["path"], bad["reason"])
    kept, shown = len(wanted) - embedded, shown_modes(rows)
    summary = {
        "images": len(wanted),
        "embedded": embedded,
        "reused": kept,
        "quarantined": quarantine,
        "shown": shown,
        "notes": embed_notes(project, kept, code_digest(__name__, CALCULATIONS), shown),
    }
    return StepResult("embed", key, False, str(store.path), summary)


def intact(project: Project, key: str) -> StepResult | None:
    """The record if its key holds and the store still has every image."""
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
    return replace(record, path=str(store.path), summary=summary)


def facts(_: Project, result: StepResult) -> dict[str, Any]:
    """How the images were shown, for the lineage."""
    return {"shown": result.summary["shown"]}


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    return (
        f"{summary['embedded']} images embedded, {summary['reused']} reused from the store, "
        f"{len(summary['quarantined'])} quarantined"
    )


def _damaged(store: EmbeddingStore) -> list[DamagedShard]:
    """The damaged shards; within `listed_once` a whole store is looked through once.

    Blocks that were added to a shard are for `describe` to make again.
    """

    def damaged() -> list[DamagedShard]:
        return [shard for shard in store.verify(deep=False) if not shard.block]

    return [] if once("whole", str(store.path), lambda: not damaged()) else damaged()


def _store_to_write(project: Project) -> EmbeddingStore:
    try:
        return open_store(project)
    except MissingStepError:
        # Not always: it looks through all shards for what killed writers left.
        return open_store(project, create=True)


class _GroupShard(Shard[dict[str, int]]):
    """A group of images that becomes one shard: a lock, a last look, one commit.

    Args:
        store: nobody else's; the group is written on another thread than it is planned on.
        group: a path for each digest.
    """

    def __init__(self, store: EmbeddingStore, group: dict[str, str]) -> None:
        self._store, self._group = store, group
        self._lock = ExitStack()
        self.files = [ImageFile(group[sha256], sha256) for sha256 in self._missing()]

    def begin(self) -> set[str]:
        """Wait for other runs that do the same group; return what they have left."""
        path = self._store.path
        lock = path / LOCKS / value_digest(sorted(self._group))[:16]
        self._lock.enter_context(only_one(lock, f"{len(self._group)} images of {path}"))
        return set(self._missing())

    def commit(self, records: list[ShardRecord]) -> dict[str, int]:
        """Write the shard; counts by the keys `embedded` and `quarantined`."""
        if records:
            self._store.write_shard(records)
        embedded = sum(record.embedded for record in records)
        return {"embedded": embedded, "quarantined": len(records) - embedded}

    def close(self) -> None:
        """Let the next run have the group."""
        self._lock.close()

    def _missing(self) -> list[str]:
        """What is not stored; the whole index is read only if some of the group may be."""
        if not _arrivals(self._store.path).may_hold(self._group):
            return list(self._group)
        return [sha256 for part in self._store.plan(self._group) for sha256 in part]


@functools.lru_cache(maxsize=4)
def _arrivals(store: Path) -> Arrivals:
    return EmbeddingStore.open(store).arrivals()
