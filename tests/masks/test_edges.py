"""Masks that follow the image's edges, and lose holes and islands."""

import numpy as np
import pytest
from scipy import ndimage

from usam_core.masks.bits import pack, upscale, valid_hw
from usam_core.masks.edges import EPSILON, RADIUS, Edges
from usam_core.masks.tidy import tidy_labels, tidy_mask

FRAME = 40


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def world(size_hw=(300, 400), noise=6, seed=0):
    """Return an image with a disc in another color, the disc, and its mask on a shifted grid."""
    h, w = size_hw
    y, x = np.mgrid[:h, :w]
    disc = (y - 0.5 * h) ** 2 + (x - 0.4 * w) ** 2 < (0.25 * h) ** 2
    rgb = np.where(disc[..., None], (180, 90, 60), (60, 110, 120)).astype(float)
    rgb += np.random.default_rng(seed).normal(0, noise, rgb.shape)
    rows, columns = valid_hw(size_hw, FRAME)
    low = np.zeros((FRAME, FRAME), bool)
    at_y = ((np.arange(rows) + 0.5) * h / rows).astype(int)
    at_x = ((np.arange(columns) + 0.5) * w / columns).astype(int)
    low[:rows, :columns] = disc[np.ix_(at_y, at_x)]
    return rgb.clip(0, 255).astype(np.uint8), disc, np.roll(low, 1, axis=1)


@pytest.mark.parametrize("size_hw", [(300, 400), (401, 217), (37, 33)])
def test_a_mask_beside_the_object_moves_onto_it(size_hw):
    rgb, disc, low = world(size_hw)
    packed = pack(low[None])
    before, after = upscale(packed, size_hw)[0], Edges(rgb, FRAME).masks(packed)[0]
    assert after.shape == size_hw
    assert after.dtype == bool
    assert iou(after, disc) > max(0.93, iou(before, disc) + 0.02)


def plain_filter(rgb, low, size_hw):
    """The same by the paper's formulas: every cell its own 3 x 3 system, scaled up by scipy."""
    rows, columns = valid_hw(size_hw, FRAME)
    from PIL import Image

    small = np.asarray(Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BILINEAR))
    guide, mask = small / 255.0, low[:rows, :columns].astype(float)
    pad = [(RADIUS, RADIUS)] * 2
    padded_guide = np.pad(guide, [*pad, (0, 0)], mode="edge")
    padded = np.pad(mask, pad, mode="edge")
    fits = np.zeros((rows, columns, 4))
    for i in range(rows):
        for j in range(columns):
            window = slice(i, i + 2 * RADIUS + 1), slice(j, j + 2 * RADIUS + 1)
            colors, values = padded_guide[window].reshape(-1, 3), padded[window].ravel()
            system = np.cov(colors.T, bias=True) + EPSILON * np.eye(3)
            mean = colors.mean(0)
            slope = np.linalg.solve(
                system, (colors * values[:, None]).mean(0) - mean * values.mean()
            )
            fits[i, j] = *slope, values.mean() - slope @ mean
    fits = ndimage.uniform_filter(fits, (2 * RADIUS + 1,) * 2 + (1,), mode="nearest")
    h, w = size_hw
    at = np.meshgrid(
        (np.arange(h) + 0.5) * rows / h - 0.5,
        (np.arange(w) + 0.5) * columns / w - 0.5,
        indexing="ij",
    )
    full = [ndimage.map_coordinates(fits[..., n], at, order=1, mode="nearest") for n in range(4)]
    return sum(full[n] * rgb[..., n] / 255.0 for n in range(3)) + full[3]


def test_it_is_the_guided_filter_of_the_paper():
    _, _, low = world((90, 120))
    chance = np.random.default_rng(3).normal(size=(90, 120, 3))
    smooth = ndimage.gaussian_filter(chance, (3, 3, 0))
    smooth[..., 2] += smooth[..., 1]  # colors that change together
    rgb = (128 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)
    values = plain_filter(rgb, low, (90, 120))
    found = Edges(rgb, FRAME).masks(pack(low[None]))[0]
    sure = np.abs(values - 0.5) > 1e-3
    assert np.array_equal(found[sure], (values >= 0.5)[sure])
    assert sure.mean() > 0.98


def test_strips_change_nothing(monkeypatch):
    rgb, _, low = world((90, 120))
    packed = pack(np.stack([low, np.roll(low, 5, axis=0)]))
    fine = np.kron(low[:30], np.ones((2, 2), np.uint8)) * np.uint8(2)
    fine[:10, :10] = 1
    whole = Edges(rgb, FRAME)
    expected = whole.masks(packed), whole.labels(fine)
    monkeypatch.setattr("usam_core.masks.edges._STRIP", 90 * 7)
    assert np.array_equal(whole.masks(packed), expected[0])
    assert np.array_equal(whole.labels(fine), expected[1])


def test_labels_follow_edges_and_one_label_is_the_mask():
    rgb, disc, low = world()
    edges = Edges(rgb, FRAME)
    assert edges.fine_hw == (60, 80)
    fine = np.kron(low[:30], np.ones((2, 2))).astype(np.uint16) * np.uint16(300)
    labels = edges.labels(fine)
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == {0, 300}
    assert iou(labels == 300, disc) > 0.93
    assert iou(labels == 300, edges.masks(pack(low[None]))[0]) > 0.999
    assert not edges.labels(fine * 0).any()


def test_without_any_color_masks_keep_their_place_and_never_vanish():
    gray = np.full((300, 400, 3), 128, np.uint8)
    low = np.zeros((2, FRAME, FRAME), bool)
    low[0, 8:20, 10:25] = True
    low[1, 15, 15] = True  # one cell: a window of seven cells alone would smooth it away
    found, scaled = Edges(gray, FRAME).masks(pack(low)), upscale(pack(low), (300, 400))
    assert iou(found[0], scaled[0]) > 0.8
    assert np.array_equal(found[1], scaled[1])


def test_an_empty_mask_stays_empty():
    rgb, _, low = world()
    assert not Edges(rgb, FRAME).masks(pack(low[None] & False)).any()
    assert Edges(rgb, FRAME).masks(pack(low[None])[:0]).shape == (0, 300, 400)


def test_islands_and_holes_below_a_share_of_the_mask_go_and_others_stay():
    mask = np.zeros((60, 60), bool)
    mask[10:40, 10:40] = True
    expected = mask.copy()
    mask[15:18, 15:18] = False  # 1 % of the mask: closed
    mask[50:53, 50:53] = True  # 1 %: dropped
    mask[25:35, 25:35] = expected[25:35, 25:35] = False  # 11 %: a hole
    mask[45:55, 20:30] = expected[45:55, 20:30] = True  # 11 %: a part
    assert np.array_equal(tidy_mask(mask.copy(), 0.05), expected)
    assert np.array_equal(tidy_mask(mask.copy(), 0), mask)


def test_the_largest_part_stays_and_what_reaches_the_image_rim_is_no_hole():
    mask = np.zeros((30, 30), bool)
    mask[::2, ::2] = True
    assert tidy_mask(mask.copy(), 0.5).sum() == 1
    bay = np.zeros((30, 30), bool)
    bay[0:20, 5:25] = True
    bay[0:2, 10:12] = False
    assert np.array_equal(tidy_mask(bay.copy(), 0.05), bay)


def test_small_regions_of_a_label_map_go_to_what_is_around():
    labels = np.zeros((40, 40), np.uint8)
    labels[5:35, 5:20], labels[5:35, 20:35] = 1, 2
    expected = labels.copy()
    labels[10:12, 10:12] = 0  # a hole in 1
    labels[20:22, 30:32] = 1  # a speck within 2
    labels[1:3, 1:3] = 2  # a speck on background
    labels[28:33, 8:13] = expected[28:33, 8:13] = 0  # 25 pixels: large enough
    assert np.array_equal(tidy_labels(labels.copy(), 20), expected)
    assert np.array_equal(tidy_labels(labels.copy(), 0), labels)


def test_small_regions_that_touch_go_together_and_a_map_of_nothing_else_stays():
    labels = np.ones((20, 20), np.uint8)
    labels[5, 5], labels[5, 6] = 0, 2
    labels[10:13, 10:13] = 2
    labels[11, 11] = 0
    assert (tidy_labels(labels.copy(), 10) == 1).all()
    assert np.array_equal(tidy_labels(labels.copy(), 1000), labels)
