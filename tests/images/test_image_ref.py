"""An address of a plane is text and back, and names outputs that every disk takes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usam_core.errors import InputError
from usam_core.images.ref import ImageRef

AXES = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)
PLANES = st.dictionaries(AXES, st.integers(0, 10**6), max_size=4).map(lambda d: tuple(d.items()))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
FILES = NAMES.filter(lambda name: not re.search(r"#[a-z][a-z0-9]*=\d+[^#]*$", name))


@given(FILES, PLANES)
def test_what_is_written_is_read(file, plane):
    ref = ImageRef(file, plane)
    assert ImageRef.parse(str(ref)) == ref


@given(NAMES)
def test_any_text_is_the_address_of_something_and_stays_itself(text):
    try:
        ref = ImageRef.parse(text)
    except InputError:
        assert "#" in text
    else:
        assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    [
        "a#1.tif",
        "#t=1",
        "a#t=01",
        "a#t=-1",
        "a#T=1",
        "a#t",
        "a#t=1,",
        "a#",
        "a#t=1 ",
        "a#t=1#b.tif",
    ],
)
def test_what_is_no_plane_belongs_to_the_name(text):
    assert ImageRef.parse(text) == ImageRef(text)


def test_an_axis_that_comes_twice_is_told():
    with pytest.raises(InputError, match=r"a\.tif#t=1,t=2: got an axis twice"):
        ImageRef.parse("a.tif#t=1,t=2")


@given(FILES, PLANES.filter(len), PLANES.filter(len))
def test_planes_of_a_file_have_outputs_of_their_own(file, one, other):
    names = [ImageRef(file, plane).output_name(".png", keep=True) for plane in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert not set(names[0].removeprefix(file)) & set('#=,:*?"<>|')
