"""Brings masks of the low-resolution grid to the image's size, along the image's own edges.

A guided filter (He, Sun, Tang 2013; fast form 2015): around each cell of the grid the mask is
fitted as a linear function of the colors there, and that function is applied to the pixels.
Borders move to where the colors change; where they do not, they are smooth. Radius and epsilon
were measured: docs/decisions/0021.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from usam_core.masks.bits import Reach, unpack, upscale, valid_hw

RADIUS = 3
"""Of the window, cells of the grid."""
EPSILON = 1e-3
"""Added to the variance of the colors (0 to 1): below it, a change of color is no edge."""
FINER = 2
"""Label maps are made at so many times the grid's sides: less blurs where labels meet."""
_SHRINKS, _GROWS = 0.5, 2.0
"""A mask whose area is multiplied by less or more had no edges to follow, and stays as it was."""
_STRIP = 1 << 18
"""Pixels worked on at a time: more do not stay in the cache."""


class _Fit(NamedTuple):
    """A function of the colors in a part of the grid.

    Attributes:
        down, across: the part's reach in the image.
        factors: float32 (rows, columns, 4): of red, green and blue (0 to 255), and a constant.
    """

    down: Reach
    across: Reach
    factors: np.ndarray


class Edges:
    """The edges of one image.

    Args:
        rgb: uint8 (h, w, 3).
        frame: side of the square frame that holds the masks.
    """

    def __init__(self, rgb: np.ndarray, frame: int) -> None:
        self._size_hw = (int(rgb.shape[0]), int(rgb.shape[1]))
        self._grid = valid_hw(self._size_hw, frame)
        # Column by column, as masks lie.
        self._colors = np.ascontiguousarray(rgb.transpose(2, 1, 0))
        small = Image.fromarray(rgb).resize(self._grid[::-1], Image.Resampling.BILINEAR)
        self._low = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
        self._mean = _average(self._low)
        self._inverse = self._inverse_covariance()

    @property
    def fine_hw(self) -> tuple[int, int]:
        """Rows and columns of the label maps that `labels` takes."""
        return self._grid[0] * FINER, self._grid[1] * FINER

    def masks(self, packed: np.ndarray) -> np.ndarray:
        """Return masks, uint8 (p, u, b), at the image's size: bool (p, h, w), column by column."""
        h, w = self._size_hw
        rows, columns = self._grid
        full = np.zeros((len(packed), w, h), bool)
        for number, mask in enumerate(unpack(packed)[:, :rows, :columns]):
            fit = self._fit(mask)
            for strip in _strips(fit.across.target, h):
                np.greater_equal(
                    self._apply(fit, strip), 0.5, out=full[number, strip, fit.down.target]
                )
            expected = mask.sum() * (h * w) / (rows * columns)
            if not _SHRINKS * expected <= full[number].sum() <= _GROWS * expected:
                full[number] = upscale(packed[number : number + 1], self._size_hw)[0].T
        return full.swapaxes(1, 2)

    def labels(self, fine: np.ndarray) -> np.ndarray:
        """Return a label map of `fine_hw` at the image's size, (h, w)."""
        h, w = self._size_hw
        rows, columns = self._grid
        labels = np.zeros((w, h), fine.dtype)
        cells = fine.reshape(rows, FINER, columns, FINER)
        fits = {
            label: self._fit((cells == label).mean(axis=(1, 3), dtype=np.float32))
            for label in np.unique(fine[fine > 0]).tolist()
        }
        for strip in _strips(slice(0, w), h):
            width = strip.stop - strip.start
            # The functions of all labels and of background add up to one.
            most, left = np.zeros((width, h), np.float32), np.ones((width, h), np.float32)
            here = labels[strip]
            for label, fit in fits.items():
                low = max(strip.start, fit.across.target.start)
                part = slice(low, min(strip.stop, fit.across.target.stop))
                if part.start >= part.stop:
                    continue
                values = self._apply(fit, part)
                place = (
                    slice(part.start - strip.start, part.stop - strip.start),
                    fit.down.target,
                )
                here[place][values > most[place]] = label
                np.maximum(most[place], values, out=most[place])
                left[place] -= values
            here[left >= most] = 0
        return labels.T

    def _fit(self, mask: np.ndarray) -> _Fit:
        """Fit a mask, bool or 0 to 1 (rows, columns), around every cell that its windows reach."""
        # Of a mask, of the fits that see it, of the averages of these.
        rows = _widened(np.any(mask, axis=1), 3 * RADIUS)
        columns = _widened(np.any(mask, axis=0), 3 * RADIUS)
        window = (rows, columns)
        inside = (slice(None), *window)
        part = mask[window].astype(np.float32)
        low, mean, inverse = self._low[inside], self._mean[inside], self._inverse[inside]
        averages = _average(np.concatenate([low * part, part[None]]))
        own = averages[3]
        covariance = averages[:3] - mean * own
        red, green, blue = covariance
        rr, rg, rb, gg, gb, bb = inverse
        factors = np.stack(
            [
                rr * red + rg * green + rb * blue,
                rg * red + gg * green + gb * blue,
                rb * red + gb * green + bb * blue,
                own,
            ]
        )
        factors[3] -= (factors[:3] * mean).sum(axis=0)
        factors = _average(factors)
        factors[:3] /= 255
        used = np.zeros(mask.shape, bool)
        used[window] = np.any(factors != 0, axis=0)
        down = Reach.of(np.any(used, axis=1), self._size_hw[0])
        across = Reach.of(np.any(used, axis=0), self._size_hw[1])
        kept = (
            slice(down.source.start - rows.start, down.source.stop - rows.start),
            slice(across.source.start - columns.start, across.source.stop - columns.start),
        )
        return _Fit(down, across, factors[(slice(None), *kept)].transpose(1, 2, 0))

    def _apply(self, fit: _Fit, strip: slice) -> np.ndarray:
        """Return the function's values in some columns of its reach, float32 (columns, rows)."""
        rows, columns, count = fit.factors.shape
        scaled = fit.down.scale(fit.factors.reshape(rows, columns * count))
        tall = len(scaled)
        turned = np.ascontiguousarray(scaled.reshape(tall, columns, count).transpose(1, 2, 0))
        across = replace(fit.across, target=strip)
        factors = across.scale(turned.reshape(columns, count * tall)).reshape(-1, count, tall)
        colors = self._colors[:, strip, fit.down.target]
        values = factors[:, 3]
        for number in range(3):
            values += factors[:, number] * colors[number]
        return values

    def _inverse_covariance(self) -> np.ndarray:
        """The inverse of the colors' covariance, float32 (6, rows, columns): its upper triangle."""
        low, mean = self._low, self._mean
        pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
        products = _average(np.stack([low[i] * low[j] for i, j in pairs]))
        rr, rg, rb, gg, gb, bb = (
            products[n] - mean[i] * mean[j] + (EPSILON if i == j else 0)
            for n, (i, j) in enumerate(pairs)
        )
        cofactors = np.stack(
            [
                gg * bb - gb * gb,
                gb * rb - rg * bb,
                rg * gb - gg * rb,
                rr * bb - rb * rb,
                rb * rg - rr * gb,
                rr * gg - rg * rg,
            ]
        )
        return cofactors / (rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2])


def _average(values: np.ndarray) -> np.ndarray:
    """Average over each cell's window, float32 (n, rows, columns); the rim is repeated."""
    size = 2 * RADIUS + 1
    return ndimage.uniform_filter(values, (1, size, size), mode="nearest")


def _widened(filled: np.ndarray, by: int) -> slice:
    where = np.flatnonzero(filled)
    if not len(where):
        return slice(0, 0)
    return slice(max(0, int(where[0]) - by), min(len(filled), int(where[-1]) + 1 + by))


def _strips(columns: slice, height: int) -> Iterator[slice]:
    """Cut columns into strips of at most `_STRIP` pixels."""
    step = max(1, _STRIP // max(1, height))
    for start in range(columns.start, columns.stop, step):
        yield slice(start, min(start + step, columns.stop))
