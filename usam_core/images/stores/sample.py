"""Windows for all images of a store: percentiles of the values of some of its planes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from usam_core.images.errors import UnusableImage
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import limits
from usam_core.images.stores.base import ImageStore
from usam_core.images.stores.factory import may_be_deep, opened
from usam_core.images.stores.show import SHOWN_AS_THEY_ARE, Channels, kinds, view, with_data

_log = logging.getLogger(__name__)

MAX_LOOKED_AT = 2000
"""Images whose headers are read in search of deep ones."""
MAX_PLANES = 64
"""Deep planes that are read: their percentiles differ little from those of all."""
_MAX_VALUES = 2**16
"""Values that one plane gives, so that a large one counts no more than a small one."""
_READ_WHOLE = 2**22
_BLOCKS, _SIDE = 16, 512


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a sample of the images said.

    Attributes:
        windows: what becomes 0 and 255, by kind of values (`pixels.window_key`).
        looked_at: images whose headers were read.
        planes: addresses of the planes whose values count.
    """

    windows: dict[str, tuple[float, float]]
    looked_at: int
    planes: list[str]


def sample_windows(
    addresses: Sequence[str],
    rng: np.random.Generator,
    *,
    max_megapixels: float,
    channels: Channels | None,
    projection: str,
    tiled: bool = False,
) -> Sampled:
    """Read some deep planes and return the percentiles of their values, by kind.

    Args:
        addresses: of images, in an order that does not depend on where they lie.
        rng: decides which are looked at, and which of their values count.
        max_megapixels: limit on a plane's size.
        channels: which channels are shown.
        projection: how z is taken together.
        tiled: larger planes count too, where they can be read in parts.
    """
    found: dict[str, list[np.ndarray]] = {}
    planes: list[str] = []
    shallow: set[str] = set()
    order = rng.permutation(len(addresses))[:MAX_LOOKED_AT]
    looked_at = 0
    for number in order:
        ref = ImageRef.parse(addresses[number])
        looked_at += 1
        # Unlike a plane's values its type is that of the whole file, but for rare exceptions.
        if ref.file in shallow:
            continue
        try:
            if not may_be_deep(ref.file, max_megapixels):
                continue
            with opened(ref.file, max_megapixels, projection) as store:
                if store.info(ref.plane).dtype in SHOWN_AS_THEY_ARE:
                    shallow.add(ref.file)
                    continue
                for key, values in _values(store, ref, channels, rng):
                    found.setdefault(key, []).append(values)
        except (UnusableImage, KeyError) as error:
            _log.debug("left out of the sample: %s", error)
            continue
        planes.append(str(ref))
        if len(planes) == MAX_PLANES:
            break
    windows = {
        key: limits(np.concatenate(parts), "percentile", (0.0, 1.0))
        for key, parts in sorted(found.items())
    }
    return Sampled(windows, looked_at, sorted(planes))


def _values(
    store: ImageStore, ref: ImageRef, channels: Channels | None, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    info = store.info(ref.plane)
    # A window that costs nothing: which channels are shown is all that is asked.
    shown = sorted(set(view(store, ref, "full", channels).colors.values()))
    blocks = list(_blocks(info.size_hw, rng))
    for key, numbers in kinds(info, shown):
        parts = [
            with_data(info, numbers, store.read(ref.plane, rows, columns, numbers))
            for rows, columns in blocks
        ]
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        if len(values):
            yield key, rng.choice(values, min(len(values), _MAX_VALUES), replace=False)


def _blocks(size_hw: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[slice, slice]]:
    height, width = size_hw
    if height * width <= _READ_WHOLE:
        yield slice(None), slice(None)
        return
    for _ in range(_BLOCKS):
        top, left = (int(rng.integers(max(1, side - _SIDE))) for side in size_hw)
        yield slice(top, top + _SIDE), slice(left, left + _SIDE)
