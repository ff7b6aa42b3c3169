"""The text side of CLIP and SigLIP 2: names become vectors in the space of the pictures.

Each name is put into several sentences and their vectors averaged, as the makers of CLIP do (arXiv
2103.00020, section 3.1.4); a class with several words for it averages over those too. The sentences
are our own short list in the manner of that paper's and of ViLD's (arXiv 2104.13921: "there is a
... in the scene"): a dozen words cost nothing, eighty sentences each would on a CPU.

CLIP reads its answer at the end token. SigLIP reads the last position of a text filled up to the
trained length, lower case, without an attention mask: it was trained so (`convert_siglip2_to_hf.py`
of transformers says which settings of the tokenizer matter).
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from usam_core.config.model import FeatureConfig
from usam_core.errors import InputError
from usam_core.features.model import (
    CLIP,
    SETTING,
    SIGLIP2,
    TIPSV2,
    ModelFiles,
    find_model,
    load_model,
)
from usam_core.sam.load import choose_device

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "there is a {} in the scene.",
)
"""Sentences that a name is put into."""

_AT_ONCE = 256  # sentences


class TextSide:
    """Names as vectors; `scale * cosine + bias` is the model's own logit of a picture and a text.

    The bias is 0 for CLIP and TIPSv2, whose logits go into a softmax over the names; SigLIP's go
    into a sigmoid each. `width` is f, as in the pictures' vectors.
    """

    def __init__(self, files: ModelFiles, model: Any, tokenizer: Any, device: str) -> None:
        self._family = files.kind.family
        tips = self._family is TIPSV2
        self.scale = float(1 / model.temperature if tips else model.logit_scale.exp())
        self.bias = float(getattr(model, "logit_bias", torch.zeros(1)))
        self._folder = files.folder
        self._length = model.config.text_config.max_position_embeddings
        del model.vision_model
        self._model = model.to(device)
        self._tokenizer = tokenizer
        self._device = device
        self.width = self._sentences(["a"]).shape[1]

    @torch.inference_mode()
    def vectors(
        self, names: Mapping[str, Sequence[str]], templates: Sequence[str] = TEMPLATES
    ) -> np.ndarray:
        """One vector a class, of unit length, float32 (c, f), in the order of `names`.

        Words stand for each class; where there are none, its own name does. Templates are sentences
        with `{}` where the word goes.
        """
        rows = []
        for name, words in names.items():
            texts = [part.format(word) for word in words or [name] for part in templates]
            mean = functional.normalize(self._sentences(texts), dim=1).mean(0)
            rows.append(functional.normalize(mean, dim=0).cpu().numpy())
        return np.stack(rows) if rows else np.zeros((0, self.width), np.float32)

    @torch.inference_mode()
    def _sentences(self, texts: Sequence[str]) -> Tensor:
        parts = [self._some(list(texts[i : i + _AT_ONCE])) for i in range(0, len(texts), _AT_ONCE)]
        return torch.cat(parts)

    def _some(self, texts: list[str]) -> Tensor:
        keys, padding = ["input_ids", "attention_mask"], {"padding": "longest"}
        is_clip = self._family is CLIP
        if not is_clip:
            padding = {"padding": "max_length", "padding_side": "right"}
            texts = [text.lower() for text in texts]
        if self._family is SIGLIP2:
            keys = ["input_ids"]  # it attends to what fills up, too
        tokens = self._tokenizer(
            texts, truncation=True, max_length=self._length, return_tensors="pt", **padding
        )
        end = self._tokenizer.eos_token_id
        if is_clip and (end is None or not (tokens["input_ids"] == end).any(1).all()):
            raise InputError(
                f"{self._folder / 'tokenizer.json'}: its texts have no end token, where CLIP reads "
                "what a text says; expected the tokenizer that belongs to the model. Download the "
                "folder again"
            )
        inputs = {key: tokens[key].to(self._device) for key in keys if key in tokens}
        vectors = self._model.get_text_features(**inputs)
        # transformers 5 wraps the vectors in an object.
        return vectors if isinstance(vectors, Tensor) else vectors.pooler_output


def open_text(config: FeatureConfig, device: str, root: Path) -> TextSide:
    """The text side of a model; a process loads each once. See `open_encoder`.

    Raises:
        InputError: the model has no text side, or cannot be loaded.
        TransientError: the hub cannot be reached and the model is not cached.
    """
    files = find_model(config, root)
    if not files.kind.family.has_text:
        raise InputError(
            f"{SETTING}: got {config.model!r} of the family {files.kind.family.name!r}, which has "
            "no text side; names can be compared with pictures by clip, siglip2 and tipsv2"
        )
    return _open_text(files, choose_device(device))


@functools.lru_cache(maxsize=2)
def _open_text(files: ModelFiles, device: str) -> TextSide:
    return TextSide(files, load_model(files), _tokenizer(files.folder), device)


def _tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise InputError(
            f"{folder} has no tokenizer.json, which names need; expected the whole folder of the "
            "model, as `hf download` writes it"
        )
    try:
        # The file as it is: classes of single models build a tokenizer of their own from its words.
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files raise anything
        raise InputError(
            f"{folder / 'tokenizer.json'}: cannot be read as a tokenizer ({error}). Download it "
            "again"
        ) from error
