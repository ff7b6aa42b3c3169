"""Objects joined over z and time."""

import numpy as np

from usam_core.masks.rle import mask_record
from usam_core.masks.volumes import joined_planes, joined_times


def square(top, left, side=10, category=1):
    mask = np.zeros((60, 60), bool)
    mask[top : top + side, left : left + side] = True
    return mask_record(mask, category)


def test_slices_above_each_other_are_one_object_whatever_their_order():
    planes = [[square(5, 5), square(30, 30)], [square(31, 30), square(5, 6)], [square(6, 6, 8)]]
    assert joined_planes(planes) == [[0, 1], [1, 0], [0]]


def test_a_plane_may_be_missed_but_not_two():
    mask = square(5, 5)
    assert joined_planes([[mask], [], [mask]]) == [[0], [], [0]]
    assert joined_planes([[mask], [], [], [mask]]) == [[0], [], [], [1]]


def test_other_classes_and_neighbors_are_other_objects():
    assert joined_planes([[square(5, 5)], [square(5, 5, category=2)]]) == [[0], [1]]
    assert joined_planes([[square(5, 5)], [square(5, 9)]]) == [[0], [1]], "60 % is a neighbor"


def test_an_object_goes_on_with_the_mask_that_fits_best_and_only_once():
    both = [square(5, 5, 8), square(5, 5)]
    assert joined_planes([[square(5, 5)], both]) == [[0], [1, 0]]
    assert joined_planes([both, [square(5, 5)]]) == [[0, 1], [1]]


def test_an_empty_stack_and_empty_planes():
    assert joined_planes([]) == []
    assert joined_planes([[], []]) == [[], []]


def test_objects_of_two_times_are_compared_over_all_planes():
    before = [[square(5, 5)], [square(5, 5), square(40, 40)]]
    after = [[square(6, 5)], [square(40, 40), square(5, 5)]]
    # In the second plane alone, number 7 would be another object.
    assert joined_times(before, [[3], [3, 9]], after, [[7], [2, 7]]) == {7: 3, 2: 9}
    assert joined_times(before, [[3], [3, 9]], [[], []], [[], []]) == {}
