"""Which pictures are held out, and which class comes into which scene; by the seed alone."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from usam_core.rng import derive_seed

MIN_TO_HOLD_OUT = 4
"""A class with fewer pictures keeps them all for the head."""


def held_out(pictures: Mapping[str, Iterable[str]], share: float, seed: int) -> set[str]:
    """Return the digests of the pictures that the head must not see.

    The order depends on a picture's content and the seed alone, so that a new picture changes
    little of it.

    Args:
        pictures: digests by class.
        share: of each class's pictures, 0 to 1; rounded, and at least one.
        seed: the project's seed.
    """
    found: set[str] = set()
    for digests in pictures.values():
        order = sorted(set(digests), key=lambda sha256: derive_seed(seed, "held out", sha256))
        if len(order) >= MIN_TO_HOLD_OUT:
            found.update(order[: max(1, round(share * len(order)))])
    return found


def deal(
    rng: np.random.Generator, classes: Sequence[str], scenes: int, objects: tuple[int, int]
) -> list[list[str]]:
    """Return the classes of each scene, different ones, each class about as often as any other.

    Args:
        rng: decides the order.
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
