"""Shows planes as 8-bit RGB: which channel is which color, which values are black and white.

`sample_windows` finds black and white for all images of a store.
"""

import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from usam_core.images.errors import UnusableImage
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import (
    OWN_WINDOW,
    STRETCHED,
    OneWindow,
    Window,
    apply_window,
    has_kind,
    limits,
    of_kind,
    over_white,
    window_key,
)
from usam_core.images.stores.base import ALL, COLORS, ImageStore, Plane, PlaneInfo, is_nodata
from usam_core.images.stores.factory import may_be_deep, opened

Channels = Mapping[str, int | str]
"""Number or name of the channel that is shown as `red`, `green`, `blue`; or as `grey` alone."""

WITHOUT = "without="
"""Begins the word that names channels that are not shown."""
MAX_IMAGES_SAMPLED = 2000
"""Images whose headers are read in search of deep ones."""
MAX_PLANES_SAMPLED = 64
"""Deep planes that are read: their percentiles differ little from those of all."""

_ALPHA = "alpha"
_UNNAMED = ("0", "grey")
_RGB = "rgb"
_BLOCKS, _BLOCK = 8, 256
"""Blocks, down and across, and their pixels that stand for a plane that is cut into tiles."""
_MAX_SAMPLE = 2**16
"""Values that one plane gives, so that a large one counts no more than a small one."""
_MAX_WHOLE = 2**22
"""Pixels of a plane that is sampled whole; of a larger one these blocks are read."""
_SAMPLE_BLOCKS, _SAMPLE_BLOCK = 16, 512

_SHOWN_AS_THEY_ARE = ("uint8", "bool")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
_FULL = {
    **{name: (float(np.iinfo(name).min), float(np.iinfo(name).max)) for name in _INTEGERS},
    "uint8": (0.0, 255.0),
    "bool": (0.0, 1.0),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """How a plane is shown.

    Attributes:
        colors: number of the channel behind each color; "grey" stands alone.
        alpha: number of the channel of opacity.
        left_out: names of the channels that are not shown.
        window: the values that become 0 and 255, by channel; None where nothing is changed.
        info: of the plane.
        is_own: whether a window for all images was asked for, but there is none for such values.
    """

    colors: Mapping[str, int]
    alpha: int | None
    left_out: tuple[str, ...]
    window: Mapping[int, tuple[float, float]] | None
    info: PlaneInfo
    is_own: bool = False

    @property
    def hull(self) -> tuple[float, float] | None:
        """The lowest and the highest value of all channels' windows."""
        if not self.window:
            return None
        lows, highs = zip(*self.window.values(), strict=True)
        return min(lows), max(highs)

    def __str__(self) -> str:
        """Return it in words, as the store's index keeps it."""
        words = [self.info.dtype]
        if self.info.is_color and list(self.colors) == list(COLORS):
            words.append("RGB")
        else:
            words += [self._word(color, number) for color, number in self.colors.items()]
        if self.left_out:
            words.append(f"{WITHOUT}{','.join(self.left_out)}")
        if self.is_own:
            words.append(OWN_WINDOW)
        if self.window and self.info.dtype == "uint8":
            words.append(STRETCHED)
        return " ".join(words)

    def _word(self, color: str, number: int) -> str:
        text = f"{color}={self.info.channels[number]}"
        if self.window and len(self.window) > 1:
            low, high = self.window[number]
            text += f"[{low:g}:{high:g}]"
        return text


def view(
    store: ImageStore,
    ref: ImageRef,
    window: Window = "percentile",
    channels: Channels | None = None,
    stretch: bool = False,
) -> View:
    """Return how a plane is shown; for percentiles of its own its values are read.

    Without `channels`, one channel is gray, and of several the first three are red, green and
    blue. Colors of one picture share a window, so that they stay the colors they are; other
    channels have one each. 8-bit values are shown as they are, unless `stretch` is set.

    Args:
        store: the file's store.
        ref: address of one of its planes.
        window: how values of more than 8 bit become 8 bit.
        channels: which channel is which color; a picture keeps its colors, and a single channel
            without a name is gray.
        stretch: let 8-bit values go through the plane's own percentiles.

    Raises:
        UnusableImage: no such channel, no finite value, or values of a kind that is not shown.
    """
    info = store.info(ref.plane)
    if info.dtype not in _FULL and not info.dtype.startswith("float"):
        raise UnusableImage(
            "unsupported", f"{ref}: values of type {info.dtype}; expected real numbers"
        )
    measured = [n for n, name in enumerate(info.channels) if name != _ALPHA]
    is_gray = len(measured) == 1 and info.channels[measured[0]] in _UNNAMED
    if channels is not None and not info.is_color and not is_gray:
        colors = _declared(ref, info, channels)
    elif len(measured) == 1:
        colors = {"grey": measured[0]}
    else:
        colors = dict(zip(COLORS, measured, strict=False))
    alpha = info.channels.index(_ALPHA) if _ALPHA in info.channels else None
    shown = set(colors.values())
    left_out = tuple(info.channels[n] for n in measured if n not in shown)
    if stretch and info.dtype == "uint8":
        window = "percentile"
    elif info.dtype in _SHOWN_AS_THEY_ARE:
        return View(colors, alpha, left_out, None, info)
    windows: dict[int, tuple[float, float]] = {}
    is_own = False
    for key, numbers in _kinds(info, sorted(shown)):
        windows |= dict.fromkeys(numbers, _limits(store, ref, numbers, of_kind(window, key)))
        is_own |= not has_kind(window, key)
    return View(colors, alpha, left_out, windows, info, is_own)


def _declared(ref: ImageRef, info: PlaneInfo, channels: Channels) -> dict[str, int]:
    names, colors = info.channels, {}
    for color in (name for name in (*COLORS, "grey") if name in channels):
        channel = channels[color]
        if isinstance(channel, str):
            number = names.index(channel) if channel in names else -1
        else:
            number = channel
        if not 0 <= number < len(names):
            raise UnusableImage(
                "no_channel",
                f"{ref}: images.channels.{color}: got {channel!r}; expected one of its channels "
                f"{list(names)}, or a number from 0 to {len(names) - 1}",
            )
        colors[color] = number
    return colors


def paint(
    store: ImageStore, plane: Plane, how: View, rows: slice = ALL, columns: slice = ALL
) -> np.ndarray:
    """Return uint8 (h, w, 3) of a plane, or of a window of it."""
    wanted = sorted({*how.colors.values(), *([] if how.alpha is None else [how.alpha])})
    values = dict(zip(wanted, store.read(plane, rows, columns, wanted), strict=True))
    empty = _without_data(how.info, values)

    def shown(number: int) -> np.ndarray:
        if how.window is not None:
            gray = apply_window(values[number], *how.window[number])
        elif how.info.bits:
            gray = apply_window(values[number], *_full_range(how.info))
        else:
            gray = values[number].astype(np.uint8) * (255 if how.info.dtype == "bool" else 1)
        if number in empty:
            gray[empty[number]] = 0
        return gray

    painted = {number: shown(number) for number in set(how.colors.values())}
    names = ["grey"] * 3 if "grey" in how.colors else COLORS
    black = np.zeros_like(next(iter(painted.values())))
    planes = [painted[how.colors[name]] if name in how.colors else black for name in names]
    if how.alpha is None:
        return np.stack(planes, axis=-1)
    alpha = apply_window(values[how.alpha], *_full_range(how.info))
    return over_white(np.stack([*planes, alpha], axis=-1))


def _without_data(info: PlaneInfo, values: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Return where channels mean no data, bool (h, w) by number; of a picture where all colors
    do."""
    if info.nodata is None:
        return {}
    empty = {
        number: is_nodata(channel, info.nodata)
        for number, channel in values.items()
        if info.channels[number] != _ALPHA
    }
    if info.is_color:
        everywhere: np.ndarray = np.logical_and.reduce(list(empty.values()))
        return dict.fromkeys(empty, everywhere)
    return empty


def _with_data(info: PlaneInfo, numbers: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Return the values of channels (c, h, w) that are data, flat."""
    empty = _without_data(info, dict(zip(numbers, values, strict=True)))
    if not empty:
        return values.ravel()
    return np.concatenate([c[~empty[n]] for n, c in zip(numbers, values, strict=True)])


def _kinds(info: PlaneInfo, numbers: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Yield the channels that share a window, with the name of their kind of values."""
    if info.is_color:
        yield window_key(info.dtype, _RGB), [n for n in range(3) if n < len(info.channels)]
        return
    for number in numbers:
        yield window_key(info.dtype, info.channels[number]), [number]


def _full_range(info: PlaneInfo) -> tuple[float, float]:
    """Return the smallest and largest value that a plane can hold; 0 and 1 for fractions."""
    if info.bits:
        return 0.0, float(2**info.bits - 1)
    return _FULL.get(info.dtype, (0.0, 1.0))


def _limits(
    store: ImageStore, ref: ImageRef, numbers: Sequence[int], window: OneWindow
) -> tuple[float, float]:
    info = store.info(ref.plane)
    values = np.zeros(0)
    if window == "percentile" and ref.box is None:
        values = _with_data(info, numbers, store.read(ref.plane, channels=numbers))
    elif window == "percentile":
        values = _spread(store, ref.plane, tuple(numbers))
    try:
        return limits(values, window, _full_range(info))
    except ValueError as error:
        raise UnusableImage("no_values", f"{ref}: {error}") from error


@functools.lru_cache(maxsize=8)
def _spread(store: ImageStore, plane: Plane, numbers: tuple[int, ...]) -> np.ndarray:
    """Return values from all over a plane: its tiles share the window of the whole."""
    info = store.info(plane)
    height, width = info.size_hw
    if height * width <= (_BLOCKS * _BLOCK) ** 2:
        return _with_data(info, numbers, store.read(plane, channels=numbers))
    places = [np.linspace(0, max(0, n - _BLOCK), _BLOCKS, dtype=int) for n in (height, width)]
    parts = [
        store.read(plane, slice(y, y + _BLOCK), slice(x, x + _BLOCK), numbers)
        for y, x in product(*(np.unique(some).tolist() for some in places))
    ]
    return np.concatenate([_with_data(info, numbers, part) for part in parts])


@dataclass(frozen=True, slots=True)
class Sampled:
    """Windows by kind of values (`rgb.window_key`), the number of headers read, the planes
    sampled."""

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
) -> Sampled:
    """Read some deep planes and return the percentiles of their values, by kind.

    Args:
        addresses: of images, in an order that does not depend on where they lie.
        rng: decides which are looked at, and which of their values count.
        max_megapixels, channels, projection: as in `read_image`.
    """
    values: dict[str, list[np.ndarray]] = {}
    planes: list[str] = []
    shallow: set[str] = set()
    looked_at = 0
    for number in rng.permutation(len(addresses))[:MAX_IMAGES_SAMPLED]:
        ref = ImageRef.parse(addresses[number])
        looked_at += 1
        # The type of values, unlike the values, is the whole file's, but for rare exceptions.
        if ref.file in shallow:
            continue
        try:
            if not may_be_deep(ref.file, max_megapixels):
                continue
            with opened(ref.file, max_megapixels, projection) as store:
                if store.info(ref.plane).dtype in _SHOWN_AS_THEY_ARE:
                    shallow.add(ref.file)
                    continue
                for key, some in _sample(store, ref, channels, rng):
                    values.setdefault(key, []).append(some)
        except (UnusableImage, KeyError) as error:
            _log.debug("left out of the sample: %s", error)
            continue
        planes.append(str(ref))
        if len(planes) == MAX_PLANES_SAMPLED:
            break
    windows = {
        key: limits(np.concatenate(parts), "percentile", (0.0, 1.0))
        for key, parts in sorted(values.items())
    }
    return Sampled(windows, looked_at, sorted(planes))


def _sample(
    store: ImageStore, ref: ImageRef, channels: Channels | None, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    info = store.info(ref.plane)
    # Only the channels are asked for; the full range as window costs nothing.
    shown = sorted(set(view(store, ref, "full", channels).colors.values()))
    blocks = [(ALL, ALL)]
    if math.prod(info.size_hw) > _MAX_WHOLE:
        blocks = [_block(info.size_hw, rng) for _ in range(_SAMPLE_BLOCKS)]
    for key, numbers in _kinds(info, shown):
        parts = [_with_data(info, numbers, store.read(ref.plane, *b, numbers)) for b in blocks]
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        if len(values):
            yield key, rng.choice(values, min(len(values), _MAX_SAMPLE), replace=False)


def _block(size_hw: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    top, left = (int(rng.integers(max(1, side - _SAMPLE_BLOCK))) for side in size_hw)
    return slice(top, top + _SAMPLE_BLOCK), slice(left, left + _SAMPLE_BLOCK)
