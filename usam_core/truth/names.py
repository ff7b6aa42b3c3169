"""Which of a truth's images is meant by a listed one: other tools write other folders before it."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from usam_core.images.listing.spelling import plain_path

_T = TypeVar("_T")


class ByName(Generic[_T]):
    """Finds what belongs to an image by the longest end that its path has in common with one name.

    Args:
        names: how the truth calls each image, by what shall be found.
    """

    def __init__(self, names: Mapping[_T, str]) -> None:
        self._whole: dict[str, list[_T]] = {}
        self._by_end: dict[str, list[_T]] = {}
        for found, name in names.items():
            self._whole.setdefault(plain_path(name), []).append(found)
            for end in _ends(name):
                self._by_end.setdefault(end, []).append(found)

    def find(self, listed: str) -> list[_T]:
        """Return what may be meant by a listed image; more than one where the names do not tell."""
        found = self._whole.get(plain_path(listed))
        if found:
            return found
        return next((self._by_end[end] for end in _ends(listed) if end in self._by_end), [])


def _ends(name: str) -> Iterator[str]:
    """Yield the ends of a path, the longest first.

    >>> list(_ends("a/b.jpg"))
    ['a/b.jpg', 'b.jpg']
    """
    path = plain_path(name).lstrip("/")
    while path:
        yield path
        path = path.partition("/")[2]
