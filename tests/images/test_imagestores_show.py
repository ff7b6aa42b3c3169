"""Which channel is which colour, and which values are black and white: and that it is said."""

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usam_core.images.read import UnusableImage, read_image
from usam_core.images.ref import ImageRef
from usam_core.images.stores.base import ALL, ImageStore, PlaneInfo, Projected
from usam_core.images.stores.factory import open_image
from usam_core.images.stores.show import paint, sample_windows, view
from usam_core.images.stores.tiff import TiffStore

RNG = np.random.default_rng(0)


class Held(ImageStore):
    """Planes in memory, (z, c, h, w)."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def planes(self):
        return [(("z", n),) for n in range(len(self.values))]

    def info(self, plane):
        channels = tuple(map(str, range(self.values.shape[1])))
        return PlaneInfo(self.values.shape[2:], channels, self.values.dtype.name)

    def read(self, plane, rows=ALL, columns=ALL, channels=None):
        values = self.values[plane[0][1]][:, rows, columns]
        return values if channels is None else values[list(channels)]

    def close(self):
        pass


@pytest.fixture
def write(tmp_path):
    def write(values, names=None, name="a.ome.tif", axes="CYX"):
        said = {"axes": axes, **({"Channel": {"Name": names}} if names else {})}
        path = tmp_path / name
        tifffile.imwrite(path, values, ome=True, photometric="minisblack", metadata=said)
        return path

    return write


NAMES = ["DAPI", "GFP", "Cy5", "DIC"]


def test_channels_by_name_and_by_number(write):
    values = RNG.integers(0, 1000, (4, 6, 5), dtype=np.uint16)
    path = write(values, NAMES)
    found = read_image(path, window=(0, 255), channels={"red": "Cy5", "blue": 0})
    np.testing.assert_array_equal(found.rgb[..., 0], np.minimum(values[2], 255))
    assert not found.rgb[..., 1].any()
    np.testing.assert_array_equal(found.rgb[..., 2], np.minimum(values[0], 255))
    assert found.mode == "uint16 red=Cy5[0:255] blue=DAPI[0:255] without=GFP,DIC"
    grey = read_image(path, window=(0, 255), channels={"grey": "GFP"})
    np.testing.assert_array_equal(grey.rgb, np.repeat(np.minimum(values[1], 255)[..., None], 3, 2))
    assert grey.mode == "uint16 grey=GFP without=DAPI,Cy5,DIC"


@pytest.mark.parametrize(
    ("count", "mode"),
    [
        (1, "uint8 grey=DAPI"),
        (2, "uint8 red=DAPI green=GFP"),
        (3, "uint8 red=DAPI green=GFP blue=Cy5"),
        (4, "uint8 red=DAPI green=GFP blue=Cy5 without=DIC"),
    ],
)
def test_without_a_choice_the_first_three_are_seen_and_the_rest_is_named(write, count, mode):
    values = RNG.integers(0, 256, (2, count, 6, 5), dtype=np.uint8)
    path = write(values, NAMES[:count], axes="TCYX")
    found = read_image(f"{path}#t=1", window="percentile")
    # 8 bit is never touched.
    assert (found.mode, found.window) == (mode, None)
    for color in range(min(count, 3) if count > 1 else 3):
        shown = values[1, color if count > 1 else 0]
        np.testing.assert_array_equal(found.rgb[..., color], shown)


@pytest.mark.parametrize("channel", ["dapi", 4])
def test_a_channel_that_is_not_there_quarantines_the_image_and_names_the_key(write, channel):
    path = write(RNG.integers(0, 9, (4, 6, 5), dtype=np.uint16), NAMES)
    with pytest.raises(
        UnusableImage, match=r"images\.channels\.grey: got .*'DAPI', 'GFP'"
    ) as caught:
        read_image(path, channels={"grey": channel})
    assert caught.value.quarantined.code == "no_channel"


def test_each_channel_has_a_window_and_colors_of_one_picture_share_one(write, tmp_path):
    values = np.stack([np.full((50, 40), 100), np.full((50, 40), 1000)]).astype(np.uint16)
    values[:, :25] = [[[0]], [[500]]]
    found = read_image(write(values, NAMES[:2]))
    assert found.mode == "uint16 red=DAPI[0:100] green=GFP[500:1000]"
    assert found.window == (0.0, 1000.0)
    tifffile.imwrite(tmp_path / "rgb.tif", np.moveaxis(values[[0, 1, 1]], 0, -1), photometric="rgb")
    found = read_image(tmp_path / "rgb.tif")
    assert (found.mode, found.window) == ("uint16 RGB", (0.0, 1000.0))
    assert found.rgb[0, 0].tolist() == [0, 128, 128]


def test_windows_for_all_images_and_a_kind_that_has_none(write):
    values = np.linspace(0, 5000, 200).reshape(1, 10, 20).astype(np.uint16)
    path = write(values, ["DAPI"])
    windows = {"uint16 DAPI": (1000.0, 2000.0), "float32 DAPI": (0.0, 1.0)}
    found = read_image(path, window=windows)
    assert (found.window, found.mode) == ((1000.0, 2000.0), "uint16 grey=DAPI")
    found = read_image(path, window={"uint16 GFP": (0.0, 1.0)})
    assert found.mode == "uint16 grey=DAPI own-window"
    assert found.window == tuple(np.percentile(values, (0.5, 99.5)))
    tifffile.imwrite(path, values[0])
    assert read_image(path, window={}).mode == "uint16 grey=0 own-window"
    assert read_image(path, window={"uint16 0": (1.0, 2.0)}).window == (1.0, 2.0)


@pytest.mark.parametrize("dtype", ["uint32", "int16", "float32", "float64"])
def test_numbers_of_all_types_and_nan(write, dtype):
    values = np.linspace(0, 100, 60).reshape(2, 5, 6).astype(dtype)
    if dtype == "float32":
        values[1, 0, 0] = np.nan
    axes = "TYX"
    found = read_image(f"{write(values, axes=axes)}#t=1", window=(0, 100)).rgb[..., 0]
    expected = np.floor(np.nan_to_num(values[1].astype(float)) * 255 / 100 + 0.5)
    np.testing.assert_allclose(found, expected, atol=1 if dtype == "float32" else 0)


@settings(max_examples=60, deadline=None)
@given(
    projection=st.sampled_from(["max", "min", "mean"]),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    lengths=st.tuples(*[st.integers(1, 4)] * 4),
)
def test_projections(projection, dtype, lengths):
    values = (np.random.default_rng(1).random(lengths) * 200).astype(dtype)
    store = Projected(Held(values), projection)
    assert store.planes() == [()]
    expected = getattr(np, projection)(values.astype(np.float64), axis=0)
    if projection == "mean" and dtype != "float32":
        expected = np.rint(expected)
    found = store.read((), slice(0, 2), slice(1, 4))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected[:, :2, 1:4], rtol=1e-6)


def test_a_projection_is_said_and_z_is_no_part_of_an_address(write):
    values = RNG.integers(0, 256, (2, 3, 6, 5), dtype=np.uint8)
    path = write(values, axes="TZYX")
    found = read_image(f"{path}#t=1", projection="max")
    np.testing.assert_array_equal(found.rgb[..., 0], values[1].max(0))
    assert found.mode == "uint8 grey=0 max of z"
    with pytest.raises(UnusableImage, match=r"images\.projection") as caught:
        read_image(f"{path}#t=1,z=0", projection="max")
    assert caught.value.quarantined.code == "no_plane"


def test_a_sample_depends_on_the_seed_and_counts_every_image_alike(write):
    ways = {"max_megapixels": 1.0, "channels": None, "projection": "none"}
    small = write(np.full((1, 8, 8), 100, np.uint16), ["DAPI"], "small.tif")
    large = write(np.full((1, 800, 800), 900, np.uint16), ["DAPI"], "large.tif")
    flat = write(np.full((1, 8, 8), 7, np.uint8), ["DAPI"], "flat.tif")
    paths = [str(path) for path in (small, large, flat)]
    first = sample_windows(paths, np.random.default_rng(0), **ways)
    assert first == sample_windows(paths, np.random.default_rng(0), **ways)
    assert first.windows.keys() == {"uint16 DAPI"}
    assert sorted(first.planes) == sorted(paths[:2])
    alone = sample_windows([str(flat)], np.random.default_rng(0), **ways)
    assert alone.windows == {}


def test_what_has_no_channels_to_choose_from_is_shown_as_it_is(tmp_path):
    values = RNG.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "rgb.tif", values, photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", values[..., 0])
    ways = {"window": "full", "channels": {"grey": "DAPI"}}
    assert read_image(tmp_path / "rgb.tif", **ways).mode == "uint16 RGB"
    assert read_image(tmp_path / "grey.tif", **ways).mode == "uint16 grey=0"


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["minisblack", "miniswhite", "rgb"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    turned=st.integers(1, 8),
    tile=st.sampled_from([None, (16, 16)]),
    top=st.integers(0, 30),
    stretch=st.booleans(),
)
def test_part_of_a_picture_is_what_the_whole_shows_there(
    tmp_path_factory, kind, size, turned, tile, top, stretch
):
    shape = (*size, 3) if kind == "rgb" else size
    values = np.random.default_rng(2).integers(10, 60, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("part") / "a.tif"
    tags = [(274, "H", 1, turned, True)]
    tifffile.imwrite(path, values, photometric=kind, tile=tile, extratags=tags)
    whole = read_image(path, stretch=stretch).rgb
    with open_image(str(path)) as store:
        assert isinstance(store, TiffStore)
        assert store.size(()) == whole.shape[:2]
        how = view(store, ImageRef(str(path)), stretch=stretch)
        part = paint(store, (), how, slice(top, top + 5), slice(3, 17))
    np.testing.assert_array_equal(part, whole[top : top + 5, 3:17])


@pytest.mark.parametrize("name", ["dim.png", "dim.tif", "clear.png"])
def test_dim_8_bit_pictures_are_stretched_when_asked(tmp_path, name):
    values = RNG.integers(4, 14, (64, 64, 4 if name == "clear.png" else 3), dtype=np.uint8)
    values[0, :4] = 200  # a few bright spots: beyond the percentiles
    if name == "clear.png":
        values[..., 3] = 255
    path = tmp_path / name
    Image.fromarray(values).save(path)
    assert read_image(path).window is None
    np.testing.assert_array_equal(read_image(path).rgb, values[..., :3])
    found = read_image(path, stretch=True)
    assert found.window == (4, 13)
    assert found.mode.endswith(" stretched")
    expected = np.rint(np.clip((values[..., :3] - 4.0) / 9, 0, 1) * 255)
    np.testing.assert_allclose(found.rgb, expected, atol=1)
    # A tile has the window of the whole.
    tile = read_image(f"{path}#rows=8:24,columns=0:40", stretch=True)
    np.testing.assert_array_equal(tile.rgb, found.rgb[8:24, :40])
    assert tile.window == found.window
    assert tile.mode == "uint8 RGB stretched"


def test_nothing_is_stretched_but_dim_8_bit(tmp_path):
    deep, flat = RNG.integers(0, 900, (8, 8)).astype(np.uint16), np.full((8, 8), 7, np.uint8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(flat).save(tmp_path / "flat.png")
    window = (100.0, 500.0)
    asked, plain = (
        read_image(tmp_path / "deep.png", window=window, stretch=stretch)
        for stretch in (True, False)
    )
    assert asked.window == plain.window == window
    assert asked.mode == plain.mode
    np.testing.assert_array_equal(asked.rgb, plain.rgb)
    for part in ("", "#rows=0:4,columns=0:4"):
        assert (read_image(f"{tmp_path / 'flat.png'}{part}", stretch=True).rgb == 7).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_every_picture_can_be_asked_for_a_part(tmp_path, name):
    values = RNG.integers(0, 256, (20, 30, 4 if name == "a.tif" else 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / name)
    whole = read_image(tmp_path / name).rgb
    with open_image(str(tmp_path / name)) as store:
        how = view(store, ImageRef(name))
        part = paint(store, (), how, slice(4, 9), slice(28, 99))
    np.testing.assert_array_equal(part, whole[4:9, 28:])
