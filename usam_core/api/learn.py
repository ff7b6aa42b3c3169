"""Fit a head in memory, without a project: pictures of each name in, a head out."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, get_args

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import ValidationError

from usam_core.api.head import Head
from usam_core.config.model import HeadConfig, InferenceConfig, SamConfig
from usam_core.config.training import ClassSpec, ComposeConfig
from usam_core.errors import ConfigError, InputError
from usam_core.files.digest import value_digest
from usam_core.images.given import GivenImage, ImageLike, take
from usam_core.progress import SILENT, Progress
from usam_core.sam.load import open_embedder
from usam_core.steps.fit import learn
from usam_core.steps.training_set import Lessons, on_object
from usam_core.store.layout import fingerprint
from usam_core.types import TOKENS_BLOCK, MaskSet

_READING = {"window": "percentile", "colour": "windowed"}
"""How pictures are read, as `steps.read_settings.reading_spec` says it."""
_HOW = {"max_megapixels": 100.0, "window": "percentile", "channels": None, "projection": "none"}
_OFF = {"composed": "off", "background": False, "reviewed": False, "text": "off"}
"""Settings of the head that read what only a project has."""

Pictures = Mapping[str, Iterable[ImageLike]]


def fit(
    pictures: Pictures,
    *,
    sam: str | SamConfig = "nano",
    negatives: Pictures | None = None,
    head: HeadConfig | None = None,
    inference: InferenceConfig | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Head:
    """Fit a head to pictures of single objects, as `usam fit` does; nothing is written.

    Every picture is embedded once, and what SAM says of it stays in memory until the head is
    fitted: about a megabyte a picture. A project keeps it on disk.

    Args:
        pictures: some pictures of each name; 5 at least let the head say "none of these".
        sam: a name of docs/sam.md (`nano`, `vit_b`, `sam2.1_small`, ...), or settings with a
            checkpoint of your own.
        negatives: likewise of names that images also show and nobody wants found.
        head: settings of the head and its training.
        inference: thresholds, suppression and painting of what the head labels.
        seed: everything random follows from it.
        progress: told of the pictures and the training.

    Raises:
        ConfigError: a name or a setting cannot be used.
        InputError: a picture cannot be used, or a name has none.

    Examples:
        head = usam.fit({"dog": dogs, "cat": ["cat1.jpg", "cat2.jpg"]}, sam="nano")
        head.predict("street.jpg").plot()
    """
    head = head or HeadConfig()
    wrong = [name for name, value in _OFF.items() if getattr(head, name) != value]
    unknown = sorted({*head.features} - {TOKENS_BLOCK, "encoder"})
    if wrong or unknown:
        raise ConfigError(
            f"head: got {', '.join([*wrong, *unknown])}, which needs what a project keeps on disk; "
            "expected a project for it: `usam init`, then usam.open"
        )
    sam = _sam(sam)
    embedder = open_embedder(sam, sam.checkpoint, progress)
    negatives = negatives or {}
    names = _names([*pictures, *negatives])
    given = list(zip(names, [*pictures.values(), *negatives.values()], strict=True))
    masks: dict[str, MaskSet] = {}
    shown: dict[str, list[str]] = {}
    with progress.bar("Embedding", None) as bar:
        every = ((name, one) for name, some in given for one in _taken(name, some))
        while batch := list(islice(every, embedder.batch_size)):
            keyed = {_key(one): one for _, one in batch}
            new = {key: one.read(None) for key, one in keyed.items() if key not in masks}
            masks |= zip(new, embedder.embed(list(new.values())), strict=True)
            for name, one in batch:
                shown.setdefault(_key(one), []).append(name)
            bar.advance(len(batch))
    shas = sorted(masks)
    labels = np.array([[name in shown[sha] for name in names] for sha in shas], np.float32)
    counts = dict(zip(names, labels.sum(0).astype(int).tolist(), strict=True))
    table = [(name, sha) for sha in shas for name in shown[sha]]
    learned = learn(
        _Rows(masks),
        Lessons(shas, labels, None, counts),
        pd.DataFrame(table, columns=["class", "sha256"]),
        {name: output for output, name in enumerate(names)},
        lambda some: np.stack(
            [on_object(ComposeConfig(), masks[sha], head.mask_choice) for sha in some]
        ),
        head,
        seed,
        progress,
    )
    chosen = (inference or InferenceConfig()).head
    role = chosen if chosen in learned.heads else "teacher"
    spec = {**embedder.spec, **_READING}
    card: dict[str, Any] = {
        "classes": names[: len(pictures)],
        "negatives": names[len(pictures) :],
        "label_of": {name: name for name in names[: len(pictures)]},
        "colours": {},
        "settings": head.model_dump(mode="json"),
        "inference": (inference or InferenceConfig()).model_dump(mode="json"),
        "block_widths": list(learned.widths.values()),
        "seed": seed,
        "store": fingerprint(spec),
        "encoder": spec,
        "blocks": {},
        "training_pictures": counts,
        "training_scenes": 0,
        "training_reviewed": 0,
        "training_digest": value_digest(shas),
        "training_provenance": {},
        "history": learned.history,
        "role": role,
        "metrics": [epoch for epoch in learned.history if epoch["role"] == role][-1],
        **({"familiar": learned.familiar} if learned.familiar else {}),
    }
    return Head(learned.heads[role].eval(), card, inference=inference)


class _Rows:
    """What bags read of a store, of masks in memory."""

    def __init__(self, masks: Mapping[str, MaskSet]) -> None:
        self._masks = masks

    def read_rows(
        self, shas: Sequence[str], columns: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """See `head.bags.Rows`."""
        for sha256 in dict.fromkeys(shas):
            masks = self._masks[sha256]
            blocks = {f"features/{name}": block for name, block in masks.features.items()}
            yield sha256, {c: blocks[c] if c in blocks else getattr(masks, c) for c in columns}

    def block_names(self) -> list[str]:
        """See `head.bags.Rows`."""
        return [TOKENS_BLOCK, *next(iter(self._masks.values())).features]


def _sam(sam: str | SamConfig) -> SamConfig:
    known = get_args(SamConfig.model_fields["model"].annotation)
    if isinstance(sam, SamConfig):
        return sam
    if sam not in known:
        raise ConfigError(f"sam: got {sam!r}; expected one of {', '.join(known)}, or a SamConfig")
    return SamConfig(model=sam)


def _names(given: Sequence[Any]) -> list[str]:
    names = []
    for name in given:
        try:
            names.append(ClassSpec(name=name).name)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"name {name!r}: {said}") from None
    if len(set(names)) < len(names):
        raise ConfigError(f"got the names {names}; expected each once, classes and negatives alike")
    if not names:
        raise ConfigError("no names; expected a mapping of each to its pictures, {'dog': [...]}")
    return names


def _taken(name: str, pictures: Iterable[ImageLike]) -> Iterator[GivenImage]:
    if isinstance(pictures, str | os.PathLike | Image.Image | np.ndarray):
        kind = type(pictures).__name__
        raise InputError(f"{name!r}: got one {kind}; expected a list of pictures")
    none = True
    for picture in pictures:
        none = False
        yield take(picture, _HOW)
    if none:
        raise InputError(f"{name!r}: no picture to learn from; expected some, 5 or more")


def _key(given: GivenImage) -> str:
    if given.sha256:
        return given.sha256
    rgb = given.read(None)
    return hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).hexdigest()
