"""Splits: every class in each about as often, no group in two, the same ones for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usam_core.distill.splits import SPLITS, group_names, split_images
from usam_core.errors import ConfigError, InputError
from usam_core.rng import generator

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def split(groups, classes, seed=0, shares=SHARES):
    return split_images(groups, np.asarray(classes, bool), shares, generator(seed, "t"))


def test_rare_classes_are_shared_out_as_the_images_are():
    classes = np.zeros((100, 3), bool)
    classes[:, 0] = True
    classes[:10, 1] = True  # 6, 2 and 2 of them
    classes[50:55, 2] = True  # 3, 1 and 1
    found = np.array(split([str(n) for n in range(100)], classes))
    for column, total in enumerate((100, 10, 5)):
        shown = [int(classes[found == name, column].sum()) for name in SPLITS]
        assert shown == [total * 6 // 10, total * 2 // 10, total * 2 // 10], column


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.booleans(), min_size=2, max_size=2)), min_size=12
    ),
    st.integers(0, 3),
)
def test_no_group_is_parted_and_no_split_is_empty(rows, seed):
    groups = [f"g{number}" for number, _ in rows]
    if len(set(groups)) < 3:
        return
    classes = [shown for _, shown in rows]
    found = split(groups, classes, seed)
    assert set(found) == set(SPLITS)
    assert len({(g, name) for g, name in zip(groups, found, strict=True)}) == len(set(groups))
    assert split(groups, classes, seed) == found


def test_another_seed_splits_otherwise_and_no_val_is_none():
    groups, classes = [str(n) for n in range(40)], np.ones((40, 1))
    assert split(groups, classes, 0) != split(groups, classes, 1)
    found = split(groups, classes, shares={"train": 0.8, "val": 0.0, "test": 0.2})
    assert sorted(found) == ["test"] * 8 + ["train"] * 32


def test_too_few_groups_are_a_sentence():
    with pytest.raises(InputError, match=r"4 labelled images in 2 groups; expected at least 3"):
        split(["a", "a", "b", "b"], np.ones((4, 1)))


def test_planes_of_a_file_and_equal_images_are_one_group():
    paths = ["a/s.tif", "a/t.tif", "b/s.tif", "b/u.tif"]
    assert len(set(group_names(paths, list("wxyz"), "image"))) == 4
    same = group_names(paths, list("wxwz"), "image")
    assert same[0] == same[2]
    assert len(set(same)) == 3
    planes = ["a/s.tif::t=0", "a/s.tif::t=1", "a/t.tif"]
    assert group_names(planes, list("xyz"), "folder") == ["a"] * 3
    # Through a chain of copies all of them hang together.
    chained = group_names(["a/1", "b/2", "c/3", "d/4"], ["p", "q", "q", "r"], r"^(\w)")
    assert chained == ["a", "b", "b", "d"]
    assert len(set(group_names(list("abcd"), ["p", "p", "q", "p"], "image"))) == 2


def test_an_expression_names_groups_and_must_be_found():
    paths = ["plate1_A.png", "plate1_B.png", "plate2_A.png"]
    assert group_names(paths, list("xyz"), r"(plate\d)_") == ["plate1", "plate1", "plate2"]
    with pytest.raises(ConfigError, match=r"distill\.group: 'well' is not found in 'plate1_A"):
        group_names(paths, list("xyz"), "well")
