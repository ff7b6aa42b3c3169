"""What a person sees is what `read_image` gives: exact pixels for every way of holding them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from usam_core.errors import InputError
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.rgb import apply_window, over_white, upright

# A 2 x 3 picture whose every pixel differs: where one goes is seen.
RGB = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 100, 50], [255, 255, 255]]],
    np.uint8,
)
GREY = np.array([[0, 1, 100], [200, 254, 255]], np.uint8)


def save(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png16(path: Path, values: np.ndarray, transparent: bytes = b"") -> Path:
    """Write what Pillow cannot: a PNG of 16 bit a channel, (h, w) grey, (h, w, 3) or (h, w, 4)."""
    height, width = values.shape[:2]
    color_type = {2: 0, 3: 2 if values.shape[-1] == 3 else 6}[values.ndim]

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda seen: seen),
        (2, np.fliplr),
        (3, lambda seen: np.rot90(seen, 2)),
        (4, np.flipud),
        (5, lambda seen: seen.transpose(1, 0, 2)),
        (6, lambda seen: np.rot90(seen, 1)),
        (7, lambda seen: np.rot90(seen, 2).transpose(1, 0, 2)),
        (8, lambda seen: np.rot90(seen, -1)),
    ],
)
@pytest.mark.parametrize("name", ["x.png", "x.tiff", "x.webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, turn, name):
    # The camera stored the scene turned by `turn`; 6 is the common "hold the phone upright".
    stored = Image.fromarray(np.ascontiguousarray(turn(RGB)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, stored, name, exif=exif, **({"lossless": True} if "webp" in name else {}))
    np.testing.assert_array_equal(read_image(path).rgb, RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_an_uncompressed_grey_tiff(tmp_path, orientation):
    values = np.arange(15, dtype=np.uint8).reshape(3, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(values), "x.tiff", exif=exif)
    expected = upright(values[..., None], orientation)[..., 0]
    np.testing.assert_array_equal(read_image(path).rgb[..., 0], expected)


def test_orientation_of_a_jpeg(tmp_path):
    # Left half black, right half white; stored turned a quarter to the left.
    seen = np.zeros((16, 32, 3), np.uint8)
    seen[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(
        tmp_path, Image.fromarray(np.rot90(seen)), "x.jpg", exif=exif, quality=100, subsampling=0
    )
    np.testing.assert_array_equal(read_image(path).rgb, seen)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_makes_no_sense_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    path = save(tmp_path, Image.fromarray(RGB), "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(path).rgb, RGB)


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB), "x.png", exif=b"Exif\0\0rubbish!")
    np.testing.assert_array_equal(read_image(path).rgb, RGB)


def test_alpha_is_composited_over_white(tmp_path):
    alpha = np.array([[0, 255, 51], [128, 255, 1]], np.uint8)
    rgba = np.dstack([RGB, alpha])
    # By hand, round((a v + (255 - a) 255) / 255): 51 of (0, 0, 255) -> (204, 204, 255);
    # 128 of (10, 20, 30): (1280 + 32385) / 255 = 132.02, (2560 + 32385) / 255 = 137.04, 142.06;
    # 1 of white is white.
    expected = np.array(
        [
            [[255, 255, 255], [0, 255, 0], [204, 204, 255]],
            [[132, 137, 142], [200, 100, 50], [255, 255, 255]],
        ]
    )
    for name in ("x.png", "x.webp", "x.tiff"):
        options = {"lossless": True, "exact": True} if "webp" in name else {}
        path = save(tmp_path, Image.fromarray(rgba), name, **options)
        np.testing.assert_array_equal(read_image(path).rgb, expected, err_msg=name)


def test_grey_with_alpha(tmp_path):
    image = Image.fromarray(np.dstack([GREY, np.full_like(GREY, 51)]), "LA")
    # 51 / 255 = a fifth: 0 -> 204, 1 -> 204.2, 100 -> 224, 200 -> 244, 254 -> 254.8, 255.
    expected = np.array([[204, 204, 224], [244, 255, 255]])
    found = read_image(save(tmp_path, image, "x.png"))
    np.testing.assert_array_equal(found.rgb, np.repeat(expected[..., None], 3, 2))
    assert (found.mode, found.window) == ("LA", None)


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


R, G, B, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize(
    ("name", "transparency", "expected"),
    [
        ("plain.png", None, [[R, G, B], [B, G, R]]),
        ("index.png", 1, [[R, WHITE, B], [B, WHITE, R]]),
        ("bytes.png", b"\x00\xff\x33", [[WHITE, G, [204, 204, 255]], [[204, 204, 255], G, WHITE]]),
        ("plain.gif", None, [[R, G, B], [B, G, R]]),
        ("index.gif", 2, [[R, G, WHITE], [WHITE, G, R]]),
        ("plain.bmp", None, [[R, G, B], [B, G, R]]),
    ],
)
def test_palette(tmp_path, name, transparency, expected):
    options = {} if transparency is None else {"transparency": transparency}
    path = save(tmp_path, palette_image(), name, **options)
    np.testing.assert_array_equal(read_image(path).rgb, expected)


def test_one_transparent_color_in_rgb_and_grey(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB), "rgb.png", transparency=(10, 20, 30))
    expected = RGB.copy()
    expected[1, 0] = 255
    np.testing.assert_array_equal(read_image(path).rgb, expected)
    path = save(tmp_path, Image.fromarray(GREY), "grey.png", transparency=100)
    expected = np.where(GREY == 100, 255, GREY)
    np.testing.assert_array_equal(read_image(path).rgb, np.repeat(expected[..., None], 3, 2))


def test_greyscale_and_black_and_white(tmp_path):
    path = save(tmp_path, Image.fromarray(GREY), "grey.png")
    np.testing.assert_array_equal(read_image(path).rgb, np.repeat(GREY[..., None], 3, 2))
    bits = GREY > 150
    path = save(tmp_path, Image.fromarray(bits), "bits.png")
    np.testing.assert_array_equal(read_image(path).rgb, np.repeat(bits[..., None] * 255, 3, 2))


def test_cmyk_jpeg(tmp_path):
    # (255 - c)(255 - k) / 255: (51, 0, 255, 0) -> (204, 255, 0); k 51 alone -> 204 grey.
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:, :8] = (51, 0, 255, 0)
    ink[:, 8:] = (0, 0, 0, 51)
    path = save(tmp_path, Image.fromarray(ink, "CMYK"), "x.jpg", quality=100, subsampling=0)
    found = read_image(path)
    assert found.mode == "CMYK"
    np.testing.assert_array_equal(found.rgb[:, :8], np.full((16, 8, 3), (204, 255, 0)))
    np.testing.assert_array_equal(found.rgb[:, 8:], np.full((16, 8, 3), (204, 204, 204)))


# 201 values 1000, 1010, ... 3000: their percentiles 0.5 and 99.5 are the 2nd and the last but one.
RAMP = (1000 + 10 * np.arange(201)).reshape(3, 67)


def expected_ramp() -> np.ndarray:
    exact = (RAMP - 1010) / (2990 - 1010) * 255
    grey = np.floor(exact.clip(0, 255) + 0.5)
    return np.repeat(grey[..., None], 3, 2)


@pytest.mark.parametrize("name", ["x.png", "x.tiff", "big_endian.tiff", "int32.tiff", "float.tiff"])
def test_deep_grey_takes_the_percentile_window(tmp_path, name):
    dtype = {"big_endian.tiff": ">u2", "int32.tiff": "int32", "float.tiff": "float32"}.get(
        name, "uint16"
    )
    found = read_image(save(tmp_path, Image.fromarray(RAMP.astype(dtype)), name))
    assert found.window == (1010.0, 2990.0)
    np.testing.assert_array_equal(found.rgb, expected_ramp())


@pytest.mark.parametrize(
    ("window", "expected", "used"),
    [
        ("full", [[0, 128, 255]], (0.0, 65535.0)),
        ((100, 40000), [[0, 209, 255]], (100.0, 40000.0)),  # (32768 - 100) / 39900 * 255 = 208.78
    ],
)
def test_stated_windows(tmp_path, window, expected, used):
    image = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    found = read_image(save(tmp_path, image, "x.png"), window=window)
    np.testing.assert_array_equal(found.rgb[..., 0], expected)
    assert found.window == used


def test_full_window_of_floats_and_of_signed_integers(tmp_path):
    floats = Image.fromarray(np.array([[-1, 0.5, 2]], np.float32))
    found = read_image(save(tmp_path, floats, "f.tiff"), window="full")
    np.testing.assert_array_equal(found.rgb[..., 0], [[0, 128, 255]])
    whole = Image.fromarray(np.array([[-(2**31), 0, 2**31 - 1]], np.int32))
    found = read_image(save(tmp_path, whole, "i.tiff"), window="full")
    np.testing.assert_array_equal(found.rgb[..., 0], [[0, 128, 255]])


def test_portable_greymap_of_16_bit(tmp_path):
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 3 1 65535\n" + np.array([0, 32768, 65535], ">u2").tobytes())
    np.testing.assert_array_equal(read_image(path, window="full").rgb[..., 0], [[0, 128, 255]])


def test_values_that_are_no_numbers_are_black_and_no_part_of_the_window(tmp_path):
    image = Image.fromarray(np.array([[np.nan, 0, 1], [np.inf, -np.inf, 0.5]], np.float32))
    found = read_image(save(tmp_path, image, "x.tiff"))
    low, high = found.window
    assert (round(low, 3), round(high, 3)) == (0.005, 0.995)
    np.testing.assert_array_equal(found.rgb[..., 0], [[0, 0, 255], [255, 0, 128]])


def test_an_image_of_no_numbers_at_all_is_quarantined(tmp_path):
    path = save(tmp_path, Image.fromarray(np.full((2, 2), np.nan, np.float32)), "x.tiff")
    with pytest.raises(UnusableImage) as caught:
        read_image(path)
    assert caught.value.quarantined.code == "no_values"


@pytest.mark.filterwarnings("error")
def test_a_constant_deep_image_is_black(tmp_path):
    path = save(tmp_path, Image.fromarray(np.full((2, 2), 700, np.uint16)), "x.png")
    assert not read_image(path).rgb.any()


def test_color_of_16_bit_goes_through_one_window_and_says_so(tmp_path):
    deep = RGB.astype(np.uint16) * 257
    found = read_image(png16(tmp_path / "x.png", deep), window="full")
    np.testing.assert_array_equal(found.rgb, RGB)
    assert (found.mode, found.window) == ("uint16 RGB", (0.0, 65535.0))
    # 12 of 16 bits: what was black with the high byte alone is seen.
    found = read_image(png16(tmp_path / "dark.png", RGB.astype(np.uint16) * 16), window=(0, 4080))
    np.testing.assert_array_equal(found.rgb, RGB)
    deep = np.dstack([deep, np.full(deep.shape[:2], 0x33 * 257, np.uint16)])
    found = read_image(png16(tmp_path / "alpha.png", deep), window="full")
    np.testing.assert_array_equal(found.rgb, over_white(np.dstack([RGB, np.full((2, 3), 0x33)])))


def test_color_of_16_bit_is_turned_upright_in_a_tiff(tmp_path):
    stored = np.ascontiguousarray(np.rot90(RGB)).astype(np.uint16) * 257
    tifffile.imwrite(
        tmp_path / "x.tif", stored, photometric="rgb", extratags=[(274, "H", 1, 6, True)]
    )
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", window="full").rgb, RGB)


def test_the_transparent_value_of_16_bit_grey_is_white(tmp_path):
    values = np.array([[0, 5000, 65535]], np.uint16)
    path = png16(tmp_path / "x.png", values, transparent=struct.pack(">H", 5000))
    np.testing.assert_array_equal(read_image(path, window="full").rgb[..., 0], [[0, 255, 255]])


def test_a_window_must_have_low_below_high(tmp_path):
    path = save(tmp_path, Image.fromarray(GREY), "x.png")
    with pytest.raises(InputError, match=r"images\.window: expected \[low, high\].*got \[5, 5\]"):
        read_image(path, window=(5, 5))


def test_the_table_of_16_bit_equals_the_arithmetic():
    values = np.arange(0, 65536, 7, dtype=np.uint16)
    for low, high in ((0, 65535), (123.25, 40000.5), (500, 501)):
        table = apply_window(values, low, high)
        np.testing.assert_array_equal(table, apply_window(values.astype(np.float64), low, high))


def test_upright_undoes_itself():
    # 6 and 8 are each other's opposite; the others are their own.
    for first, second in ((6, 8), (8, 6), (2, 2), (3, 3), (4, 4), (5, 5), (7, 7)):
        np.testing.assert_array_equal(upright(upright(RGB, first), second), RGB)


@pytest.mark.parametrize("orientation", [1, 6])
def test_what_comes_is_contiguous_and_of_its_own(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(save(tmp_path, Image.fromarray(RGB), "x.png", exif=exif)).rgb
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.dtype == np.uint8


def test_a_few_bright_spots_on_an_even_ground_are_seen(tmp_path):
    values = np.full((100, 100), 300, np.uint16)
    values[50, 50:53] = 60000
    picture = read_image(png16(tmp_path / "spots.png", values))
    assert picture.window == (300.0, 60000.0)
    assert picture.rgb[50, 51].tolist() == [255, 255, 255]
    assert picture.rgb[0, 0].tolist() == [0, 0, 0]
