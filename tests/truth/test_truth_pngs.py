"""Label PNGs are read as they are stored, whatever editors and optimizers make of them."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from usam_core.config.training import voc_palette
from usam_core.errors import InputError
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.truth.voc import VocTruth

LABELS = ["dog", "plane"]
WORDS = {name: name for name in LABELS}


def voc(folder, values, **options):
    picture = values if isinstance(values, Image.Image) else Image.fromarray(values)
    picture.save(folder / "a.png")
    return VocTruth(folder, LABELS, WORDS, LABELS, **options)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_read_as_stored(tmp_path, bits):
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    packed = [b"\0" + int("".join(f"{v:0{bits}b}" for v in row).ljust(8, "0"), 2).to_bytes(1, "big")
              for row in labels]  # fmt: skip
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(packed))),
        (b"IEND", b""),
    ]
    text = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        text += struct.pack(">I", len(body)) + kind + body
        text += struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a.png").write_bytes(text)
    truth = VocTruth(tmp_path, ["x", "y", "z"], {n: n for n in "xyz"}, ["x", "y", "z"])
    np.testing.assert_array_equal(truth.label_map("a.jpg"), labels)
    np.testing.assert_array_equal(read_label_png(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_labels_of_16_bit_beside_opacity_or_as_colours_are_read_as_stored(tmp_path, channels):
    labels = np.array([[0, 1], [2, 3]], np.uint16)
    values = np.repeat(labels[..., None], channels, axis=2)
    if channels in (2, 4):
        values[..., -1] = 65535
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    truth = VocTruth(tmp_path, ["x", "y", "z"], {n: n for n in "xyz"}, ["x", "y", "z"])
    np.testing.assert_array_equal(truth.label_map("a.jpg"), labels)
    np.testing.assert_array_equal(read_label_png(tmp_path / "a.png"), labels)


def test_a_palette_in_another_order_is_told(tmp_path):
    save_label_png(tmp_path / "a.png", np.array([[0, 1], [3, 3]], np.uint8))
    with Image.open(tmp_path / "a.png") as picture:
        again = picture.convert("RGB").quantize(4)
    again.save(tmp_path / "a.png")
    truth = VocTruth(tmp_path, ["x", "y", "z"], {n: n for n in "xyz"}, ["x", "y", "z"])
    truth.label_map("a.jpg")
    assert any("another order" in note for note in truth.notes)


def test_grey_saved_in_colour_is_an_edit_like_any(tmp_path):
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    Image.fromarray(labels).convert("RGB").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_png(tmp_path / "a.png"), labels)


def test_two_images_that_share_a_png_are_left_out_and_told(tmp_path):
    save_label_png(tmp_path / "a.png", np.array([[0, 1]], np.uint8))
    save_label_png(tmp_path / "b.png", np.array([[0, 1]], np.uint8))
    truth = VocTruth(tmp_path, ["x"], {"x": "x"}, ["x"])
    truth.expect(["a.jpg", "a.tif", "b.jpg"])
    assert truth.label_map("a.jpg") is None
    assert truth.label_map("a.tif") is None
    np.testing.assert_array_equal(truth.label_map("b.jpg"), [[0, 1]])
    assert any("another image's" in note and "a.tif" in note for note in truth.notes)


VALUE = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
LABEL = [[0, 1, 2], [-1, 2, 1]]


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(voc_palette()[VALUE]),
        Image.fromarray(np.dstack([voc_palette()[VALUE], np.full(VALUE.shape, 255, np.uint8)])),
        Image.fromarray(np.dstack([VALUE] * 3)),
        Image.fromarray(VALUE).convert("LA"),
    ],
)
def test_truth_saved_in_color_is_read(tmp_path, picture):
    assert voc(tmp_path, picture).label_map("a.jpg").tolist() == LABEL


def test_a_color_that_is_none_of_vocs_is_named(tmp_path):
    rgb = voc_palette()[VALUE]
    rgb[0, 0] = (1, 2, 3)
    with pytest.raises(InputError, match=r"a\.png: holds the colour #010203"):
        voc(tmp_path, rgb).label_map("a.jpg")


def test_masks_of_nothing_and_void_are_noted(tmp_path):
    truth = voc(tmp_path, np.array([[0, 255]], np.uint8))
    truth.label_map("a.jpg")
    assert "no class in truth that holds 255" in truth.notes[0]
    assert truth.notes[0].endswith("a.jpg")


def test_a_png_that_is_damaged_or_of_another_size_is_left_out_with_a_note(tmp_path):
    truth = voc(tmp_path, VALUE)
    assert truth.label_map("a.jpg", (9, 9)) is None
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    assert truth.label_map("a.jpg") is None
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").mkdir()
    assert truth.label_map("a.jpg") is None
    assert len(truth.notes) == 2
    assert all("a.png" in note for note in truth.notes)


def test_background_first_among_the_names_shifts_no_value(tmp_path):
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "x.png")
    words = {"dog": "dog", "cat": "cat"}
    truth = VocTruth(tmp_path, ["Background", "dog", "cat"], words, ["dog", "cat"])
    assert truth.label_map("x.jpg").tolist() == [[0, 1, 2]]
    assert "background" in truth.notes[0]


def test_the_ending_may_be_in_capitals(tmp_path):
    values, none = np.array([[0, 1], [2, 2]], np.uint8), tmp_path / "none"
    none.mkdir()
    truth = voc(tmp_path, values, objects=tmp_path)
    before = truth.label_map("a.jpg")
    (tmp_path / "a.png").rename(tmp_path / "a.PNG")
    np.testing.assert_array_equal(truth.label_map("a.jpg"), before)
    assert [one["category_id"] for one in truth.instances("a.jpg")] == [1, 2]
    assert truth.digest() != VocTruth(none, LABELS, WORDS, LABELS, objects=none).digest()
