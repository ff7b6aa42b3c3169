"""The boundary F-score against cases worked by hand, and against plain distances."""

import numpy as np
import pytest

from usam_core.metrics.boundaries import TOLERANCE, Boundaries, border
from usam_core.truth.base import VOID


def square(top, left, side, size=100):
    labels = np.zeros((size, size), np.int16)
    labels[top : top + side, left : left + side] = 1
    return labels


def score(truth, labels, names=("a",), images=(1,)):
    boundaries = Boundaries(names)
    boundaries.add(truth, labels)
    return boundaries.scores(images, common_images=1)


def test_the_border_of_a_square_of_four_is_its_twelve_outer_pixels():
    found = border(square(2, 2, 4, 8) == 1)
    assert found.sum() == 12
    assert not found[3:5, 3:5].any()
    assert not border(np.ones((4, 4), bool)).any(), "the image's rim is no border"


def test_a_square_that_is_right_and_one_moved_within_and_beyond_the_tolerance():
    # 100 x 100 pixels: a diagonal of 141.4, a tolerance of 1.06 pixels.
    truth = square(20, 20, 20)
    assert score(truth, truth).mean == 1
    assert score(truth, square(21, 20, 20)).mean == 1
    # Moved down by two: of 76 border pixels those of both sides but the two uppermost have a
    # neighbor; those of the upper and the lower edge have none but next to the sides.
    moved = score(truth, square(22, 20, 20)).mean
    a, b = (np.argwhere(border(square(top, 20, 20) == 1)) for top in (20, 22))
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    limit = TOLERANCE * np.hypot(100, 100)
    recall, precision = (apart.min(1) <= limit).mean(), (apart.min(0) <= limit).mean()
    assert moved == pytest.approx(2 * recall * precision / (recall + precision))
    assert 0.4 < moved < 0.6


def test_a_class_that_is_not_found_is_zero_and_one_that_is_not_there_counts_for_nothing():
    truth, labels = square(20, 20, 20), np.zeros((100, 100), np.uint8)
    labels[60:70, 60:70] = 2
    found = score(truth, labels, ("a", "b", "c"), (1, 0, 0))
    assert found.per_class == {"a": 0.0, "b": None, "c": None}
    assert (found.mean, found.mean_common) == (0.0, 0.0)
    assert score(labels * 0, labels, ("a", "b"), (0, 0)).mean is None


def test_precision_falls_with_borders_within_an_object():
    truth = square(20, 20, 40)
    speckled = truth.copy()
    speckled[30:50:4, 30:50:4] = 0
    assert score(truth, speckled).mean < 0.8


def test_the_border_lies_in_the_middle_of_a_band_of_void_and_deep_void_is_left_out():
    truth = square(20, 20, 30)
    around = square(19, 19, 32).astype(bool) & ~square(21, 21, 28).astype(bool)
    truth[around] = VOID
    assert score(truth, square(20, 20, 30)).mean == 1
    truth[60:90, 60:90] = VOID
    labels = square(20, 20, 30)
    labels[70:80, 70:80] = 1
    assert score(truth, labels).mean == 1


def test_images_are_added_up_pixel_by_pixel():
    boundaries = Boundaries(["a"])
    boundaries.add(square(20, 20, 20), square(20, 20, 20))
    boundaries.add(square(20, 20, 20), np.zeros((100, 100), np.uint8))
    # 76 of 152 border pixels were found, and all 76 that were painted are right.
    assert boundaries.scores([2]).mean == pytest.approx(2 * 0.5 / 1.5)
