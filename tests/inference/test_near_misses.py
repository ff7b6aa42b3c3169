"""Which dropped masks are shown to a person: near ones, each thing once."""

import numpy as np

from usam_core.inference.scoring import MAX_NEAR, near_misses


def square(row, column, side=8, frame=32):
    mask = np.zeros((frame, frame), bool)
    mask[row : row + side, column : column + side] = True
    return np.packbits(mask, axis=-1)


NONE = np.zeros((0, 32, 4), np.uint8)


def test_the_nearest_come_first_and_far_ones_never():
    masks = np.stack([square(0, 0), square(0, 10), square(10, 0), square(20, 20)])
    reached = np.array([0.3, 0.9, 0.6, 0.7])
    assert near_misses(masks, reached, NONE, 0.5).tolist() == [1, 3]
    assert near_misses(masks[:1], reached[:1], NONE, 0.5).tolist() == []
    assert near_misses(NONE, np.zeros(0), NONE, 0.5).tolist() == []
    assert MAX_NEAR == 2


def test_what_is_shown_already_is_left_out():
    masks = np.stack([square(0, 0), square(0, 1), square(16, 16), square(20, 0)])
    reached = np.array([0.9, 0.8, 0.7, 0.6])
    # The second shows what the first does, the third what was kept.
    assert near_misses(masks, reached, square(16, 15)[None], 0.5).tolist() == [0, 3]
