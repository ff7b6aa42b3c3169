"""A fitted head, with or without its project."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from usam_core.api.embed import Embed, embedder_of, with_picture
from usam_core.config.model import InferenceConfig, SamConfig
from usam_core.errors import InputError
from usam_core.head.checkpoint import load_head, save_head
from usam_core.head.model import BaseHead
from usam_core.images.given import ImageLike, take
from usam_core.inference.calibration import Calibration
from usam_core.inference.scoring import Labelled, label_image, labelled_image
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.steps.read_settings import reading_of
from usam_core.types import TOKENS_BLOCK, MaskSet

ENDING = ".safetensors"


class Head:
    """A fitted head: it gives SAM's masks names.

    `usam.fit` makes one, `Head.load` reads one, and a project has one: `Project.head`. It reads
    images and embeds them as those that it learned from.

    Args:
        module: the network, in evaluation mode.
        card: what is known of it; lies beside its file as JSON.
        inference: thresholds, suppression and painting; None takes the card's, or the defaults.
        calibration: of its probabilities; None takes the softmax as it is.
        embed: gives masks of pixels; None runs the SAM that the card names.

    Attributes:
        card: see above.
        inference: see above.
        label_map: its names, with their ids and colours in label maps.
    """

    def __init__(
        self,
        module: BaseHead,
        card: dict[str, Any],
        *,
        inference: InferenceConfig | None = None,
        calibration: Calibration | None = None,
        embed: Embed | None = None,
    ) -> None:
        self.card = card
        self.inference = inference or InferenceConfig(**card.get("inference", {}))
        self.label_map = LabelMap.of_names(
            card["classes"], card.get("colours"), card.get("negatives", ())
        )
        self._module = module
        self._calibration = calibration
        self._encoder = card.get("encoder") or {}
        self._embed = embed or embedder_of(self._encoder)

    def __repr__(self) -> str:
        return f"Head({', '.join(self.names)})"

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str],
        *,
        sam: SamConfig | None = None,
        inference: InferenceConfig | None = None,
    ) -> "Head":
        """Read a head that `save` wrote, or a project's, such as `out/fit/student.safetensors`.

        Args:
            file: the weights; the card lies beside them.
            sam: where its SAM runs, or a checkpoint of your own; None takes the one that the card
                names.
            inference: thresholds, suppression and painting; None takes the card's, or the
                defaults.

        Raises:
            InputError: there is no such file.
            StoreError: the weights or the card are damaged.
        """
        path = Path(file)
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; expected a head: what `Head.save` wrote, or "
                "out/fit/student.safetensors of a project"
            )
        module, card = load_head(path)
        embed = embedder_of(card.get("encoder") or {}, sam)
        return cls(module, card, inference=inference, embed=embed)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the weights, and beside them the card; return the file.

        Raises:
            InputError: the name does not end in `.safetensors`.
        """
        path = Path(file)
        if path.suffix != ENDING:
            raise InputError(f"{path}: expected a name that ends in {ENDING}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_head(path, self._module, self.card)
        return path

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; the label map has 1 for the first, and 0 for background."""
        return self.label_map.names

    def predict(self, image: ImageLike | MaskSet) -> LabelledImage:
        """Label an image, or masks that are there already.

        Of masks alone, `plot` knows no pixels, and borders follow no edges.

        Raises:
            InputError: the image cannot be used, or the head reads features that its project alone
                makes.
        """
        if isinstance(image, MaskSet):
            return self.label(image, None)
        given = take(image, reading_of(self._encoder))
        rgb = given.read(None)
        labelled = self.label(self._embed(rgb), lambda: rgb)
        return with_picture(labelled, given.read, path=given.path, sha256=given.sha256)

    def embeddings(self, image: ImageLike) -> MaskSet:
        """SAM's masks of an image, with what the head reads of each.

        Raises:
            InputError: the image cannot be used.
        """
        return self._embed(take(image, reading_of(self._encoder)).read(None))

    def label(self, masks: MaskSet, rgb: Callable[[], np.ndarray] | None) -> LabelledImage:
        """Label masks; see `score`."""
        done = self.score(masks, rgb)
        return labelled_image(done, masks, self.label_map, path="", sha256="", painted=done.labels)

    def score(self, masks: MaskSet, rgb: Callable[[], np.ndarray] | None) -> Labelled:
        """Label masks, as arrays.

        Args:
            masks: the masks.
            rgb: gives the image, uint8 (h, w, 3), whose edges they follow; None if it is not known.

        Raises:
            InputError: the masks lack features that the head reads.
        """
        features = self.card["settings"]["features"]
        lacking = [f for f in features if f != TOKENS_BLOCK and f not in masks.features]
        if lacking:
            raise InputError(
                f"the head reads the features {lacking}, which the masks lack; expected its "
                "project, which makes them: usam.open(...).predict(image)"
            )
        return label_image(
            self._module,
            masks,
            features,
            self.inference,
            self.names,
            self._calibration,
            rgb,
        )
