"""Where the words and numbers of the reliability diagram stand."""

import numpy as np
import pytest

from usam_core.inference.reliability import diagram, reliability

LEFT, SIDE, BOTTOM, SIZE = 48, 360, 408, 456
"""Pixels: where the axes begin, how long they are, where they end, the whole picture."""


@pytest.fixture(scope="module")
def picture():
    """Return a diagram with little in it, grey levels (h, w)."""
    return np.asarray(diagram(reliability(np.full(1, 0.15), np.ones(1, bool)), "a title"))


def ink(picture, rows, columns):
    """Return the extent of what is written there: first and last row, first and last column."""
    y, x = np.nonzero((picture[slice(*rows), slice(*columns)] < 90).all(axis=2))
    return y.min() + rows[0], y.max() + rows[0], x.min() + columns[0], x.max() + columns[0]


@pytest.mark.parametrize("tick", [0.0, 0.5, 1.0])
def test_each_tick_stands_at_its_place(picture, tick):
    x = LEFT + tick * SIDE
    top, bottom, left, right = ink(picture, (BOTTOM + 8, SIZE - 19), (int(x) - 24, int(x) + 24))
    assert abs((left + right) / 2 - x) <= 2
    assert BOTTOM + 10 <= top < bottom < BOTTOM + 24
    y = BOTTOM - tick * SIDE
    top, bottom, left, right = ink(picture, (int(y) - 8, int(y) + 8), (0, LEFT - 1))
    assert abs((top + bottom) / 2 - y) <= 2
    assert LEFT - 24 <= left < right <= LEFT - 6


def test_no_tick_stands_elsewhere(picture):
    rows, columns = np.nonzero((picture[BOTTOM + 8 : SIZE - 19] < 90).all(axis=2))
    gaps = np.diff(np.unique(columns))
    assert len(rows)
    assert (gaps > 60).sum() == 2, "three ticks along the axis"
    rows, _ = np.nonzero((picture[LEFT - 8 : BOTTOM + 8, : LEFT - 1] < 90).all(axis=2))
    assert (np.diff(np.unique(rows)) > 60).sum() == 2


def test_title_and_axes_are_named(picture):
    top, bottom, left, _ = ink(picture, (0, 22), (0, SIZE))
    assert 6 <= top < bottom < 22
    assert LEFT <= left <= LEFT + 2
    top, bottom, left, right = ink(picture, (SIZE - 19, SIZE), (0, SIZE))
    assert SIZE - 14 <= top < bottom < SIZE - 2
    assert abs((left + right) / 2 - SIZE / 2) <= 2
    top, bottom, left, right = ink(picture, (22, LEFT - 6), (0, SIZE))
    assert LEFT - 22 <= top < bottom < LEFT - 6
    assert 4 <= left <= 6
    assert 60 < right < SIZE / 2


def test_the_foot_line_of_a_single_mask_is_as_wide_as_its_bin(picture):
    foot = np.nonzero((picture == [0x08, 0x51, 0x9C]).all(axis=2))
    assert (foot[1].min(), foot[1].max()) == (LEFT + 36, LEFT + 72)
    assert (foot[0].min(), foot[0].max()) == (BOTTOM + 2, BOTTOM + 6)


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_certainty_is_in_the_last_bin(bins):
    assert reliability(np.ones(4), np.ones(4, bool), bins)["masks"].tolist() == [0] * (bins - 1) + [
        4
    ]
