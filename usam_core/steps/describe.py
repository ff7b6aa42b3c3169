"""The step describe: a vector a mask, by encoders from `transformers`, beside SAM's embeddings.

It lies between compose and fit. SAM is not run: masks come from the store, pixels are read again.
Every shard's blocks are kept as soon as they are made.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from usam_core.config.project import Project
from usam_core.errors import StoreError, UserError
from usam_core.features.regions import RegionEncoder
from usam_core.files.atomic import only_one
from usam_core.files.digest import values_digest
from usam_core.images.read import UnusableImage, read_image
from usam_core.parallel.workers import Piece, run_pieces
from usam_core.progress import SILENT, Progress
from usam_core.steps import embed
from usam_core.steps.base import Input, Inputs, StepResult, listed_once, step_folder
from usam_core.steps.blocks import all_lacking, block_encoder, block_specs
from usam_core.steps.collect import pictures_input
from usam_core.steps.compose import scene_files, scenes_input
from usam_core.steps.images_to_label import images_input
from usam_core.steps.read_settings import how_to_read
from usam_core.steps.record import intact_record
from usam_core.store.reader import block_id
from usam_core.store.store import DamagedShard, EmbeddingStore
from usam_core.types import MaskSet

CALCULATIONS = (
    "usam_core.features.encoder",
    "usam_core.images.read",
)
"""Modules that decide the step's results."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardWork:
    """What of one shard is to be described.

    Attributes:
        shard: the shard's id.
        blocks: what identifies each block that some of the images lack, by the block's name.
        files: a path for the digest of each of these images.
    """

    shard: str
    blocks: dict[str, dict[str, Any]]
    files: dict[str, str]


def inputs(project: Project) -> Inputs:
    """What the record depends on: the encoders, SAM, and all images' contents."""
    specs = block_specs(project)
    if not specs:
        return {"blocks": {}}
    return {
        "blocks": Input(specs, lambda: {"ids": _ids(specs), "specs": specs}),
        **embed.embedding_inputs(project),
        # Pictures and scenes are among these.
        "images": images_input(project, values_digest(sorted(described_files(project)))),
        "pictures": pictures_input(project, None),
        "scenes": scenes_input(None),
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Describe the embedded images that lack a block of `features:`.

    An image that cannot be read any more is left out, with its reason: the head neither learns
    from it nor labels it, until a later run can read it. One that has changed is another image,
    which `embed` takes up.
    """
    specs = block_specs(project)
    if not specs:
        return _nothing_to_do(project, key)
    config = project.config
    pieces = []
    for work in plan(project, specs, progress):
        name = f"describing {len(work.files)} images from {next(iter(work.files.values()))} on"
        pieces.append(Piece(name, len(work.files), (project, work)))
    done = run_pieces(
        describe_shard, pieces, "Describing", config.compute, config.sam.device, progress
    )
    described = sum(count for count, _ in done)
    reasons = {bad["sha256"]: bad for _, unread in done for bad in unread}
    store = embed.open_store(project)
    index = store.index(refresh=True)
    with listed_once():
        wanted = described_files(project)
    # Images that went or changed meanwhile are not counted.
    embedded = index.loc[index["sha256"].isin(wanted) & (index["status"] == "ok"), "sha256"]
    left = all_lacking(store, _ids(specs).values(), embedded)
    # What was embedded since the plan is the next run's work.
    left_out = [reasons[sha256] for sha256 in sorted(left & reasons.keys())]
    for bad in left_out:
        _log.warning("left out %s: %s", bad["path"], bad["reason"])
    summary = {
        "blocks": _ids(specs),
        "images": len(embedded),
        "described": described,
        "reused": max(len(embedded) - described - len(left_out), 0),
        "left_out": left_out,
    }
    return StepResult("describe", key, False, str(store.path), summary)


def _nothing_to_do(project: Project, key: str) -> StepResult:
    """Result for a project without `features:`; it is not recorded."""
    summary = {"blocks": {}, "images": 0, "described": 0, "reused": 0, "left_out": []}
    return StepResult("describe", key, True, str(step_folder(project, "describe")), summary)


def intact(project: Project, key: str) -> StepResult | None:
    """The record if its key holds and every embedded image still has every block."""
    specs = block_specs(project)
    if not specs:
        return _nothing_to_do(project, key)
    record = intact_record(step_folder(project, "describe"), key)
    if record is None:
        return None
    try:
        store = embed.open_store(project)
    except UserError:
        return None
    ids = list(_ids(specs).values())
    if store.lacking(ids, described_files(project)) or _damaged(store, ids):
        return None
    summary = {**record.summary, "described": 0, "reused": record.summary["images"]}
    return replace(record, path=str(store.path), summary=summary)


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    if not s["blocks"]:
        return "no further features asked for"
    text = f"{s['described']} images described by {', '.join(s['blocks'])}, {s['reused']} reused"
    return f"{text}, {len(s['left_out'])} could not be read" if s["left_out"] else text


def described_files(project: Project, progress: Progress = SILENT) -> dict[str, str]:
    """Map the digest of every image that needs describing to a path: composed scenes come too."""
    return {**embed.wanted_files(project, progress), **scene_files(project)}


def plan(project: Project, specs: dict[str, dict[str, Any]], progress: Progress) -> list[ShardWork]:
    """What is missing, by shard; damaged blocks are dropped, and so are missing.

    Args:
        specs: what identifies each block, by name.
    """
    store = embed.open_store(project)
    wanted = described_files(project, progress)
    names = {id_: name for name, id_ in _ids(specs).items()}
    for damaged in _damaged(store, names):
        _log.warning("%s; the block is made again", damaged.reason)
        with _only_one(store, damaged.shard):
            store.drop_damaged_block(damaged.shard, damaged.block)
    work = []
    for shard, lacking in store.lacking(names, wanted).items():
        blocks = {names[block]: specs[names[block]] for block in lacking}
        shas = dict.fromkeys(sha256 for part in lacking.values() for sha256 in part)
        work.append(ShardWork(shard, blocks, {sha256: wanted[sha256] for sha256 in shas}))
    return work


def describe_shard(
    project: Project, work: ShardWork, progress: Progress
) -> tuple[int, list[dict[str, str]]]:
    """Describe images of one shard by all the encoders they lack, and keep the blocks.

    What another run has described meanwhile is not done again.

    Returns:
        How many images got a block, and those that cannot be read: `sha256`, `path`, `code`,
        `reason`.
    """
    store = embed.open_store(project)
    names = {id_: name for name, id_ in _ids(work.blocks).items()}
    with _only_one(store, work.shard):
        lacking = store.lacking(names, work.files).get(work.shard, {})
        if not lacking:
            return 0, []
        missing = {names[block]: set(shas) for block, shas in lacking.items()}
        encoders = {name: _encoder(project, name, work.blocks[name]) for name in missing}
        vectors: dict[str, dict[str, np.ndarray]] = {name: {} for name in missing}
        unread = []
        images = set().union(*missing.values())
        at_once = max(encoder.batch_size for encoder in encoders.values())
        stored = store.read_shard(work.shard, images, blocks=(), tokens=False)
        with progress.bar("Describing", len(images)) as bar:
            while some := list(islice(stored, at_once)):
                pixels, bad = _read(project, work, [sha256 for sha256, _ in some])
                unread += bad
                for name, encoder in encoders.items():
                    batch = [
                        (sha256, pixels[sha256], masks)
                        for sha256, masks in some
                        if sha256 in pixels and sha256 in missing[name]
                    ]
                    vectors[name].update(_described(encoder, batch))
                bar.advance(len(some))
        for name, rows in vectors.items():
            if rows:
                store.add_block(work.shard, work.blocks[name], rows)
    return len(images) - len(unread), unread


def _ids(specs: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: block_id(spec) for name, spec in specs.items()}


def _damaged(store: EmbeddingStore, blocks: Collection[str]) -> list[DamagedShard]:
    """The damaged ones of these blocks; bytes are read of shards that changed."""
    return [damaged for damaged in store.verify(deep=False) if damaged.block in blocks]


def _only_one(store: EmbeddingStore, shard: str) -> AbstractContextManager[None]:
    return only_one(store.path / embed.LOCKS / f"describe-{shard}", f"shard {shard}")


def _encoder(project: Project, name: str, spec: dict[str, Any]) -> RegionEncoder:
    encoder = block_encoder(project, name)
    if encoder.spec != spec:
        raise StoreError(
            f"features.{name}: {project.config.features[name].model} changed while it was used; "
            "run again"
        )
    return encoder


def _read(
    project: Project, work: ShardWork, shas: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """Pixels of images by digest, and those that cannot be read."""
    how = how_to_read(project)
    pixels, bad = {}, []
    for sha256 in shas:
        path = work.files[sha256]
        try:
            pixels[sha256] = read_image(path, sha256=sha256, **how).rgb
        except UnusableImage as error:
            why = {"code": error.quarantined.code, "reason": error.quarantined.reason}
            bad.append({"sha256": sha256, "path": path, **why})
    return pixels, bad


def _described(
    encoder: RegionEncoder, batch: Sequence[tuple[str, np.ndarray, MaskSet]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each image's vectors; the encoder's batches shrink when its device is full."""
    done = 0
    while done < len(batch):
        shas, pixels, masks = zip(*batch[done : done + encoder.batch_size], strict=True)
        try:
            vectors = encoder.describe(pixels, masks)
        except torch.OutOfMemoryError:
            if encoder.batch_size == 1:
                raise
            encoder.batch_size = (encoder.batch_size + 1) // 2
            _log.warning("out of memory on the device: describing %d at a time", encoder.batch_size)
            torch.cuda.empty_cache()
            continue
        yield from zip(shas, vectors, strict=True)
        done += len(shas)
