"""Pictures that programs read in different ways: what the file's own tags say is what counts."""

import gc
import logging
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.files.digest import file_digest
from usam_core.images.listing.content import content_key
from usam_core.images.listing.scan import OTHERS, list_images
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.stores import factory as opening
from usam_core.images.stores.show import sample_windows
from usam_core.outputs.sheets import thumbnail

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:48, :64]
RGB = np.dstack([np.where(X < 32, 200, 40), np.where(Y < 24, 180, 60), X]).astype(np.uint8)
GREY = (Y * 4 + X).astype(np.uint8)


def seen(path, **how):
    return read_image(path, **how).rgb


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("samples", [3, 4])
def test_planar_color_of_16_bit_is_its_contiguous_twin(tmp_path, samples, tile):
    deep = np.dstack([RGB, np.full_like(GREY, 255)])[..., :samples].astype(np.uint16) * 257
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    for name, values, planar in (
        ("c", deep, "contig"),
        ("p", np.moveaxis(deep, -1, 0), "separate"),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(
            path, values, photometric="rgb", planarconfig=planar, tile=tile, metadata=None, **extra
        )
        np.testing.assert_array_equal(seen(path, window="full"), RGB)


def test_a_second_channel_of_8_bit_is_green(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", RGB[..., :2], photometric="minisblack", planarconfig="contig"
    )
    found = read_image(tmp_path / "a.tif")
    assert found.mode == "uint8 red=0 green=1"
    np.testing.assert_array_equal(found.rgb[..., :2], RGB[..., :2])
    assert not found.rgb[..., 2].any()


def test_values_below_zero_of_8_bit_are_dark(tmp_path):
    values = np.array([[-128, 0, 127]], np.int8)
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(seen(tmp_path / "a.tif", window="full")[..., 0], [[0, 128, 255]])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_colors_that_were_multiplied_by_their_opacity_are_divided_by_it(tmp_path, dtype):
    most = np.iinfo(dtype).max
    # Half of red over white is (255, 127.5, 127.5); what is clear is white.
    values = np.array([[[most // 2, 0, 0, most // 2], [0, 0, 0, 0], [most, most, 0, most]]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["assocalpha"])
    found = seen(tmp_path / "a.tif", window="full").astype(int)
    np.testing.assert_allclose(found, [[[255, 128, 128], [255] * 3, [255, 255, 0]]], atol=1)


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_few_bits_reach_from_black_to_white(tmp_path, bits):
    values = (GREY >> (8 - bits)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for _ in range(2):
            writer.write(values, bitspersample=bits, metadata=None, contiguous=False)
    found = seen(f"{tmp_path / 'a.tif'}#i=1")[..., 0]
    np.testing.assert_array_equal(found, np.floor(values * (255 / (2**bits - 1)) + 0.5))


def nodata(text):
    return {"extratags": [(42113, "s", len(text) + 1, text, True)]}


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("float32", -3.4028234663852886e38, "-3.4028234663852886e+38"),
        ("float32", -3.4028234663852886e38, "-3.40282e+38"),
        ("float64", -9999.0, "-9999"),
        ("float32", np.nan, "nan"),
        ("uint16", 65535, "65535"),
        ("int16", -32768, "-32768"),
    ],
)
def test_what_is_no_data_is_black_and_no_part_of_the_window(tmp_path, dtype, value, text):
    values = (300 + Y * 2 + X).astype(dtype)
    values[10:30, 20:50] = value
    some = values[values != value] if value == value else values[np.isfinite(values)]
    low, high = np.percentile(some, (0.5, 99.5))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, **nodata(text))
    found = read_image(path)
    assert found.window == pytest.approx((low, high))
    assert not found.rgb[10:30, 20:50].any()
    # So in the windows of a store, and in tiles, which share the window of the whole.
    how = {"max_megapixels": 100.0, "channels": None, "projection": "none"}
    sampled = sample_windows([str(path)], np.random.default_rng(0), **how)
    assert sampled.windows == {f"{dtype} 0": pytest.approx((low, high))}


def test_no_data_of_8_bit_is_never_white(tmp_path):
    path = tmp_path / "a.tif"
    values = np.where(GREY > 200, 255, GREY).astype(np.uint8)
    tifffile.imwrite(path, values, **nodata("255"))
    np.testing.assert_array_equal(seen(path)[..., 0], np.where(values == 255, 0, values))
    # A colour is no data where all its channels are.
    colors = RGB.copy()
    colors[5, 5], colors[6, 6] = 255, (255, 0, 0)
    tifffile.imwrite(path, colors, photometric="rgb", **nodata("255"))
    found = seen(path)
    assert (found[5, 5].tolist(), found[6, 6].tolist()) == ([0, 0, 0], [255, 0, 0])
    table = np.zeros((3, 256), np.uint16)
    table[:, 7] = 65535
    tifffile.imwrite(
        path, np.full((9, 9), 7, np.uint8), photometric="palette", colormap=table, **nodata("7")
    )
    assert not seen(path).any()


def test_an_image_of_no_data_alone_is_quarantined(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((9, 9), 65535, np.uint16), **nodata("65535"))
    with pytest.raises(UnusableImage) as caught:
        read_image(tmp_path / "a.tif")
    assert caught.value.quarantined.code == "no_values"


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "lerc", "png", "webp"])
def test_what_pillow_cannot_decode_is_no_damage(tmp_path, compression):
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", compression=compression, **options)
    np.testing.assert_array_equal(seen(tmp_path / "a.tif"), RGB)
    assert list_images(ImagesConfig(path="."), tmp_path)["status"].tolist() == ["ok"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", None])
def test_luma_and_chroma_become_colors_upright(tmp_path, compression, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    smooth = Image.fromarray(np.dstack([X * 3, Y * 4, X + Y]).astype(np.uint8)).convert("YCbCr")
    smooth.save(tmp_path / "a.tif", compression=compression, exif=exif)
    smooth.save(tmp_path / "b.jpg", quality=100, exif=exif)
    found, expected = (seen(tmp_path / name).astype(int) for name in ("a.tif", "b.jpg"))
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 6


def test_what_was_read_wrongly_has_another_key_and_nothing_else(tmp_path):
    def key(**options):
        values = options.pop("values", RGB)
        tifffile.imwrite(tmp_path / "a.tif", values, **options)
        listed = list_images(ImagesConfig(path="."), tmp_path)["sha256"].tolist()
        assert listed == [content_key(tmp_path / "a.tif")]
        read_image(tmp_path / "a.tif", sha256=listed[0])
        return listed[0] == file_digest(tmp_path / "a.tif")

    assert key(photometric="rgb")
    assert key(values=GREY)
    assert key(values=GREY.astype(np.uint16), compression="lzw")
    assert key(values=RGB.astype(np.uint16), photometric="rgb")
    assert key(values=GREY, **nodata("0"))
    assert not key(values=GREY, **nodata("255"))
    assert not key(values=GREY.astype(np.float32), **nodata("-1"))
    assert not key(values=GREY.view(np.int8))
    assert not key(values=RGB[..., :2], photometric="minisblack", planarconfig="contig")
    planar = np.moveaxis(RGB, -1, 0)
    assert key(values=planar, photometric="rgb", planarconfig="separate")
    assert not key(values=planar.astype(np.uint16), photometric="rgb", planarconfig="separate")


def test_every_format_that_is_read_is_listed_and_others_are_counted(tmp_path):
    picture = Image.fromarray(RGB)
    for name in ("a.jpg", "a.jfif", "a.avif", "a.jp2", "a.j2k", "a.ppm", "a.webp", "a.gif"):
        picture.save(tmp_path / name)
    picture.convert("L").save(tmp_path / "a.pgm")
    for name in ("a.svs", "a.btf", "a.lsm"):
        tifffile.imwrite(tmp_path / name, RGB, photometric="rgb")
    for name in (
        "a.jxl",
        "b.JXL",
        "a.ico",
        "a.qoi",
        "a.dds",
        "a.czi",
        ".hidden.czi",
        "a.csv",
        "a.json",
        "a.xml",
    ):
        (tmp_path / name).write_bytes(b"x")
    listing = list_images(ImagesConfig(path="."), tmp_path)
    assert listing["status"].tolist() == ["ok"] * 12
    assert listing.attrs[OTHERS] == {".jxl": 2, ".czi": 1, ".ico": 1, ".qoi": 1, ".dds": 1}


def test_iphone_pictures_are_read_where_their_package_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs the package pillow-heif")
    heif.from_pillow(Image.fromarray(RGB)).save(tmp_path / "a.heic", quality=-1)
    listing = list_images(ImagesConfig(path="."), tmp_path)
    assert listing["status"].tolist() == ["ok"]
    assert np.abs(seen(tmp_path / "a.heic").astype(int) - RGB).mean() < 6


def test_text_of_imagej_that_speaks_of_other_pages_is_not_believed(tmp_path):
    pages = RNG.integers(0, 255, (3, 20, 30), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, page in enumerate(pages):
            said = {} if number else {"description": "ImageJ=1.53t\nimages=10\nslices=10\n"}
            writer.write(page, compression="zlib", metadata=None, contiguous=False, **said)
    listing = list_images(ImagesConfig(path="."), tmp_path)
    assert listing["path"].tolist() == ["a.tif#i=0", "a.tif#i=1", "a.tif#i=2"]
    np.testing.assert_array_equal(seen(f"{tmp_path / 'a.tif'}#i=2")[..., 0], pages[2])


def test_files_that_are_no_longer_kept_open_are_closed(tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(6):
            path = tmp_path / f"{number}.tif"
            tifffile.imwrite(path, GREY.astype(np.uint16), compression="lzw")
            read_image(path)
        opening._kept_open.cache_clear()
        gc.collect()
    assert [str(one.message) for one in said if one.category is ResourceWarning] == []


@pytest.mark.parametrize(
    ("projection", "expected"),
    [("max", [9, 5, 65535]), ("min", [1, 5, 65535]), ("mean", [5, 5, 65535])],
)
def test_projections_leave_out_what_is_no_data(tmp_path, projection, expected):
    values = np.array([[[1, 65535, 65535]], [[9, 5, 65535]], [[5, 5, 65535]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **nodata("65535"))
    with opening.open_image(str(tmp_path / "a.tif"), projection=projection) as store:
        np.testing.assert_array_equal(store.read(())[0], [expected])


def test_a_deep_training_picture_is_no_noise_in_sheets(tmp_path):
    values = (20_000 + 100 * (Y + X)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values)
    shown = np.asarray(thumbnail(str(tmp_path / "a.tif"), 64))
    np.testing.assert_array_equal(shown[..., 0], seen(tmp_path / "a.tif")[..., 0])
    (tmp_path / "b.tif").write_bytes(b"II*\0rubbish")
    assert thumbnail(str(tmp_path / "b.tif"), 64) is None


def test_the_library_is_quiet(tmp_path, caplog, capfd):
    tifffile.imwrite(
        tmp_path / "a.tif", GREY.astype(np.float32), **nodata("-3.4028234663852886e+38")
    )
    with caplog.at_level(logging.WARNING):
        read_image(tmp_path / "a.tif")
    assert "GDAL" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_division_by_opacity_rounds_down_to_no_more_than_white(tmp_path, dtype):
    """As libtiff does: rounded down, no more than white, and nothing where nothing is seen."""
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    rgba = np.array([[[0.2, 0.3, 0.4, 0.5], [0.7, 0.1, 0.3, 0.6], [0.1, 0.2, 0.3, 0.0]]])
    values = (rgba * most).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["assocalpha"])
    with opening.open_image(str(path)) as store:
        found = np.moveaxis(store.read(()), 0, -1)[0].tolist()
    for pixel, written in zip(found, values[0].tolist(), strict=True):
        *colors, alpha = written
        if alpha:
            divide = (lambda a, b: a / b) if dtype == "float32" else (lambda a, b: a // b)
            colors = [min(divide(color * most, alpha), most) for color in colors]
        assert pixel == pytest.approx([*colors, alpha], rel=1e-6)
