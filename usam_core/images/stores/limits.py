"""What a file may claim to hold, against its size and against limits, before it is believed.

A header of a few bytes can speak of thousands of millions of planes or pixels. What is listed,
allocated or decoded is in proportion to the bytes that are there.
"""

from collections.abc import Callable
from pathlib import Path

from usam_core.images.errors import UnusableImage

MAX = 2**20
"""Planes, wells or parts of one file, whatever its size."""
FREE = 10_000
"""So many of them may be claimed by a file of any size; each further one needs a byte."""
MAX_IN_PART = 2**29
"""Bytes of a chunk, tile or strip when decoded: one is decoded whole."""
FREE_VALUES = 2**26
"""Bytes of one plane that a file of any size may claim."""
MAX_EXPANDED = 4096
"""Bytes of a larger plane for each byte of its file: deflate gives at most 1,032."""
LARGE_VALUES = 2**28
"""Bytes of one plane from which on it is held more closely against its file."""
MAX_EXPANDED_LARGE = 64
"""Bytes of such a plane for each byte of its file: photographs and microscopy have 2 to 20."""
MAX_METADATA = 2**26
"""Bytes of a file that describes others: JSON and XML take about ten times that when read."""

Size = int | Callable[[], int | None] | None
"""Bytes of a file, or what finds that out; None where it is not known."""


def check_count(address: str | Path, what: str, count: int, size: Size) -> None:
    """Refuse more planes, wells or parts than a file of this size can hold.

    Raises:
        UnusableImage: with the code `implausible`.
    """
    if count > FREE and count > (most := min(MAX, FREE + _bytes(size, MAX))):
        raise UnusableImage(
            "implausible",
            f"{address}: its header speaks of {count} {what}; expected at most {most} in a file of "
            "its size. Export it again, or cut it into several files",
        )


def check_values(address: str | Path, claimed: int, size: Size) -> None:
    """Refuse a plane of more bytes than a file of this size can hold.

    Raises:
        UnusableImage: with the code `implausible`.
    """
    if claimed <= FREE_VALUES:
        return
    held = _bytes(size, claimed)
    times = MAX_EXPANDED if claimed <= LARGE_VALUES else MAX_EXPANDED_LARGE
    if claimed > max(held * times, FREE_VALUES):
        raise UnusableImage(
            "implausible",
            f"{address}: its header speaks of {claimed} bytes of values, the file has {held}; "
            f"expected at most {times} times that. It is cut off, empty, or made to fill "
            "the memory; export it again, or cut it into smaller ones",
        )


def check_part(address: str | Path, claimed: int) -> None:
    """Refuse chunks, tiles or strips that are too large to be decoded at once.

    Raises:
        UnusableImage: with the code `implausible`.
    """
    if claimed > MAX_IN_PART:
        raise UnusableImage(
            "implausible",
            f"{address}: its chunks, tiles or strips have {claimed} bytes each; expected at most "
            f"{MAX_IN_PART}. Save it in smaller ones",
        )


def check_metadata(address: str | Path, size: int) -> None:
    """Refuse a description that would fill the memory.

    Raises:
        UnusableImage: with the code `implausible`.
    """
    if size > MAX_METADATA:
        raise UnusableImage(
            "implausible",
            f"{address}: a description of {size} bytes; expected at most {MAX_METADATA}",
        )


def _bytes(size: Size, unknown: int) -> int:
    found = size() if callable(size) else size
    return unknown if found is None else found
