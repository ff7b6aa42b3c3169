"""One byte a number: how far a row may be off, and that a store keeps its promise with it."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.store.test_store import SPEC, good, mask_set, sha
from usam_core.store.arrays import decode_rows8, encode_rows8
from usam_core.store.layout import PRECISION
from usam_core.store.shard import ShardRecord
from usam_core.store.store import EmbeddingStore
from usam_core.types import ImageFile

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=16)


@given(arrays.arrays(np.float16, st.tuples(*3 * [st.integers(1, 5)]), elements=NUMBERS))
@example(np.full((1, 1, 1), 65504, np.float16))  # its scale is rounded up
def test_a_number_is_off_by_at_most_a_254th_of_its_rows_largest(values):
    found = decode_rows8(encode_rows8(values))
    assert found.dtype == np.float16
    assert found.shape == values.shape
    largest = np.abs(values.astype(np.float64)).max(axis=-1, keepdims=True)
    # Beside half a step: the scale's own rounding, and float16's of what comes out.
    allowed = largest * (1 / 254 + 2**-10) + 127 * 2.0**-24
    assert (np.abs(found.astype(np.float64) - values) <= allowed).all()


def test_a_hand_worked_row():
    packed = encode_rows8(np.array([[2.54, -1, 0, 0.06]], np.float16))
    assert packed[0, :4].tolist() == [127, -50, 0, 3]
    assert packed.shape == (1, 6)


def test_a_row_with_an_infinity_is_no_number_afterwards():
    values = np.array([[1, np.inf], [1, 2]], np.float16)
    found = decode_rows8(encode_rows8(values))
    assert np.isnan(found[0]).any()
    assert found[1].tolist() == pytest.approx([1, 2], rel=0.01)


def test_a_store_of_bytes_gives_near_features_and_the_very_masks(tmp_path):
    store = EmbeddingStore.create_or_open(tmp_path, {**SPEC, PRECISION: "int8"})
    plain = EmbeddingStore.create_or_open(tmp_path, SPEC)
    assert store.path != plain.path
    one = mask_set(0)
    for each in (store, plain):
        each.write_shard([ShardRecord(ImageFile("x", sha(0)), one), good(1)])
    found, exact = store.read(sha(0)), plain.read(sha(0))
    np.testing.assert_array_equal(found.packed_masks, exact.packed_masks)
    np.testing.assert_array_equal(found.predicted_iou, exact.predicted_iou)
    for name in ("tokens", *one.features):
        ours = found.tokens if name == "tokens" else found.features[name]
        theirs = exact.tokens if name == "tokens" else exact.features[name]
        assert ours.dtype == np.float16
        np.testing.assert_array_equal(ours, decode_rows8(encode_rows8(theirs)))
    assert store.verify() == []
