"""Make scenes one after the other from the pictures of one split."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from usam_core.compose.scene import (
    ComposedScene,
    Cutout,
    beside,
    blurred,
    compose,
    fill,
    frame_size,
    texture,
)
from usam_core.config.training import Backdrop, ComposeConfig
from usam_core.rng import derive_seed, generator

MIN_TO_HOLD_OUT = 4
"""A class with fewer pictures keeps them all for the head."""
_TRIES = 4
_KEPT = 128


def held_out(pictures: Mapping[str, Iterable[str]], share: float, seed: int) -> set[str]:
    """Digests of the pictures that the head must not see.

    The order depends on a picture's content and the seed alone, so that a new picture changes
    little of it.

    Args:
        pictures: digests by class.
        share: of each class's pictures, 0 to 1; rounded, and at least one.
    """
    out: set[str] = set()
    for digests in pictures.values():
        order = sorted(set(digests), key=lambda sha256: derive_seed(seed, "held out", sha256))
        if len(order) >= MIN_TO_HOLD_OUT:
            out.update(order[: max(1, round(share * len(order)))])
    return out


def deal(
    rng: np.random.Generator, classes: Sequence[str], scenes: int, objects: tuple[int, int]
) -> list[list[str]]:
    """The classes of each scene, different ones, each class about as often as any other.

    Args:
        classes: the names that there are cut-outs of.
        scenes: how many scenes.
        objects: fewest and most objects of a scene; fewer where there are not so many classes.
    """
    dealt: list[list[str]] = []
    deck: list[str] = []
    for _ in range(scenes):
        wanted = min(len(classes), int(rng.integers(objects[0], objects[1] + 1)))
        hand: list[str] = []
        while len(hand) < wanted:
            fresh = [name for name in deck if name not in hand]
            if not fresh:
                deck += [str(name) for name in rng.permutation(list(classes))]
                continue
            hand.append(fresh[0])
            deck.remove(fresh[0])
        dealt.append(hand)
    return dealt


class Studio:
    """Pictures by class, and scenes made of them.

    Args:
        pictures: digests by class; every class that scenes may show.
        others: digests of pictures of the user's negative names, for backgrounds.
        cut: returns the cut-out of a picture of a class, or None where no mask will do.
        look: returns the whole picture, uint8 (h, w, 3).
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
        """The classes of each of so many scenes; none where nothing could be cut out."""
        return self._hands(scenes=scenes) if self.classes else []

    def make(self, number: int, names: Sequence[str]) -> tuple[ComposedScene, str] | None:
        """A scene of one object of each name, and what its background is.

        None when the objects found no place together, however often it was tried.
        """
        rng = generator(self._seed, "compose", self._split, number)
        min_objects = min(self._config.objects[0], len(names))
        for _ in range(_TRIES):
            cutouts = [cutout for name in names if (cutout := self._next(name)) is not None]
            background, kind = self._background(rng, names)
            scene = compose(rng, background, cutouts, self._config)
            if len(scene.names) >= min_objects:
                return scene, kind
        return None

    def _next(self, name: str) -> Cutout | None:
        """The class's next cut-out in turn; pictures without one are put aside."""
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
            return fill(self._look(str(rng.choice(self._others))), size_hw), "negative"
        if kind != "texture":
            # Of a class that the scene shows: what is left of another object is no new class.
            cutout = self._next(str(rng.choice(list(names))))
            if cutout is not None and kind == "blurred":
                return blurred(cutout.rgb, size_hw), "blurred"
            if cutout is not None and (part := beside(cutout, size_hw)) is not None:
                return part, "crop"
        return texture(rng, size_hw), "texture"
