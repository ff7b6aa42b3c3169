"""Polygons along pixel edges: exact against the mask, by two rasterisers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from usam_core.masks.rle import (
    Crop,
    crop,
    decode,
    encode,
    fill,
    join,
    part_polygons,
    pixels,
    run_lengths,
    simpler,
)

sizes = st.tuples(st.integers(1, 23), st.integers(1, 31))
masks = sizes.flatmap(lambda size: arrays(bool, size))


@settings(max_examples=300, deadline=None)
@given(masks)
def test_a_mask_comes_back_from_its_polygons(mask):
    polygons = part_polygons(Crop(0, 0, mask))
    again = np.zeros_like(mask)
    for polygon in polygons:
        filled = fill(polygon, mask.shape)
        assert not (again & filled).any(), "parts do not overlap"
        again |= filled
    assert np.array_equal(again, mask)
    if polygons:
        assert np.array_equal(fill(join(polygons), mask.shape), mask)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_pycocotools_fills_them_alike(mask):
    polygons = part_polygons(Crop(0, 0, mask))
    if not polygons:
        return
    h, w = mask.shape
    flat = [polygon.ravel().astype(float).tolist() for polygon in polygons]
    found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, h, w)))
    assert np.array_equal(found.astype(bool), mask)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_runs_are_read_as_pycocotools_reads_them(mask):
    rle = encode(mask)
    assert np.array_equal(decode(rle), mask)
    flat = np.zeros(mask.size, bool)
    flat[pixels(rle)] = True
    assert np.array_equal(flat.reshape(mask.shape[::-1]).T, mask)
    found = crop(rle)
    again = np.zeros_like(mask)
    rows, columns = found.mask.shape
    again[found.top : found.top + rows, found.left : found.left + columns] = found.mask
    assert np.array_equal(again, mask)
    if mask.any():
        assert found.mask[0].any()
        assert found.mask[:, -1].any()
    assert run_lengths(rle["counts"]).sum() == mask.size


def test_long_runs():
    mask = np.zeros((3000, 2000), bool)
    mask[5:2990, 3] = True
    mask[0, 1999] = True
    found = crop(encode(mask))
    assert (found.top, found.left, found.mask.shape) == (0, 3, (2990, 1997))
    assert found.mask.sum() == mask.sum()


def test_one_pixel_is_a_square_and_a_ring_has_a_way_to_its_hole():
    (square,) = part_polygons(Crop(4, 7, np.ones((1, 1), bool)))
    assert square.tolist() == [[7, 4], [8, 4], [8, 5], [7, 5]]
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    (polygon,) = part_polygons(Crop(0, 0, ring))
    assert {tuple(corner) for corner in polygon.tolist()} >= {(0, 0), (3, 3), (1, 1), (2, 2)}
    assert fill(polygon, (3, 3)).sum() == 8


@pytest.mark.parametrize("size_hw", [(2, 2), (5, 9)])
def test_what_lies_outside_the_image_is_cut_off(size_hw):
    around = np.array([[-3.0, -3.0], [40.0, -3.0], [40.0, 40.0], [-3.0, 40.0]])
    assert fill(around, size_hw).all()


def hand_disc(radius):
    y, x = np.mgrid[: 2 * radius + 5, : 2 * radius + 5]
    return (y - radius - 2) ** 2 + (x - radius - 2) ** 2 <= radius**2


def outline_distance(ring, points):
    """Return the greatest distance of points from a closed line."""
    nearest = np.full(len(points), np.inf)
    for start, stop in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        side = stop - start
        along = ((points - start) @ side / max(1, side @ side)).clip(0, 1)
        nearest = np.minimum(nearest, np.hypot(*(points - start - along[:, None] * side).T))
    return nearest.max()


@pytest.mark.parametrize("tolerance", [1.0, 3.0])
def test_polygons_with_fewer_corners_stay_within_the_tolerance(tolerance):
    disc = Crop(3, 5, hand_disc(40))
    (exact,), (fewer,) = part_polygons(disc), part_polygons(disc, tolerance)
    assert len(fewer) < len(exact) / 4
    assert outline_distance(fewer, exact) <= tolerance
    assert outline_distance(exact, fewer) == 0, "its corners are corners of the outline"
    size = (100, 100)
    a, b = fill(exact, size), fill(fewer, size)
    assert (a & b).sum() / (a | b).sum() > 1 - tolerance / 20


def sides_that_meet(ring):
    """Return two sides of a closed line that share more than the corner between them, or None."""
    sides = [*zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True)]

    def turn(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    for number, (a, b) in enumerate(sides):
        for c, d in sides[number + 2 : len(sides) - (number == 0)]:
            apart = any(max(a[n], b[n]) < min(c[n], d[n]) for n in (0, 1))
            apart |= any(max(c[n], d[n]) < min(a[n], b[n]) for n in (0, 1))
            astride = turn(a, b, c) * turn(a, b, d) <= 0 and turn(c, d, a) * turn(c, d, b) <= 0
            if astride and not apart:
                return (a, b), (c, d)
    return None


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 4.0])
def test_an_outline_with_fewer_corners_does_not_cross_itself(tolerance):
    for seed in range(200):
        noise = np.random.default_rng(seed).standard_normal((14, 18))
        blobs = ndimage.binary_fill_holes(ndimage.gaussian_filter(noise, 0.7) > 0)
        exact, fewer = (part_polygons(Crop(0, 0, blobs), one) for one in (0.0, tolerance))
        for ring, whole in zip(fewer, exact, strict=True):
            assert sides_that_meet(ring) is None or np.array_equal(ring, whole)


@pytest.mark.parametrize(
    ("rows", "tolerance"),
    [
        (["#....", "###..", "#.#..", "#.#..", "..##.", "..###"], 2.0),
        (["...#", "...#", "####", "###.", "###."], 1.0),  # a corner comes to lie on a side
    ],
)
def test_a_part_whose_simpler_outline_would_cross_itself_stays_exact(rows, tolerance):
    part = Crop(0, 0, np.array([[cell == "#" for cell in row] for row in rows]))
    exact, fewer = part_polygons(part), part_polygons(part, tolerance)
    assert any(sides_that_meet(simpler(ring, tolerance)) for ring in exact)
    assert [ring.tolist() for ring in fewer] == [ring.tolist() for ring in exact]


def test_an_outline_that_would_cross_a_hole_stays_exact():
    mask = np.ones((12, 40), bool)
    mask[8:, :12] = mask[8:, 28:] = mask[4:11, 15:25] = False
    (exact,), (fewer,) = part_polygons(Crop(0, 0, mask)), part_polygons(Crop(0, 0, mask), 4.0)
    assert np.array_equal(fewer, exact)


def test_a_square_keeps_its_corners_and_a_line_of_pixels_its_area():
    square = np.ones((6, 9), bool)
    assert len(part_polygons(Crop(0, 0, square), 1.0)[0]) == 4
    line = np.ones((1, 30), bool)
    (ring,) = part_polygons(Crop(0, 0, line), 2.0)
    assert fill(ring, (5, 40)).sum() == 30


def test_holes_stay_holes_with_fewer_corners():
    mask = hand_disc(30)
    mask[25:40, 25:40] &= ~hand_disc(5)
    (ring,) = part_polygons(Crop(0, 0, mask), 1.0)
    found = fill(ring, mask.shape)
    assert not found[32, 32]
    assert (found & mask).sum() / (found | mask).sum() > 0.95
