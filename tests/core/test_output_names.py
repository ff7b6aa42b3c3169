"""From image paths to names of files: safe, and no two the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usam_core.outputs.names import output_names


def test_images_whose_names_differ_in_their_endings_have_names_of_their_own():
    names = output_names(["a.jpg", "a.png", "a.jpg.tif", "b.tif"])
    assert re.fullmatch("a.jpg-[0-9a-f]{12}", names.pop("a.jpg"))
    assert names == {"a.png": "a.png", "a.jpg.tif": "a.jpg.tif", "b.tif": "b"}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["s0.png", "sub/s0.png"], ["s0", "sub/s0"]),
        (["w.ome.tif#t=3,z=0", "w.ome.tif#t=3,z=1"], ["w.ome_t3_z0", "w.ome_t3_z1"]),
        (["w.tif#t=3", "w_t3.tif"], ["w.tif_t3", "w_t3.tif"]),
        (["A.png", "a.jpg"], ["A.png", "a.jpg"]),
        (["s3://bucket/a?b.png"], ["s3/bucket/a_b"]),
        (["../x.png", "/y.png"], ["_/x", "y"]),
        (["well #1, a=b.png"], ["well #1, a=b"]),
    ],
)
def test_names(paths, names):
    assert list(output_names(paths).values()) == names


letters = st.text("aA.#=t0,/:_", min_size=1, max_size=6)


@given(st.lists(letters.map(lambda text: f"{text}.png"), unique=True, max_size=12))
def test_no_two_are_the_same_and_all_stay_below_their_folder(paths):
    names = output_names(paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    for name in names.values():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
