"""The feature blocks of a project and the texts compared with one: identities, models, vectors."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from usam_core.config.base import NAME
from usam_core.config.project import Project
from usam_core.errors import InputError, MissingStepError, StoreError, TransientError
from usam_core.features.encoder import encoder_spec, open_encoder
from usam_core.features.model import is_commit
from usam_core.features.regions import RegionEncoder
from usam_core.features.text import TEMPLATES, open_text
from usam_core.files.digest import value_digest
from usam_core.files.hub import weights_digest
from usam_core.head.model import BaseHead, TextHead
from usam_core.lineage.document import LINEAGE, read_document
from usam_core.steps.base import Input, Inputs, step_folder
from usam_core.steps.record import summary_of
from usam_core.store.reader import block_id
from usam_core.store.store import EmbeddingStore

_log = logging.getLogger(__name__)


def block_specs(project: Project) -> dict[str, dict[str, Any]]:
    """What identifies each block of `features:`, by name; no weights are loaded."""
    return {name: _spec(project, name) for name in project.config.features}


def block_encoder(project: Project, name: str) -> RegionEncoder:
    """The encoder of a block of `features:`; a process loads each once."""
    config = project.config
    with _explained(project, name):
        return open_encoder(config.features[name], config.sam.device, project.root)


def head_blocks(project: Project) -> dict[str, str]:
    """Ids, by name, of the blocks of `features:` that the head or the text side reads."""
    config = project.config
    return {
        name: block_id(_spec(project, name))
        for name in config.row_blocks
        if name in config.features
    }


def block_inputs(project: Project) -> Inputs:
    """What a step that reads the head's blocks depends on; nothing if there are none."""
    ids = head_blocks(project)
    if not ids:
        return {}
    blocks = Input(ids, lambda: {"ids": ids}, "describe")
    return {"blocks": blocks, "left_out": sorted(_left_out(project))}


def with_blocks(project: Project, store: EmbeddingStore, shas: Iterable[str]) -> set[str]:
    """Those of the embedded images that have the blocks that the head reads.

    Images that `describe` had to leave out are left out here too.

    Raises:
        MissingStepError: `describe` has not processed some of them.
    """
    shas = set(shas)
    blocks = head_blocks(project)
    lacking = all_lacking(store, blocks.values(), shas) if blocks else set()
    unknown = lacking - _left_out(project)
    if unknown:
        raise MissingStepError(
            f"{len(unknown)} of {len(shas)} images lack the features {sorted(blocks)}; run "
            f"`usam describe {project.file}` first"
        )
    if lacking:
        _log.warning("%d images are left out: `usam describe` could not read them", len(lacking))
    return shas - lacking


def usable_images(project: Project, store: EmbeddingStore, shas: Iterable[str]) -> set[str]:
    """Those of the images that are embedded, and have the blocks: see `with_blocks`."""
    index = store.index(refresh=True)
    embedded = set(index.loc[index["status"] == "ok", "sha256"])
    return with_blocks(project, store, embedded.intersection(shas))


def all_lacking(store: EmbeddingStore, blocks: Iterable[str], shas: Iterable[str]) -> set[str]:
    """Those of the embedded images that lack any of the blocks, given by id."""
    by_shard = store.lacking(blocks, shas)
    return {sha for by_block in by_shard.values() for part in by_block.values() for sha in part}


def _left_out(project: Project) -> set[str]:
    return {one["sha256"] for one in summary_of(project, "describe").get("left_out", ())}


def _spec(project: Project, name: str) -> dict[str, Any]:
    with _explained(project, name):
        return encoder_spec(project.config.features[name], project.root)


@contextmanager
def _explained(project: Project, name: str) -> Iterator[None]:
    """Name the folder, not the hub, where `describe` read this model from a folder that is gone."""
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


def text_inputs(project: Project) -> Inputs:
    """What the text side depends on beside its block; nothing if it is off."""
    if project.config.head.text == "off":
        return {}
    model = _text_spec(project)
    text = {"model": model, "sentences": sentences(project)}
    return {"text": Input(text, lambda: {**model, "sha256": value_digest({"text": text})})}


def _text_spec(project: Project) -> dict[str, Any]:
    """What identifies the model whose texts are compared: family, weights, tokenizer."""
    config = project.config
    spec = _spec(project, config.text_block)
    folder = project.root / config.features[config.text_block].model
    # A hub's commit covers the tokenizer too; the digest of a folder's weights leaves it out.
    weights = weights_digest(folder) if folder.is_dir() else spec["weights"]
    return {"family": spec["family"], "weights": weights}


def sentences(project: Project) -> dict[str, list[str]]:
    """The sentences of each class and each negative name, in their order, each once."""
    config = project.config
    usual = config.head.text_prompts or [part.replace("{}", NAME) for part in TEMPLATES]
    return {
        spec.name: list(
            dict.fromkeys(
                prompt.replace(NAME, word)
                for word in (spec.name, *spec.synonyms)
                for prompt in spec.text_prompts or usual
            )
        )
        for spec in config.collected
    }


class TextSide:
    """The names of a project as vectors of the model that made the block they are compared with.

    Attributes:
        card: for the head's card, so that labelling needs no text model.

    Args:
        project: the project; its `head.text` is not off.
        widths: length of the vectors of each block in a row of the learned head, by name.

    Raises:
        InputError: the model has no text side, or its vectors are not as long as the block's.
    """

    def __init__(self, project: Project, widths: dict[str, int]) -> None:
        config, block = project.config, project.config.text_block
        feature = config.features[block]
        texts = open_text(feature, config.sam.device, project.root)
        if widths.get(block, texts.width) != texts.width:
            raise InputError(
                f"head.text_block: block {block!r} holds vectors of {widths[block]} "
                f"numbers, the texts of {feature.model!r} have {texts.width}; they cannot be "
                "compared. Expected a model whose pictures and texts share one space"
            )
        of_name = sentences(project)
        self._vectors = torch.from_numpy(texts.vectors(of_name, ["{}"]))
        self._scale, self._bias = texts.scale, texts.bias
        outputs = [*config.label_names, *(spec.name for spec in config.negatives)]
        before = list(widths)[: list(widths).index(block)] if block in widths else widths
        self.card = {
            "block": block,
            **_text_spec(project),
            "model": feature.model,
            "revision": feature.revision,
            "sentences": of_name,
            "first": sum(widths[name] for name in before),
            "width": texts.width,
            "outputs": [outputs.index(config.label_of.get(name, name)) for name in of_name],
            "weight": config.head.text_weight,
        }

    def head(self, learned: BaseHead | None) -> TextHead:
        """The text side with the learned head, or alone."""
        place = (self.card[key] for key in ("first", "width", "outputs", "weight"))
        head = TextHead(learned, *place)
        head.vectors.copy_(self._vectors)
        head.scale.fill_(self._scale)
        head.bias.fill_(self._bias)
        return head.eval()
