"""Make scenes one after the other from the pictures of one split."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from usam_core.compose import backdrops
from usam_core.compose.cutout import Cutout
from usam_core.compose.deal import deal
from usam_core.compose.scene import ComposedScene, compose, frame_size
from usam_core.config.compose import Backdrop, ComposeConfig
from usam_core.rng import generator

_TRIES = 4
_KEPT = 128


class Studio:
    """Pictures by class, and scenes made of them.

    Args:
        pictures: digests by class; every class that scenes may show.
        others: digests of pictures of the user's negative names, for backgrounds.
        cut: returns the cut-out of a picture of a class, or None where no mask will do.
        look: returns the whole picture, uint8 (h, w, 3).
        config: the settings.
        seed: the project's seed.
        split: name of the split; scenes of two splits share no random number.
    """

    def __init__(
        self,
        pictures: Mapping[str, Sequence[str]],
        others: Sequence[str],
        cut: Callable[[str, str], Cutout | None],
        look: Callable[[str], np.ndarray],
        config: ComposeConfig,
        seed: int,
        split: str,
    ) -> None:
        self._config = config
        self._seed, self._split = seed, split
        self._cut = functools.lru_cache(maxsize=_KEPT)(cut)
        self._look = look
        order = generator(seed, "compose", split, "pictures")
        self._left = {name: list(order.permutation(list(pictures[name]))) for name in pictures}
        self._others = list(order.permutation(list(others)))
        # What cannot be cut out at all is known before classes are dealt.
        names = [name for name in pictures if self._next(name) is not None]
        self.classes = names
        self._hands = functools.partial(deal, order, names, objects=config.objects)

    def hands(self, scenes: int) -> list[list[str]]:
        """Return the classes of each of so many scenes; none where nothing could be cut out."""
        return self._hands(scenes=scenes) if self.classes else []

    def make(self, number: int, names: Sequence[str]) -> tuple[ComposedScene, str] | None:
        """Return a scene of one object of each name, and what its background is.

        None when the objects found no place together, however often it was tried.
        """
        rng = generator(self._seed, "compose", self._split, number)
        least = min(self._config.objects[0], len(names))
        for _ in range(_TRIES):
            cutouts = [cutout for name in names if (cutout := self._next(name)) is not None]
            background, kind = self._background(rng, names)
            scene = compose(rng, background, cutouts, self._config)
            if len(scene.names) >= least:
                return scene, kind
        return None

    def _next(self, name: str) -> Cutout | None:
        """Return the class's next cut-out in turn; pictures without one are put aside."""
        left = self._left[name]
        while left:
            sha256 = str(left.pop(0))
            cutout = self._cut(name, sha256)
            if cutout is not None:
                left.append(sha256)
                return cutout
        return None

    def _background(
        self, rng: np.random.Generator, names: Sequence[str]
    ) -> tuple[np.ndarray, Backdrop]:
        config = self._config
        size_hw = frame_size(rng, config.size)
        kinds = [kind for kind in config.backgrounds if kind != "negative" or self._others]
        kind = str(rng.choice(kinds)) if kinds else "texture"
        if kind == "negative":
            return backdrops.fill(self._look(str(rng.choice(self._others))), size_hw), "negative"
        if kind in ("crop", "blurred"):
            # Of a class that the scene shows: what is left of another object is no new class.
            cutout = self._next(str(rng.choice(list(names))))
            part = None
            if cutout is not None and kind == "crop":
                part = backdrops.beside(cutout, size_hw)
            if cutout is not None and kind == "blurred":
                part = backdrops.blurred(cutout.rgb, size_hw)
            if part is not None:
                return part, "crop" if kind == "crop" else "blurred"
        return backdrops.texture(rng, size_hw), "texture"
