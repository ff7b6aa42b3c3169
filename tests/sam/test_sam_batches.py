"""Batches: equal, of sizes that change results by rounding, smaller when they must be."""

import logging

import numpy as np
import pytest
import torch

from usam_core.masks.bits import unpack
from usam_core.rng import generator
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.embedder import Limit, SamEmbedder, next_batch
from usam_core.sam.nano import build_nano_sam
from usam_core.sources.scenes import SHAPES, TRAINING_LOOK, scene


@pytest.fixture(scope="module")
def nano():
    return build_nano_sam()


def drawn(number, size_hw=(96, 128)):
    return scene(generator(77, number), list(SHAPES), size_hw, TRAINING_LOOK, most=3)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [
        (100, 11, [10] * 10),
        (100, 800, [100]),
        (68, 64, [34, 34]),
        (13, 6, [5, 4, 4]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_batches_are_equal_or_differ_by_one(count, most, sizes):
    found = []
    while sum(found) < count:
        found.append(next_batch(count - sum(found), most))
    assert found == sizes
    assert Limit("prompts", most).run(lambda a, b: b - a, count) == sizes


def test_a_step_of_several_is_counted_as_several():
    assert Limit("prompts", 33).run(lambda a, b: b - a, 10, each=4) == [5, 5]
    assert Limit("prompts", 3).run(lambda a, b: b - a, 2, each=4) == [1, 1]


class Device:
    """Memory for `room` at a time."""

    def __init__(self, room):
        self.room = room
        self.tried = []

    def __call__(self, start, stop):
        self.tried.append(stop - start)
        if self.tried[-1] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stop - start


def test_a_run_much_smaller_than_what_fitted_does_not_lower_the_limit():
    limit, device = Limit("prompts", 64), Device(64)
    limit.run(device, 64)
    device.room = 3  # another process has the memory for a moment
    assert limit.run(device, 4) == [2, 2]
    assert limit.most == 64
    device.room = 64
    assert limit.run(device, 64) == [64]


def test_one_failure_costs_no_more_than_half_of_a_full_batch():
    limit, device = Limit("prompts", 64), Device(33)
    assert limit.run(device, 68) == [17] * 4
    assert device.tried[0] == 34
    assert limit.most == 32


def test_the_limit_comes_down_to_what_fits_and_stays_there():
    limit, device = Limit("prompts", 64), Device(64)
    limit.run(device, 64)
    device.room = 10
    limit.run(device, 64)
    assert limit.most == 8
    device.tried.clear()
    limit.run(device, 64)
    assert device.tried == [8] * 8


def test_runs_that_are_always_small_learn_too():
    limit, device = Limit("prompts", 64), Device(2)
    limit.run(device, 4)
    device.tried.clear()
    limit.run(device, 4)
    assert device.tried == [2, 2]


def test_a_padded_batch_takes_as_much_as_a_full_one():
    limit = Limit("images", 4, padded=True)
    tried = []

    def work(start, stop):
        tried.append(limit.most)
        if limit.most > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stop - start

    assert limit.run(work, 1) == [1]
    assert tried == [4, 2, 1]

    def never(start, stop):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        limit.run(never, 1)


def embedded(nano, images, size, dtype):
    return SamEmbedder(
        SegmentAnything(nano), "nano", "0", 5, points_per_batch=size, dtype=dtype
    ).embed(images)


def test_in_float32_the_result_does_not_depend_on_batches(nano):
    images = [drawn(i).image for i in range(3)]
    whole = embedded(nano, images, 25, "float32")
    for size in (1, 3, 11):
        for a, b in zip(whole, embedded(nano, images, size, "float32"), strict=True):
            # float16 keeps 3 digits; other machines' kernels may sum in another order.
            np.testing.assert_allclose(a.tokens, b.tokens, rtol=0, atol=0.02)
            np.testing.assert_allclose(a.predicted_iou, b.predicted_iou, rtol=0, atol=1e-5)
            assert np.bitwise_count(a.packed_masks ^ b.packed_masks).sum() <= 10


def test_in_bfloat16_batches_change_masks_by_a_hundredth(nano):
    images = [drawn(i, (160, 160)).image for i in range(3)]
    whole = embedded(nano, images, 25, "bfloat16")
    for size in (1, 2, 3, 11):
        some = embedded(nano, images, size, "bfloat16")
        ious = []
        for one, other in zip(whole, some, strict=True):
            np.testing.assert_allclose(one.predicted_iou, other.predicted_iou, rtol=0, atol=0.05)
            a, b = unpack(one.packed_masks), unpack(other.packed_masks)
            union = (a | b).sum((2, 3))
            ious.extend(((a & b).sum((2, 3)) / union.clip(1))[union > 20])
        assert len(ious) > 200
        # Measured 0.993 for batches of 1 and 0.997 or more for others (docs/speed.md).
        assert np.mean(ious) > 0.98


def test_a_cpu_decodes_a_grid_in_equal_batches(nano, monkeypatch):
    embedder = SamEmbedder(SegmentAnything(nano), "nano", "0", points_per_side=10)
    sizes = refusing(embedder._decoder, monkeypatch, "forward", 100, lambda _, p: p.shape[1])
    embedder.embed([drawn(0).image])
    assert sizes == [10] * 10


def refusing(module, monkeypatch, name, most, of):
    """Have a part of the model say, as CUDA does, that more than `most` at a time do not fit."""
    sizes = []
    real = getattr(module, name)

    def maybe(*arguments):
        sizes.append(of(*arguments))
        if sizes[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    monkeypatch.setattr(module, name, maybe)
    return sizes


def test_out_of_memory_halves_the_prompts_and_goes_on(nano, monkeypatch, caplog):
    image = drawn(1).image
    (expected,) = SamEmbedder(SegmentAnything(nano), "nano", "0", 4, points_per_batch=16).embed(
        [image]
    )
    embedder = SamEmbedder(SegmentAnything(nano), "nano", "0", 4, points_per_batch=16)
    sizes = refusing(embedder._decoder, monkeypatch, "forward", 4, lambda _, p: p.shape[1])
    for _ in range(2):
        (found,) = embedder.embed([image])
        np.testing.assert_allclose(found.predicted_iou, expected.predicted_iou, atol=1e-4)
    # It is learnt once, and told once.
    assert sizes == [16, 8, 4, 4, 4, 4] + [4] * 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "16 prompts at a time" in caplog.text


def test_out_of_memory_halves_the_images_and_goes_on(nano, monkeypatch):
    images = [drawn(n).image for n in range(4)]
    expected = SamEmbedder(SegmentAnything(nano), "nano", "0", 2).embed(images)
    embedder = SamEmbedder(SegmentAnything(nano), "nano", "0", 2)
    embedder._images.most = 4
    sizes = refusing(embedder, monkeypatch, "_encode", 1, len)
    found = embedder.embed(images)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert embedder.batch_size == 1
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.predicted_iou, b.predicted_iou, atol=1e-4)


def test_what_does_not_fit_alone_is_an_error(nano, monkeypatch):
    embedder = SamEmbedder(SegmentAnything(nano), "nano", "0", 2)
    refusing(embedder._decoder, monkeypatch, "forward", 0, lambda _, p: p.shape[1])
    with pytest.raises(torch.OutOfMemoryError):
        embedder.embed([drawn(0).image])


def compiled_by_nothing(nano, monkeypatch, most):
    """Return an embedder for four images at a time of which `most` fit, and what it tries."""
    monkeypatch.setattr(torch, "compile", lambda part, **_: part)
    embedder = SamEmbedder(SegmentAnything(nano), "nano", "0", 2, compiled=True)
    embedder._images.most = 4
    return embedder, refusing(embedder, monkeypatch, "_encode", most, len)


def test_out_of_memory_at_the_first_compiled_batch_halves_it(nano, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    images = [drawn(n).image for n in range(5)]
    expected = SamEmbedder(SegmentAnything(nano), "nano", "0", 2).embed(images)
    embedder, sizes = compiled_by_nothing(nano, monkeypatch, 2)
    found = embedder.embed(images)
    assert sizes == [4, 2, 2, 2, 2]
    assert "compiled encoder and decoder in" in caplog.text
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.predicted_iou, b.predicted_iou, atol=1e-4)


def test_a_lone_image_that_is_padded_may_be_padded_less(nano, monkeypatch):
    embedder, sizes = compiled_by_nothing(nano, monkeypatch, 4)
    embedder.embed([drawn(0).image])
    monkeypatch.undo()
    sizes = refusing(embedder, monkeypatch, "_encode", 1, len)
    assert len(embedder.embed([drawn(0).image])) == 1
    assert sizes == [4, 2, 1]
    refusing(embedder, monkeypatch, "_encode", 0, len)
    with pytest.raises(torch.OutOfMemoryError):
        embedder.embed([drawn(0).image])
