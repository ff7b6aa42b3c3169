"""What a file may claim to hold, against its size and against limits, before it is believed.

A header of a few bytes can speak of thousands of millions of planes or pixels. What is listed,
allocated or decoded is in proportion to the bytes that are there.
"""

from collections.abc import Callable
from pathlib import Path

from usam_core.images.errors import BadImage

MOST = 2**20
"""Planes, wells or parts of one file, whatever its size."""
FREE = 10_000
"""So many of them may be claimed by a file of any size; each further one needs a byte."""
MOST_IN_PART = 2**29
"""Bytes of a chunk, tile or strip when decoded: one is decoded whole."""
FREE_VALUES = 2**26
"""Bytes of one plane that a file of any size may claim."""
MOST_EXPANDED = 4096
"""Bytes of a larger plane for each byte of its file: deflate gives at most 1,032."""
LARGE_VALUES = 2**28
"""Bytes of one plane from which on it is held more closely against its file."""
MOST_EXPANDED_LARGE = 64
"""Bytes of such a plane for each byte of its file: photographs and microscopy have 2 to 20."""
MOST_METADATA = 2**26
"""Bytes of a file that describes others: JSON and XML take about ten times that when read."""

Size = int | Callable[[], int | None] | None
"""Bytes of a file, or what finds that out; None where it is not known."""


def check_count(address: str | Path, what: str, count: int, size: Size) -> None:
    """Refuse more planes, wells or parts than a file of this size can hold.

    Raises:
        BadImage: with the code `implausible`.
    """
    if count > FREE and count > (most := min(MOST, FREE + _bytes(size, MOST))):
        raise BadImage(
            "implausible",
            f"{address}: its header speaks of {count} {what}; expected at most {most} in a file of "
            "its size. Export it again, or cut it into several files",
        )


def check_values(address: str | Path, claimed: int, size: Size) -> None:
    """Refuse a plane of more bytes than a file of this size can hold.

    Raises:
        BadImage: with the code `implausible`.
    """
    if claimed <= FREE_VALUES:
        return
    held = _bytes(size, claimed)
    times = MOST_EXPANDED if claimed <= LARGE_VALUES else MOST_EXPANDED_LARGE
    if claimed > max(held * times, FREE_VALUES):
        raise BadImage(
            "implausible",
            f"{address}: its header speaks of {claimed} bytes of values, the file has {held}; "
            f"expected at most {times} times that. It is cut off, empty, or made to fill "
            "the memory; export it again, or cut it into smaller ones",
        )


def check_part(address: str | Path, claimed: int) -> None:
    """Refuse chunks, tiles or strips that are too large to be decoded at once.

    Raises:
        BadImage: with the code `implausible`.
    """
    if claimed > MOST_IN_PART:
        raise BadImage(
            "implausible",
            f"{address}: its chunks, tiles or strips have {claimed} bytes each; expected at most "
            f"{MOST_IN_PART}. Save it in smaller ones",
        )


def check_metadata(address: str | Path, size: int) -> None:
    """Refuse a description that would fill the memory.

    Raises:
        BadImage: with the code `implausible`.
    """
    if size > MOST_METADATA:
        raise BadImage(
            "implausible",
            f"{address}: a description of {size} bytes; expected at most {MOST_METADATA}",
        )


def _bytes(size: Size, unknown: int) -> int:
    found = size() if callable(size) else size
    return unknown if found is None else found
