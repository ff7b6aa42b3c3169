"""Which masks a person sees first: the doubtful ones, and between them some drawn by chance.

Masks shown for their doubt say nothing of the others: a class's precision can only be read off
masks that had no say in being shown. So every third mask is drawn by chance, class by class in
turn, in an order that the masks' contents give: another run goes on where this one ended.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from usam_core.review.item import Item

DRAWN_EVERY = 3
"""Every third mask is drawn by chance."""


def queue(
    doubtful: Sequence[Sequence[Item]], drawn: Mapping[str, Sequence[Item]], limit: int
) -> list[tuple[Item, bool]]:
    """Return masks in the order of showing, each once, and whether chance chose it.

    Args:
        doubtful: the masks by one or several measures of doubt, most doubtful first; the measures
            take turns.
        drawn: the masks of each class in the order of chance; the classes take turns.
        limit: most masks.
    """
    seen: set[str] = set()
    shown: list[tuple[Item, bool]] = []
    doubts, chances = _Turns(doubtful, seen), _Turns(list(drawn.values()), seen)
    while len(shown) < limit:
        by_chance = len(shown) % DRAWN_EVERY == DRAWN_EVERY - 1
        item = chances.take() if by_chance else doubts.take()
        if item is None:
            by_chance = not by_chance
            item = chances.take() if by_chance else doubts.take()
        if item is None:
            break
        shown.append((item, by_chance))
    return shown


class _Turns:
    """Takes the next unseen mask of each list in turn."""

    def __init__(self, lists: Sequence[Sequence[Item]], seen: set[str]) -> None:
        self._left = deque(iter(items) for items in lists)
        self._seen = seen

    def take(self) -> Item | None:
        while self._left:
            items = self._left.popleft()
            item = next((item for item in items if item.id not in self._seen), None)
            if item is not None:
                self._left.append(items)
                self._seen.add(item.id)
                return item
        return None
