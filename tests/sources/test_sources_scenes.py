"""Drawn pictures: the same for a seed, with truth that fits the pixels."""

import numpy as np
import pytest

from usam_core.rng import generator
from usam_core.sources.scenes import (
    FIELD_LOOK,
    SHAPES,
    TRAINING_LOOK,
    Look,
    coverage,
    place,
    scene,
    single_object,
)

CLEAN = Look(blur=0, noise=0, light=0)


@pytest.mark.parametrize("name", SHAPES)
def test_a_single_object_has_truth_of_a_plausible_area(name):
    drawn = single_object(generator(0, name), name, 128, TRAINING_LOOK)
    assert drawn.image.shape == (128, 128, 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.names == (name,)
    share = (drawn.instances == 1).mean()
    assert 0.01 < share < 0.6


def test_the_same_seed_draws_the_same_scene_and_another_seed_another():
    first = scene(generator(3), list(SHAPES), (96, 128), FIELD_LOOK)
    again = scene(generator(3), list(SHAPES), (96, 128), FIELD_LOOK)
    other = scene(generator(4), list(SHAPES), (96, 128), FIELD_LOOK)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    assert not np.array_equal(first.image, other.image)


def test_label_map_maps_objects_to_their_class_index():
    drawn = scene(generator(5), ["disc", "rod"], (96, 128), CLEAN)
    labels = drawn.label_map(["rod", "disc"])
    for number, name in enumerate(drawn.names, start=1):
        values = np.unique(labels[drawn.instances == number])
        assert list(values) == [{"rod": 1, "disc": 2}[name]]
    assert (labels[drawn.instances == 0] == 0).all()


def test_coverage_of_a_square_is_its_area_and_a_second_outline_is_a_hole():
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    whole = coverage(place([square], (20, 20), 10, 0), (40, 40))
    holed = coverage(place([square, square * 0.5], (20, 20), 10, 0), (40, 40))
    assert whole.sum() == pytest.approx(400, rel=0.06)
    assert holed.sum() == pytest.approx(300, rel=0.08)
    assert whole[20, 20] == 1
    assert holed[20, 20] == 0


def test_an_object_stands_out_from_what_lies_under_it():
    contrasts = []
    for number in range(20):
        drawn = single_object(generator(7, number), "disc", 96, CLEAN)
        inside = drawn.image[drawn.instances == 1].mean(0)
        outside = drawn.image[drawn.instances == 0].mean(0)
        contrasts.append(np.abs(inside - outside).max())
    assert np.median(contrasts) > 40
