"""A long list of small values in little memory."""

import pickle
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Packed(Generic[_T]):
    """Values kept pickled, some thousand together: as Python objects they take several times that.

    Args:
        values: the values, in their order; each is looked at once.
        size: how many are unpacked together.

    >>> list(Packed("abc", 2).chunks())
    [['a', 'b'], ['c']]
    """

    def __init__(self, values: Iterable[_T], size: int) -> None:
        self._chunks: list[bytes] = []
        self._length = 0
        left = iter(values)
        while chunk := list(islice(left, size)):
            self._chunks.append(pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
            self._length += len(chunk)

    def __len__(self) -> int:
        return self._length

    def chunks(self) -> Iterator[list[_T]]:
        """Yield the values again, `size` at a time."""
        for chunk in self._chunks:
            yield pickle.loads(chunk)
