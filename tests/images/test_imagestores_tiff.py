"""Every plane of a TIFF comes back as it was written, and a window of it without the rest."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from usam_core.config.images import ImagesConfig
from usam_core.errors import InputError
from usam_core.images.listing.scan import list_images
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.rgb import apply_window
from usam_core.images.stores.anew import is_read_anew
from usam_core.images.stores.base import PlaneInfo, depth_axis
from usam_core.images.stores.factory import open_image
from usam_core.images.stores.tiff import TiffStore

TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
WRITTEN = {
    "ome": {"ome": True, "compression": "lzw"},
    "ome_tiled": {"ome": True, "tile": (16, 16), "compression": "zstd"},
    "ome_raw": {"ome": True},
    "big_endian": {"ome": True, "byteorder": ">"},
    "strips": {"ome": True, "rowsperstrip": 3, "compression": "zlib"},
}
SIDES = st.integers(1, 40)


def noise(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@settings(max_examples=80, deadline=None)
@given(
    dtype=st.sampled_from(TYPES),
    how=st.sampled_from(sorted(WRITTEN)),
    lengths=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), SIDES, SIDES),
    window=st.tuples(*[st.integers(0, 45)] * 4),
)
def test_planes_come_back_as_written(tmp_path_factory, dtype, how, lengths, window):
    values = noise(lengths, dtype)
    path = tmp_path_factory.mktemp("tiff") / "a.ome.tif"
    tifffile.imwrite(
        path, values, metadata={"axes": "TZCYX"}, photometric="minisblack", **WRITTEN[how]
    )
    top, bottom, left, right = window
    t, z, c, h, w = lengths
    with TiffStore(str(path)) as store:
        planes = store.planes()
        assert len(planes) == len(set(planes)) == t * z
        for plane in planes:
            where = dict(plane)
            expected = values[where.get("t", 0), where.get("z", 0)]
            found = store.read(plane)
            assert (found.dtype, store.size(plane)) == (np.dtype(dtype), (h, w))
            np.testing.assert_array_equal(found, expected)
            part = store.read(plane, slice(top, bottom), slice(left, right), channels=[c - 1])
            np.testing.assert_array_equal(part, expected[c - 1 :, top:bottom, left:right])


def test_axes_of_length_one_are_no_part_of_an_address(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((1, 5, 1, 8, 9), "uint16"), imagej=True)
    with TiffStore(str(path)) as store:
        assert store.planes() == [(("z", n),) for n in range(5)]
    tifffile.imwrite(path, noise((1, 1, 8, 9), "uint16"))
    with TiffStore(str(path)) as store:
        assert store.planes() == [()]


def test_imagej_stacks_and_names_from_ome(tmp_path):
    values = noise((2, 3, 2, 7, 5), "uint16")
    tifffile.imwrite(tmp_path / "j.tif", values, imagej=True, metadata={"axes": "TZCYX"})
    names = {"axes": "TZCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "o.tif", values, ome=True, metadata=names)
    for name, channels in (("j.tif", ("0", "1")), ("o.tif", ("DAPI", "GFP"))):
        with TiffStore(str(tmp_path / name)) as store:
            plane = (("t", 1), ("z", 2))
            assert store.info(plane) == PlaneInfo((7, 5), channels, "uint16")
            np.testing.assert_array_equal(store.read(plane), values[1, 2])


def test_pages_without_any_description_are_numbered(tmp_path):
    path = tmp_path / "a.tif"
    values = noise((4, 6, 5), "uint8")
    with tifffile.TiffWriter(path) as writer:
        for page in values:
            writer.write(page, metadata=None, contiguous=False)
    with TiffStore(str(path)) as store:
        assert store.planes() == [(("i", n),) for n in range(4)]
        np.testing.assert_array_equal(store.read((("i", 3),))[0], values[3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [False, True])
def test_color_is_channels_of_one_picture(tmp_path, planar, alpha):
    values = noise((3, 9, 7, 3 + alpha), "uint16")
    stored = values if planar == "contig" else np.moveaxis(values, -1, 1).copy()
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, photometric="rgb", planarconfig=planar, compression="zlib", **extra
    )
    with TiffStore(str(path)) as store:
        names = ("red", "green", "blue", "alpha")[: 3 + alpha]
        assert store.info((("i", 2),)) == PlaneInfo((9, 7), names, "uint16", None, True)
        np.testing.assert_array_equal(np.moveaxis(store.read((("i", 2),)), 0, -1), values[2])
        np.testing.assert_array_equal(
            store.read((("i", 0),), channels=[2, 0])[0], values[0, ..., 2]
        )


def test_of_a_pyramid_the_full_size_alone_counts(tmp_path):
    path = tmp_path / "a.tif"
    full = noise((64, 96), "uint16")
    for inside in (True, False):
        with tifffile.TiffWriter(path) as writer:
            writer.write(full, tile=(16, 16), subifds=1 if inside else 0)
            writer.write(full[::2, ::2].copy(), tile=(16, 16), subfiletype=1)
        with TiffStore(str(path)) as store:
            assert store.planes() == [()]
            np.testing.assert_array_equal(store.read(())[0], full)


def test_series_of_other_sizes_are_planes_and_thumbnails_are_not(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise((20, 30), "uint8"))
        writer.write(noise((2, 40, 10), "uint16"))
        writer.write(noise((5, 7), "uint8"), subfiletype=1)
    with TiffStore(str(path)) as store:
        assert store.planes() == [(("s", 0),), (("s", 1), ("i", 0)), (("s", 1), ("i", 1))]
        assert store.size((("s", 0),)) == (20, 30)
        assert store.size((("s", 1), ("i", 1))) == (40, 10)


def test_masks_and_thumbnails_of_files_without_a_description_are_no_planes(tmp_path):
    path = tmp_path / "a.tif"
    values = noise((20, 30), "uint8")
    with tifffile.TiffWriter(path) as writer:
        writer.write(values, metadata=None)
        writer.write(values[:10] > 100, subfiletype=4, photometric="mask", metadata=None)
        writer.write(values[:5, :7].copy(), subfiletype=1, metadata=None)
    with TiffStore(str(path)) as store:
        assert store.planes() == [()]
        np.testing.assert_array_equal(store.read(())[0], values)


def test_only_the_tiles_of_a_window_are_decoded(tmp_path):
    path = tmp_path / "a.tif"
    values = noise((2, 64, 64), "uint16")
    tifffile.imwrite(path, values, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages[1]
        bad, length = page.dataoffsets[5], page.databytecounts[5]  # rows and columns 16 to 32
    content = bytearray(path.read_bytes())
    content[bad : bad + length] = bytes(length)
    path.write_bytes(content)
    with TiffStore(str(path)) as store:
        plane = (("i", 1),)
        part = store.read(plane, slice(32, 60), slice(0, 64))
        np.testing.assert_array_equal(part[0], values[1, 32:60])
        np.testing.assert_array_equal(store.read((("i", 0),))[0], values[0])
        with pytest.raises(Exception, match=r".+"):
            store.read(plane)
    with pytest.raises(UnusableImage) as caught:
        read_image(f"{path}#i=1")
    assert caught.value.quarantined.code == "truncated"


@pytest.mark.parametrize("how", sorted(WRITTEN))
def test_a_cut_file_gives_a_verdict_and_never_zeros(tmp_path, how):
    path = tmp_path / "a.ome.tif"
    values = noise((4, 64, 48), "uint16")
    tifffile.imwrite(path, values, metadata={"axes": "TYX"}, **WRITTEN[how])
    content = path.read_bytes()
    seen = set()
    for share in (0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        for plane in range(4):
            try:
                found = read_image(f"{path}#t={plane}", window="full").rgb[..., 0]
            except UnusableImage as error:
                seen.add(error.quarantined.code)
            else:
                expected = apply_window(values[plane], 0, 65535)
                np.testing.assert_array_equal(found, expected)
    assert seen
    assert seen <= {"truncated", "no_plane", "unsupported"}


def test_a_file_that_was_cut_between_two_tiles_is_truncated(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((2, 64, 48), "uint8"), tile=(16, 16), photometric="minisblack")
    path.write_bytes(path.read_bytes()[: -3 * 256])
    assert read_image(f"{path}#i=0").rgb.any()
    with pytest.raises(UnusableImage) as caught:
        read_image(f"{path}#i=1")
    assert caught.value.quarantined.code == "truncated"


def test_planes_that_lie_in_other_files_are_not_made_up(tmp_path):
    path = tmp_path / "a.ome.tif"
    values = noise((2, 8, 9), "uint16")
    tifffile.imwrite(path, values, ome=True, metadata={"axes": "TYX"})
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    # The same file says that there are four times, the last two elsewhere.
    other = text.replace('SizeT="2"', 'SizeT="4"')
    assert other != text
    path.write_bytes(content.replace(text.encode(), other.encode()))
    with TiffStore(str(path)) as store:
        assert [dict(plane)["t"] for plane in store.planes()] == [0, 1]
        np.testing.assert_array_equal(store.read((("t", 1),))[0], values[1])


def test_ink_on_white_and_palettes_are_what_a_person_sees(tmp_path):
    path = tmp_path / "a.tif"
    values = noise((2, 6, 5), "uint8")
    tifffile.imwrite(path, values, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(f"{path}#i=1").rgb[..., 0], 255 - values[1])
    colors = noise((3, 256), "uint8").astype(np.uint16) * 257
    tifffile.imwrite(path, values, photometric="palette", colormap=colors)
    expected = np.moveaxis(colors[:, values[1]] // 257, 0, -1)
    np.testing.assert_array_equal(read_image(f"{path}#i=1").rgb, expected)


def test_a_color_map_that_counts_to_255_is_one_of_8_bit(tmp_path):
    path = tmp_path / "a.tif"
    values, colors = noise((6, 5), "uint8"), noise((3, 256), "uint8").astype(np.uint16)
    tifffile.imwrite(path, values, photometric="palette", colormap=colors)
    np.testing.assert_array_equal(read_image(path).rgb, np.moveaxis(colors[:, values], 0, -1))
    # It was black, so what was made of that is made anew; others keep their keys.
    assert is_read_anew(str(path))
    tifffile.imwrite(path, values, photometric="palette", colormap=colors * 257)
    assert not is_read_anew(str(path))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_twelve_of_sixteen_bits_have_a_range_of_their_own(tmp_path, bits):
    path = tmp_path / "a.tif"
    values = noise((8, 8), "uint16") >> (16 - bits)
    values[0, 0] = 2**bits - 1
    tifffile.imwrite(path, values, bitspersample=bits)
    with open_image(str(path)) as store:
        assert store.info(()).bits == bits
        np.testing.assert_array_equal(store.read(())[0], values)
    assert read_image(path, window="full").window == (0.0, 2.0**bits - 1)


def test_what_is_not_read_is_told(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((2, 6, 5, 3), "uint8"), photometric="cielab")
    with pytest.raises(InputError, match="unsupported colour kind CIELAB"):
        TiffStore(str(path))
    tifffile.imwrite(path, np.zeros((2, 6, 5), np.complex64))
    with pytest.raises(UnusableImage, match="values of type complex64") as caught:
        read_image(f"{path}#i=0")
    assert caught.value.quarantined.code == "unsupported"


def test_a_stack_whose_axis_has_no_name_is_projected_as_z(tmp_path):
    """As plain TIFFs are written; before, `projection` left such a stack in its planes."""
    values = noise((5, 24, 16), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", values)
    config = ImagesConfig(path=str(tmp_path), projection="max")
    listing = list_images(config, tmp_path)
    assert listing["path"].tolist() == ["a.tif"]
    found = read_image(str(tmp_path / "a.tif"), projection="max")
    np.testing.assert_array_equal(found.rgb[..., 0], values.max(axis=0))
    assert found.mode == "uint8 grey=0 max of i"
    # A plain Zarr array holds images; beside a named axis nobody can say what the other one is.
    assert depth_axis("a.zarr", [(("i", 0),), (("i", 1),)]) == "z"
    assert depth_axis("a.tif", [(("t", 0), ("i", 0)), (("t", 0), ("i", 1))]) == "z"


@pytest.mark.parametrize(
    ("dtype", "samples", "formats"), [("i1", 3, (1, 1, 2)), ("f4", 2, (3, 0)), ("i2", 1, (5,))]
)
def test_sample_formats_that_are_not_read_are_unsupported(tmp_path, dtype, samples, formats):
    path = tmp_path / "a.tif"
    values = np.ones((20, 30, samples), dtype)
    planar = "contig" if samples > 1 else None
    tifffile.imwrite(
        path, values.squeeze(), photometric="minisblack", planarconfig=planar, metadata=None
    )
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[339].overwrite(formats, dtype=3)
    with pytest.raises(UnusableImage, match="expected integers or floats") as caught:
        read_image(path)
    assert caught.value.quarantined.code == "unsupported"
