"""Tiles of a large image, and the joining of what was found in them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from usam_core.images.ref import Box, ImageRef, neighbors, shared, tile_digest, tiles_of
from usam_core.masks.rle import decode, encode, measures
from usam_core.masks.seams import joined, rectangle, shifted, suppressed

sizes = st.integers(1, 90)


@given(sizes, sizes, st.integers(8, 40), st.data())
@settings(deadline=None)
def test_cores_fill_the_image_once_and_tiles_overlap(height, width, tile, data):
    overlap = data.draw(st.integers(1, tile // 2))
    tiles = tiles_of((height, width), tile, overlap)
    covered = np.zeros((height, width), int)
    for one in tiles:
        covered[one.core.slices] += 1
        assert shared(one.core, one.box) == one.core
        assert one.box.size_hw == (min(height, tile), min(width, tile))
    assert (covered == 1).all()
    boxes = [one.box for one in tiles]
    every = {(a, b) for a in range(len(boxes)) for b in range(a) if shared(boxes[a], boxes[b])}
    assert {(b, a) for a, b, _ in neighbors(boxes)} == every
    for one, after in pairwise(boxes):
        if one.rows == after.rows:
            assert shared(one, after).size_hw[1] >= overlap


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
    st.tuples(*[st.integers(0, 4)] * 4),
)
@settings(deadline=None, max_examples=300)
def test_a_shifted_mask_is_the_mask_elsewhere(mask, around):
    top, bottom, left, right = around
    whole = np.pad(mask, ((top, bottom), (left, right)))
    box = Box((top, top + mask.shape[0]), (left, left + mask.shape[1]))
    found = shifted(encode(mask), box, whole.shape)
    assert found == encode(whole)
    inside = np.zeros(whole.shape, bool)
    inside[box.slices] = True
    assert rectangle(box, whole.shape) == encode(inside)


SIZE = (120, 150)


def split(objects, tile=60, overlap=20):
    """Return what perfect tiles list of objects (mask, category, score), and the tiles' boxes."""
    boxes = [one.box for one in tiles_of(SIZE, tile, overlap)]
    found = []
    for box in boxes:
        parts = [(mask[box.slices], category, score) for mask, category, score in objects]
        found.append(
            [
                {**measures(shifted(encode(part), box, SIZE)), "category_id": category, "score": s}
                for part, category, s in parts
                if part.any()
            ]
        )
    return found, boxes


def ellipse(row, column, height, width):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1


def box_mask(rows, columns):
    mask = np.zeros(SIZE, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        ellipse(20, 50, 15, 25),  # across a vertical seam
        ellipse(50, 20, 25, 15),  # across a horizontal one
        ellipse(50, 50, 30, 30),  # around the corner of four tiles
        ellipse(60, 75, 58, 70),  # seen whole by none
        box_mask((0, 120), (0, 150)),
        box_mask((48, 50), (0, 150)),
        box_mask((44, 56), (44, 56)),  # within what tiles share
    ],
)
def test_an_object_on_a_seam_is_one(mask):
    found, boxes = split([(mask, 1, 0.9)])
    assert sum(map(len, found)) > 1
    (one,) = joined(found, boxes, SIZE)
    assert np.array_equal(decode(one["segmentation"]), mask)
    assert (one["area"], one["category_id"]) == (mask.sum(), 1)


def test_neighbors_that_touch_stay_two():
    left, right = box_mask((10, 40), (20, 50)), box_mask((10, 40), (50, 90))
    for categories in ((1, 2), (1, 1)):
        found, boxes = split([(left, categories[0], 0.9), (right, categories[1], 0.8)])
        objects = joined(found, boxes, SIZE)
        kept, gone = suppressed(objects, boxes, 0.5)
        assert not gone
        assert [one["area"] for one in kept] == [left.sum(), right.sum()]


def test_the_best_score_counts():
    mask = ellipse(20, 50, 15, 25)
    found, boxes = split([(mask, 1, 0.5)])
    found[1][0] |= {"score": 0.8, "prompt": 7}
    (one,) = joined(found, boxes, SIZE)
    assert (one["score"], one["prompt"], one["tiles"]) == (0.8, 7, [0, 1])


def test_one_thing_has_one_name():
    """Two tiles call what both see whole by different names: the better one stays."""
    mask = box_mask((10, 30), (42, 58))
    found, boxes = split([(mask, 1, 0.5)])
    found[1][0] |= {"category_id": 2, "score": 0.8}
    kept, gone = suppressed(joined(found, boxes, SIZE), boxes, 0.5)
    assert [one["category_id"] for one in kept] == [2]
    assert [(a["category_id"], b["category_id"]) for a, b in gone] == [(1, 2)]


def test_a_slice_of_an_object_is_no_second_one():
    """A tile that sees a thing's edge takes half of that for a thing: it lies in the object."""
    mask, part = box_mask((10, 30), (10, 58)), box_mask((10, 16), (41, 58))
    found, boxes = split([(mask, 1, 0.9)])
    found[1] = [{**measures(encode(part)), "category_id": 1, "score": 0.4}]
    kept, gone = suppressed(joined(found, boxes, SIZE), boxes, 0.5)
    assert ([one["area"] for one in kept], len(gone)) == ([mask.sum()], 1)


def test_a_tile_has_an_address_and_a_key_of_its_own():
    box = Box((0, 64), (32, 96))
    for text, plane in (
        ("a#b/c.tif#rows=0:64,columns=32:96", ()),
        ("c.tif#t=1,rows=0:64,columns=32:96", (("t", 1),)),
    ):
        ref = ImageRef.parse(text)
        assert (ref.plane, ref.box, str(ref)) == (plane, box, text)
    assert ImageRef.parse("c.tif#rows=0:64").box is None
    keys = {tile_digest("k", box), tile_digest("k", Box((0, 64), (0, 64))), tile_digest("l", box)}
    assert len(keys) == 3
