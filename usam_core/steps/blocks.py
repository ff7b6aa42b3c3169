"""The feature blocks of a project: what identifies each, and which images have them."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import InputError, MissingStepError, StoreError, TransientError
from usam_core.features.encoder import encoder_spec, open_encoder
from usam_core.features.model import is_commit
from usam_core.features.regions import RegionEncoder
from usam_core.files.hub import weights_digest
from usam_core.lineage.document import LINEAGE, read_document
from usam_core.steps.base import Input, Inputs
from usam_core.steps.folders import step_folder
from usam_core.steps.record import read_record
from usam_core.store.reader import block_id
from usam_core.store.store import EmbeddingStore

_log = logging.getLogger(__name__)


def block_specs(project: Project) -> dict[str, dict[str, Any]]:
    """Return what identifies each block of `features:`, by name; no weights are loaded."""
    return {name: _spec(project, name) for name in project.config.features}


def block_encoder(project: Project, name: str) -> RegionEncoder:
    """Return the encoder of a block of `features:`; a process loads each once."""
    config = project.config
    with _gone_folder_told(project, name):
        return open_encoder(config.features[name], config.sam.device, project.root)


def head_blocks(project: Project) -> dict[str, str]:
    """Return the ids of the blocks of `features:` that the head reads or names are compared with,
    by name."""
    config = project.config
    return {
        name: block_id(_spec(project, name))
        for name in config.row_blocks
        if name in config.features
    }


def text_spec(project: Project) -> dict[str, Any]:
    """Return what identifies the model whose texts are compared: family, weights, tokenizer."""
    config = project.config
    feature = config.features[config.text_block]
    spec = _spec(project, config.text_block)
    folder = project.root / feature.model
    # A hub's commit speaks of the tokenizer too; what names a folder's block leaves it out.
    weights = weights_digest(folder) if folder.is_dir() else spec["weights"]
    return {"family": spec["family"], "weights": weights}


def block_inputs(project: Project) -> Inputs:
    """What a step that reads the head's blocks depends on; nothing if there are none."""
    blocks = head_blocks(project)
    if not blocks:
        return {}
    said = Input(blocks, lambda: {"ids": blocks}, "describe")
    return {"blocks": said, "left_out": sorted(_left_out(project))}


def with_blocks(project: Project, store: EmbeddingStore, shas: Iterable[str]) -> set[str]:
    """Return those of the embedded images that have the blocks that the head reads.

    Images that `describe` had to leave out are left out here too.

    Raises:
        MissingStepError: `describe` has not looked at some of them.
    """
    shas = set(shas)
    blocks = head_blocks(project)
    lacking = _all_lacking(store, blocks.values(), shas) if blocks else set()
    unknown = lacking - _left_out(project)
    if unknown:
        raise MissingStepError(
            f"{len(unknown)} of {len(shas)} images lack the features {sorted(blocks)}; run "
            f"`usam describe {project.file}` first"
        )
    if lacking:
        _log.warning("%d images are left out: `usam describe` could not read them", len(lacking))
    return shas - lacking


def _spec(project: Project, name: str) -> dict[str, Any]:
    with _gone_folder_told(project, name):
        return encoder_spec(project.config.features[name], project.root)


@contextmanager
def _gone_folder_told(project: Project, name: str) -> Iterator[None]:
    """Speak of a folder, not of the hub, where `describe` read this model from a folder."""
    try:
        yield
    except TransientError as error:
        model = project.config.features[name].model
        if not _was_folder(project, model):
            raise
        raise InputError(
            f"features.{name}.model: got {model!r}, but there is no folder {project.root / model} "
            "any more, which `usam describe` read; put it back, or name another model"
        ) from error


def _was_folder(project: Project, model: str) -> bool:
    try:
        document = read_document(step_folder(project, "describe") / LINEAGE)
        models = {name: one["model"] for name, one in document["config"]["features"].items()}
        specs = document["inputs"]["blocks"]["specs"]
        of_model = [specs[name]["weights"] for name in specs if models.get(name) == model]
    except (StoreError, KeyError, TypeError, AttributeError):
        return False
    return any(not is_commit(weights) for weights in of_model)


def _all_lacking(store: EmbeddingStore, blocks: Iterable[str], shas: Iterable[str]) -> set[str]:
    found = store.lacking(blocks, shas)
    parts: list[Sequence[str]] = [part for by_block in found.values() for part in by_block.values()]
    return {sha256 for part in parts for sha256 in part}


def _left_out(project: Project) -> set[str]:
    record = read_record(step_folder(project, "describe"))
    return {one["sha256"] for one in record.summary["left_out"]} if record else set()
