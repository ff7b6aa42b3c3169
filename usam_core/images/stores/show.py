"""Shows a plane as 8-bit RGB: which channel is which colour, which values are black and white."""

import functools
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
from usam_core.images.stores.base import ALL, ImageStore, Plane, PlaneInfo, is_nodata

DEPTH, UNNAMED, SERIES = "z", "i", "s"


def depth_axis(file: str, planes: Sequence[Plane]) -> str:
    """Return the axis of a file's planes that a projection takes together.

    That is z. A stack whose only axis has no name, as plain TIFFs are written, has its z there; of
    a plain Zarr array that axis numbers images.

    >>> depth_axis("a.tif", [(("i", 0),), (("i", 1),)])
    'i'
    >>> depth_axis("a.tif", [(("t", 0), ("i", 0))]), depth_axis("a.zarr/b", [(("i", 0),)])
    ('z', 'z')
    """
    axes = {axis for plane in planes for axis, _ in plane} - {SERIES}
    numbers_images = any(part.endswith(".zarr") for part in file.lower().split("/"))
    return UNNAMED if axes == {UNNAMED} and not numbers_images else DEPTH


def flat(plane: Plane, axis: str) -> Plane:
    """Return a plane's address without that axis."""
    return tuple(pair for pair in plane if pair[0] != axis)


class Projected(ImageStore):
    """The planes of another store with z taken together; one z is in memory at a time.

    Args:
        inner: the store.
        projection: "max", "min" or "mean". A mean is rounded where the values are integers; in
            maxima and minima of floats, NaN counts only where there is nothing else; so does in all
            of them the value that says that there is none.
        axis: which one is z; see `depth_axis`.
    """

    def __init__(self, inner: ImageStore, projection: str, axis: str = DEPTH) -> None:
        self._inner, self._projection = inner, projection
        self._depths: dict[Plane, list[Plane]] = {}
        self.axis = axis
        for plane in inner.planes():
            self._depths.setdefault(flat(plane, axis), []).append(plane)

    def planes(self) -> list[Plane]:
        """Return the planes without their z."""
        return list(self._depths)

    def info(self, plane: Plane) -> PlaneInfo:
        """Return what the headers say of the planes behind one."""
        return self._inner.info(self._depths[plane][0])

    def in_parts(self, plane: Plane) -> bool:
        """Return what the store says of the planes behind one."""
        return self._inner.in_parts(self._depths[plane][0])

    def is_flat(self, plane: Plane) -> bool:
        """Return whether there is but one z, so that nothing is projected."""
        return len(self._depths[plane]) == 1

    def read(
        self,
        plane: Plane,
        rows: slice = ALL,
        columns: slice = ALL,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return (c, h, w) in the file's own type."""
        first, *others = self._depths[plane]
        found = self._inner.read(first, rows, columns, channels)
        if not others:
            return found
        dtype, nodata = found.dtype, self.info(plane).nodata
        count = np.ones(found.shape, np.int32) if nodata is None else 1 - is_nodata(found, nodata)
        if self._projection == "mean":
            found = found.astype(np.float64)
        join = {"max": np.fmax, "min": np.fmin, "mean": np.add}[self._projection]
        for other in others:
            values = self._inner.read(other, rows, columns, channels)
            if nodata is None:
                found, count = join(found, values), count + 1
                continue
            empty = is_nodata(values, nodata)
            joined = np.where(empty, found, join(found, values))
            found, count = np.where(count == 0, values, joined), count + ~empty
        if self._projection == "mean":
            found = found / np.maximum(count, 1)
            found = np.rint(found) if dtype.kind in "biu" else found
        return found.astype(dtype, copy=False)

    def close(self) -> None:
        """Let go of the file."""
        self._inner.close()


Channels = Mapping[str, int | str]
"""Number or name of the channel that is shown as `red`, `green`, `blue`; or as `grey` alone."""

COLORS = ("red", "green", "blue")
WITHOUT = "without="
"""Begins the word that names channels that are not shown."""
_ALPHA = "alpha"
_BLOCKS, _BLOCK = 8, 256
"""So many blocks of so many pixels, down and across, stand for a plane that is cut into tiles."""
_UNNAMED = ("0", "grey")
_RGB = "rgb"


@dataclass(frozen=True, slots=True)
class View:
    """What of a plane is shown, and how.

    Attributes:
        colors: number of the channel behind each colour; "grey" stands alone.
        alpha: number of the channel that says how opaque each pixel is.
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
        """Return the lowest and the highest value of all channels' windows."""
        if not self.window:
            return None
        lows, highs = zip(*self.window.values(), strict=True)
        return min(lows), max(highs)

    def __str__(self) -> str:
        """Say it in words, as the store's index keeps it."""
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
    """Say how a plane is shown; for percentiles of its own its values are read.

    Without `channels`, one channel is grey, and of several the first three are red, green and
    blue in their order. Colours of one picture share a window, so that they stay the colours they
    are; other channels have one each. 8-bit values are shown as they are, unless `stretch` is asked
    for.

    Args:
        store: the file's store.
        ref: address of one of its planes.
        window: how values of more than 8 bit become 8 bit.
        channels: which channel is which colour; a picture keeps its colours, and a single channel
            without a name is grey.
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
    one = len(measured) == 1 and info.channels[measured[0]] in _UNNAMED
    if channels is None or info.is_color or one:
        colors = _by_order(measured)
    else:
        colors = _declared(ref, info, channels)
    alpha = info.channels.index(_ALPHA) if _ALPHA in info.channels else None
    shown = set(colors.values())
    left_out = tuple(info.channels[n] for n in measured if n not in shown)
    if stretch and info.dtype == "uint8":
        window = "percentile"
    elif info.dtype in SHOWN_AS_THEY_ARE:
        return View(colors, alpha, left_out, None, info)
    found: dict[int, tuple[float, float]] = {}
    is_own = False
    for key, numbers in kinds(info, sorted(shown)):
        found |= dict.fromkeys(numbers, _limits(store, ref, numbers, of_kind(window, key)))
        is_own |= not has_kind(window, key)
    return View(colors, alpha, left_out, found, info, is_own)


def paint(
    store: ImageStore, plane: Plane, how: View, rows: slice = ALL, columns: slice = ALL
) -> np.ndarray:
    """Return uint8 (h, w, 3) of a plane, or of a window of it."""
    wanted = sorted({*how.colors.values(), *([] if how.alpha is None else [how.alpha])})
    values = dict(zip(wanted, store.read(plane, rows, columns, wanted), strict=True))

    empty = without_data(how.info, values)

    def shown(number: int) -> np.ndarray:
        if how.window is not None:
            found = apply_window(values[number], *how.window[number])
        elif how.info.bits:
            found = apply_window(values[number], *full_range(how.info))
        else:
            found = values[number].astype(np.uint8) * (255 if how.info.dtype == "bool" else 1)
        if number in empty:
            found[empty[number]] = 0
        return found

    done = {number: shown(number) for number in set(how.colors.values())}
    names = ["grey"] * 3 if "grey" in how.colors else COLORS
    black = np.zeros_like(next(iter(done.values())))
    planes = [done[how.colors[name]] if name in how.colors else black for name in names]
    if how.alpha is None:
        return np.stack(planes, axis=-1)
    alpha = apply_window(values[how.alpha], *full_range(how.info))
    return over_white(np.stack([*planes, alpha], axis=-1))


def without_data(info: PlaneInfo, values: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Return where channels hold the value that says that there is none, bool (h, w) by number.

    Of one picture a pixel is empty where all its colours are, of measurements each on its own.
    """
    if info.nodata is None:
        return {}
    found = {
        number: is_nodata(channel, info.nodata)
        for number, channel in values.items()
        if info.channels[number] != _ALPHA
    }
    if info.is_color:
        every = np.logical_and.reduce(list(found.values()))
        return dict.fromkeys(found, every)
    return found


def with_data(info: PlaneInfo, numbers: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Return the values of channels (c, h, w) that are some, flat."""
    empty = without_data(info, dict(zip(numbers, values, strict=True)))
    if not empty:
        return values.ravel()
    return np.concatenate([c[~empty[n]] for n, c in zip(numbers, values, strict=True)])


def kinds(info: PlaneInfo, numbers: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Yield the channels that share a window, with the name of their kind of values."""
    if info.is_color:
        yield window_key(info.dtype, _RGB), [n for n in range(3) if n < len(info.channels)]
        return
    for number in numbers:
        yield window_key(info.dtype, info.channels[number]), [number]


SHOWN_AS_THEY_ARE = ("uint8", "bool")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
_FULL = {
    **{name: (float(np.iinfo(name).min), float(np.iinfo(name).max)) for name in _INTEGERS},
    "uint8": (0.0, 255.0),
    "bool": (0.0, 1.0),
}


def full_range(info: PlaneInfo) -> tuple[float, float]:
    """Return the least and the greatest value that a plane can hold; 0 and 1 for fractions."""
    if info.bits:
        return 0.0, float(2**info.bits - 1)
    return _FULL.get(info.dtype, (0.0, 1.0))


def _limits(
    store: ImageStore, ref: ImageRef, numbers: Sequence[int], window: OneWindow
) -> tuple[float, float]:
    info = store.info(ref.plane)
    values = np.zeros(0)
    if window == "percentile" and ref.box is None:
        values = with_data(info, numbers, store.read(ref.plane, channels=numbers))
    elif window == "percentile":
        values = _spread(store, ref.plane, tuple(numbers))
    try:
        return limits(values, window, full_range(info))
    except ValueError as error:
        raise UnusableImage("no_values", f"{ref}: {error}") from error


@functools.lru_cache(maxsize=8)
def _spread(store: ImageStore, plane: Plane, numbers: tuple[int, ...]) -> np.ndarray:
    """Return values from all over a plane: its tiles share the window of the whole."""
    info = store.info(plane)
    height, width = info.size_hw
    if height * width <= (_BLOCKS * _BLOCK) ** 2:
        return with_data(info, numbers, store.read(plane, channels=numbers))
    places = [np.linspace(0, max(0, n - _BLOCK), _BLOCKS, dtype=int) for n in (height, width)]
    parts = [
        store.read(plane, slice(y, y + _BLOCK), slice(x, x + _BLOCK), numbers)
        for y, x in product(*(np.unique(some).tolist() for some in places))
    ]
    return np.concatenate([with_data(info, numbers, part) for part in parts])


def _by_order(measured: Sequence[int]) -> dict[str, int]:
    if len(measured) == 1:
        return {"grey": measured[0]}
    return dict(zip(COLORS, measured, strict=False))


def _declared(ref: ImageRef, info: PlaneInfo, channels: Channels) -> dict[str, int]:
    found = {}
    for color in (name for name in (*COLORS, "grey") if name in channels):
        channel = channels[color]
        names = info.channels
        number = channel if isinstance(channel, int) else _number(names, channel)
        if not 0 <= number < len(names):
            raise UnusableImage(
                "no_channel",
                f"{ref}: images.channels.{color}: got {channel!r}; expected one of its channels "
                f"{list(names)}, or a number from 0 to {len(names) - 1}",
            )
        found[color] = number
    return found


def _number(names: Sequence[str], wanted: str) -> int:
    return names.index(wanted) if wanted in names else -1
