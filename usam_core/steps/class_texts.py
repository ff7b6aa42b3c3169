"""The text side of a project: which sentences stand for which class, and their vectors."""

from collections.abc import Sequence

import torch

from usam_core.config.base import NAME
from usam_core.config.project import Project
from usam_core.config.schema import ClassSpec
from usam_core.errors import InputError
from usam_core.features.text import TEMPLATES, open_text
from usam_core.files.digest import value_digest
from usam_core.head.model import BaseHead, TextHead
from usam_core.steps.base import Input, Inputs
from usam_core.steps.blocks import text_spec


def text_inputs(project: Project) -> Inputs:
    """What the text side depends on beside its block; nothing if it is off."""
    if project.config.head.text == "off":
        return {}
    model = text_spec(project)
    said = {"model": model, "sentences": sentences(project)}
    return {"text": Input(said, lambda: {**model, "sha256": value_digest({"text": said})})}


def sentences(project: Project) -> dict[str, list[str]]:
    """Return the sentences of each class and each negative name, in their order."""
    config = project.config
    usual = config.head.text_prompts or [part.replace("{}", NAME) for part in TEMPLATES]
    return {spec.name: _sentences(spec, usual) for spec in config.collected}


def _sentences(spec: ClassSpec, usual: Sequence[str]) -> list[str]:
    prompts = spec.text_prompts or usual
    words = (spec.name, *spec.synonyms)
    filled = (prompt.replace(NAME, word) for word in words for prompt in prompts)
    return list(dict.fromkeys(filled))  # a sentence without the name is said once


class TextSide:
    """The names of a project as vectors of the model that made the block they are compared with.

    Attributes:
        block: the block.
        card: for the head's card, so that labelling needs no text model.

    Args:
        project: the project; its `head.text` is not off.
        widths: length of the vectors of each block in a row of the learned head, by name.

    Raises:
        InputError: the model has no text side, or its vectors are not as long as the block's.
    """

    def __init__(self, project: Project, widths: dict[str, int]) -> None:
        config = project.config
        self.block = config.text_block
        feature = config.features[self.block]
        texts = open_text(feature, config.sam.device, project.root)
        if widths.get(self.block, texts.width) != texts.width:
            raise InputError(
                f"head.text_block: block {self.block!r} holds vectors of {widths[self.block]} "
                f"numbers, the texts of {feature.model!r} have {texts.width}; they cannot be "
                "compared. Expected a model whose pictures and texts share one space"
            )
        said = sentences(project)
        self._vectors = torch.from_numpy(texts.vectors(said, ["{}"]))
        self._scale, self._bias = texts.scale, texts.bias
        outputs = [*config.label_names, *(spec.name for spec in config.negatives)]
        labels = {**config.label_of, **{spec.name: spec.name for spec in config.negatives}}
        before = list(widths)[: list(widths).index(self.block)] if self.block in widths else widths
        self.card = {
            "block": self.block,
            **text_spec(project),
            "model": feature.model,
            "revision": feature.revision,
            "sentences": said,
            "first": sum(widths[name] for name in before),
            "width": texts.width,
            "outputs": [outputs.index(labels[name]) for name in said],
            "weight": config.head.text_weight,
        }

    def head(self, learned: BaseHead | None) -> TextHead:
        """Return the text side with the learned head, or alone."""
        place = (self.card[key] for key in ("first", "width", "outputs", "weight"))
        head = TextHead(learned, *place)
        head.vectors.copy_(self._vectors)
        head.scale.fill_(self._scale)
        head.bias.fill_(self._bias)
        return head.eval()
