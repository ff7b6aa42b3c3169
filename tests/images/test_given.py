"""Images in memory are read as the files that hold them would be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from usam_core.errors import InputError
from usam_core.images.given import rgb_of, take
from usam_core.images.read import read_image
from usam_core.images.ref import Box

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))
SHAPES = st.one_of(SIDES, SIDES.flatmap(lambda hw: st.sampled_from([(*hw, 3), (*hw, 4)])))
READ = {"max_megapixels": 1.0, "window": "percentile", "channels": None, "projection": "none"}


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(arrays.arrays(np.uint8, SHAPES), arrays.arrays(np.uint16, SIDES)),
    st.sampled_from(["percentile", "full", (10.0, 300.0)]),
    st.booleans(),
)
def test_an_array_is_read_as_its_png(tmp_path_factory, array, window, stretch):
    file = tmp_path_factory.mktemp("png") / "a.png"
    Image.fromarray(array).save(file)
    wanted = read_image(file, window=window, stretch=stretch).rgb
    assert np.array_equal(rgb_of(array, window=window, stretch=stretch), wanted)
    with Image.open(file) as picture:
        assert np.array_equal(rgb_of(picture, window=window, stretch=stretch), wanted)


def test_a_pillow_image_stands_upright(tmp_path):
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert np.array_equal(rgb_of(opened), read_image(tmp_path / "a.jpg").rgb)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 5), np.float32), "float32 (4, 5); expected uint8"),
        (np.zeros((4, 5, 3)), "image * 255"),
        (np.zeros((4, 5, 2), np.uint8), "uint8 (4, 5, 2); expected uint8"),
        (np.zeros((4, 5, 3), np.uint16), "uint16 (4, 5, 3)"),
        (np.zeros((0, 5), np.uint8), "uint8 (0, 5)"),
        (np.zeros((), np.uint8), "uint8 ()"),
        (np.zeros((4, 5), bool), "bool (4, 5)"),
        (np.zeros((1, 200), np.uint8), "at most 64 to 1"),
        (np.zeros((2000, 600), np.uint8), "1.2 megapixels"),
        (7, "got int; expected a path"),
        ("nothing.png", "nothing.png: no such file"),
        (".", "got a folder; expected one image"),
    ],
)
def test_what_is_no_image_is_told(image, words):
    with pytest.raises(InputError) as told:
        take(image, READ)
    assert words in str(told.value)


def test_a_damaged_picture_is_told(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:5000])
    with Image.open(file) as picture, pytest.raises(InputError, match="export the file again"):
        rgb_of(picture)


def test_large_images_are_to_be_tiled_and_boxes_cut_them(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(6, 10)
    Image.fromarray(array).save(tmp_path / "a.png")
    box = Box((1, 5), (2, 10))
    for image in (array, tmp_path / "a.png"):
        taken = take(image, READ, tile=8)
        assert taken.large == (6, 10)
        assert np.array_equal(taken.read(box)[..., 0], array[1:5, 2:10])
        assert take(image, READ, tile=10).large is None
    assert take(array, READ).sha256 == ""
    assert len(taken.sha256) == 64
