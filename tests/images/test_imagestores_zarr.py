"""OME-Zarr of both versions and plain arrays: every plane as it was written, a window alone."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from usam_core.config.images import ImagesConfig
from usam_core.errors import InputError
from usam_core.files.digest import file_digest, value_digest
from usam_core.images.listing.content import folder_digest, folder_stamp
from usam_core.images.listing.remote_zarr import zarr_digest
from usam_core.images.listing.scan import list_images
from usam_core.images.read import UnusableImage, read_image
from usam_core.images.ref import ImageRef
from usam_core.images.rgb import apply_window, limits
from usam_core.images.stores.base import PlaneInfo
from usam_core.images.stores.zarr_store import ZarrStore, images_in

TYPES = ("bool", "uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
KINDS = {"t": "time", "z": "space", "c": "channel", "y": "space", "x": "space"}
COLORS = ("red", "green", "blue", "alpha")
SIDES = st.integers(1, 40)
RNG = np.random.default_rng(0)


def write_image(
    group: zarr.Group, values: np.ndarray, axes: str = "tzcyx", names: tuple[str, ...] = ()
) -> None:
    """Write an OME-Zarr image of two levels as its specification says."""
    version = "0.4" if group.metadata.zarr_format == 2 else "0.5"
    chunks = tuple(16 if axis in "yx" else 1 for axis in axes)
    group.create_array("0", data=values, chunks=chunks)
    group.create_array("1", data=np.ascontiguousarray(values[..., ::2, ::2]), chunks=chunks)
    scale = [{"type": "scale", "scale": [1.0] * len(axes)}]
    said = {
        "multiscales": [
            {
                "axes": [{"name": axis, "type": KINDS[axis]} for axis in axes],
                "datasets": [{"path": p, "coordinateTransformations": scale} for p in "01"],
            }
        ]
    }
    if names:
        said["omero"] = {"channels": [{"label": name} for name in names]}
    if version == "0.4":
        said["multiscales"][0]["version"] = version
        group.attrs.update(said)
    else:
        group.attrs["ome"] = {"version": version, **said}


def image(path: Path, values: np.ndarray, version: str = "0.5", **said: object) -> str:
    shutil.rmtree(path, ignore_errors=True)
    write_image(
        zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3), values, **said
    )
    return str(path)


def noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return (RNG.random(shape) * 250).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    version=st.sampled_from(["0.4", "0.5"]),
    dtype=st.sampled_from(TYPES),
    lengths=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), SIDES, SIDES),
    window=st.tuples(*[st.integers(0, 45)] * 4),
)
def test_planes_of_ome_zarr_come_back_as_written(tmp_path_factory, version, dtype, lengths, window):
    values = noise(lengths, dtype)
    path = image(tmp_path_factory.mktemp("zarr") / "a.zarr", values, version)
    top, bottom, left, right = window
    t, z, c, h, w = lengths
    with ZarrStore(path) as store:
        planes = store.planes()
        assert len(planes) == len(set(planes)) == t * z
        for plane in planes:
            expected = values[dict(plane).get("t", 0), dict(plane).get("z", 0)]
            found = store.read(plane)
            assert (found.dtype, store.size(plane)) == (np.dtype(dtype), (h, w))
            np.testing.assert_array_equal(found, expected)
            part = store.read(plane, slice(top, bottom), slice(left, right), channels=[c - 1])
            np.testing.assert_array_equal(part, expected[c - 1 :, top:bottom, left:right])


@settings(max_examples=25, deadline=None)
@given(
    zarr_format=st.sampled_from([2, 3]),
    dtype=st.sampled_from(TYPES),
    lengths=st.tuples(st.integers(1, 4), SIDES, SIDES, st.integers(1, 4)),
    has_channels=st.booleans(),
)
def test_plain_arrays_come_back_as_written(
    tmp_path_factory, zarr_format, dtype, lengths, has_channels
):
    values = noise(lengths if has_channels else lengths[:3], dtype)
    path = tmp_path_factory.mktemp("zarr") / "a.zarr"
    axes = ["i", "y", "x", "c"][: values.ndim]
    named = {
        2: {"attributes": {"_ARRAY_DIMENSIONS": axes}},
        3: {"dimension_names": axes},
    }[zarr_format]
    chunks = tuple([1, *[9] * (values.ndim - 1)])
    zarr.create_array(path, data=values, zarr_format=zarr_format, chunks=chunks, **named)
    with ZarrStore(str(path)) as store:
        assert len(store.planes()) == len(values)
        for plane in store.planes():
            expected = values[dict(plane).get("i", 0)]
            expected = np.moveaxis(expected, -1, 0) if has_channels else expected[None]
            np.testing.assert_array_equal(store.read(plane), expected)


def test_names_of_channels_and_planes_that_are_not_there(tmp_path):
    path = image(tmp_path / "a.zarr", noise((2, 3, 2, 8, 9), "uint16"), names=("DAPI", "GFP"))
    with ZarrStore(path) as store:
        assert store.info((("t", 1), ("z", 2))).channels == ("DAPI", "GFP")
        for wrong in ((), (("t", 0),), (("t", 2), ("z", 0)), (("z", 0), ("t", 0))):
            with pytest.raises(KeyError):
                store.read(wrong)
    for address, code in ((path, "multi_page"), (f"{path}#t=9,z=0", "no_plane")):
        with pytest.raises(UnusableImage, match=r"holds 6 planes, a\.zarr#t=0,z=0 to") as caught:
            read_image(address)
        assert caught.value.quarantined.code == code


def test_axes_that_the_array_names_itself(tmp_path):
    values = noise((5, 4, 3), "uint16")
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=values, dimension_names=["x", "y", "time"])
    with ZarrStore(str(path)) as store:
        assert store.planes() == [(("time", n),) for n in range(3)]
        np.testing.assert_array_equal(store.read((("time", 2),))[0], values[..., 2].T)


def pixels(height: int, width: int, count: int, dtype: str) -> np.ndarray:
    """Return (h, w, 3 or 4) as a picture of that type may hold them, the whole range in use."""
    values = RNG.random((height, width, count))
    scale = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return (values * scale).astype(dtype)


@settings(max_examples=30, deadline=None)
@given(
    zarr_format=st.sampled_from([2, 3]),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    lengths=st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)),
    count=st.sampled_from([3, 4]),
    names=st.sampled_from([None, ["dim_0", "dim_1", "dim_2", "dim_3"]]),
)
def test_without_names_a_last_axis_of_three_or_four_is_color(
    tmp_path_factory, zarr_format, dtype, lengths, count, names
):
    """Of no n and of any the pixels are those of a picture: one window, opacity over white."""
    n, height, width = lengths
    pictures = [pixels(height, width, count, dtype) for _ in range(max(n, 1))]
    values = np.stack(pictures) if n else pictures[0]
    path = tmp_path_factory.mktemp("zarr") / "a.zarr"
    said = {"dimension_names": names[: values.ndim]} if names and zarr_format == 3 else {}
    zarr.create_array(path, data=values, zarr_format=zarr_format, **said)
    info = PlaneInfo((height, width), COLORS[:count], dtype, is_color=True)
    with ZarrStore(str(path)) as store:
        assert len(store.planes()) == len(pictures)
        for plane, picture in zip(store.planes(), pictures, strict=True):
            assert store.info(plane) == info
            found = read_image(str(ImageRef(str(path), plane))).rgb
            colors = picture[..., :3]
            if dtype != "uint8":
                colors = apply_window(colors, *limits(colors.ravel(), "percentile", (0, 1)))
            opacity = picture[..., 3:].astype(np.float64) / (
                1 if dtype == "float32" else np.iinfo(dtype).max
            )
            shown = colors * opacity + 255 * (1 - opacity) if count == 4 else colors
            np.testing.assert_allclose(found, shown, atol=1.01)


@pytest.mark.parametrize(
    "shape",
    [(3, 100, 150), (5, 100, 150), (100, 150, 2), (1, 100, 150), (2, 3, 96, 96), (1, 1, 9, 9, 3)],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_any_other_array_asks_for_names(tmp_path, shape, zarr_format):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=np.ones(shape, "u1"), zarr_format=zarr_format)
    (row,) = list_images(ImagesConfig(path="."), tmp_path).itertuples()
    assert row.code == "unsupported"
    for how in ("dimension_names", "_ARRAY_DIMENSIONS", "OME metadata"):
        assert how in row.reason


@pytest.mark.parametrize(
    ("shape", "names", "is_anew"),
    [
        ((2, 20, 30, 3), None, True),
        ((1, 20, 30, 4), None, True),
        ((1, 20, 3), None, True),
        ((20, 30, 3), None, False),
        ((20, 30), None, False),
        ((2, 20, 30, 3), ["n", "y", "x", "c"], False),
    ],
)
def test_what_was_read_otherwise_has_another_key(tmp_path, shape, names, is_anew):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=noise(shape, "uint16"), dimension_names=names)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    digest = value_digest([[p.relative_to(path).as_posix(), file_digest(p)] for p in files])
    assert (folder_digest(path) != digest) == is_anew
    system = fsspec.filesystem("memory")
    system.put(str(path), "/anew/a.zarr", recursive=True)
    try:
        assert zarr_digest("memory://anew/a.zarr")[0] == folder_digest(path)
    finally:
        system.rm("/anew", recursive=True)


def test_pictures_of_an_array_in_a_group_are_not_projected(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("x", data=noise((2, 20, 30, 3), "uint8"))
    listing = list_images(ImagesConfig(path=".", projection="max"), tmp_path)
    assert listing["path"].tolist() == ["a.zarr/x#i=0", "a.zarr/x#i=1"]


def test_only_the_chunks_of_a_window_are_read(tmp_path):
    values = noise((1, 1, 1, 40, 40), "uint16")
    path = image(tmp_path / "a.zarr", values)
    (tmp_path / "a.zarr/0/c/0/0/0/0/0").write_bytes(b"rubbish")
    with ZarrStore(path) as store:
        part = store.read((), slice(16, 40), slice(0, 40))
        np.testing.assert_array_equal(part[0], values[0, 0, 0, 16:])
    with pytest.raises(UnusableImage) as caught:
        read_image(path)
    assert caught.value.quarantined.code == "truncated"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_of_a_plate_of_series_and_of_a_plain_group(tmp_path, version):
    zarr_format = 2 if version == "0.4" else 3
    values = noise((1, 1, 1, 8, 9), "uint8")

    def say(group: zarr.Group, **said: object) -> None:
        group.attrs.update(said if version == "0.4" else {"ome": {"version": version, **said}})

    plate = zarr.open_group(tmp_path / "plate.zarr", mode="w", zarr_format=zarr_format)
    say(plate, plate={"wells": [{"path": "A/1"}, {"path": "B/2"}]})
    for well in ("A/1", "B/2"):
        say(plate.require_group(well), well={"images": [{"path": "0"}, {"path": "1"}]})
        for field in ("0", "1"):
            write_image(plate.require_group(f"{well}/{field}"), values)
    assert images_in(str(tmp_path / "plate.zarr")) == ["A/1/0", "A/1/1", "B/2/0", "B/2/1"]
    assert read_image(tmp_path / "plate.zarr/B/2/1").rgb.shape == (8, 9, 3)
    series = zarr.open_group(tmp_path / "series.zarr", mode="w", zarr_format=zarr_format)
    say(series, **{"bioformats2raw.layout": 3})
    series.require_group("OME")
    for name in ("0", "1", "10", "2"):
        write_image(series.require_group(name), values)
    assert images_in(str(tmp_path / "series.zarr")) == ["0", "1", "2", "10"]
    plain = zarr.open_group(tmp_path / "plain.zarr", mode="w", zarr_format=zarr_format)
    plain.create_array("stack", data=values[0, 0])
    write_image(plain.require_group("deep/image"), values)
    write_image(plain.require_group("labels/cells"), values)
    assert images_in(str(tmp_path / "plain.zarr")) == ["deep/image", "stack"]


def test_labels_beside_an_image_do_not_make_it_another(tmp_path):
    path = image(tmp_path / "a.zarr", noise((1, 1, 1, 8, 9), "uint8"))
    digest, stamp = folder_digest(path), folder_stamp(path)
    zarr.open_group(f"{path}/labels/cells", mode="w").create_array("0", data=np.zeros((8, 9), "u1"))
    assert (folder_digest(path), folder_stamp(path)) == (digest, stamp)
    chunk = tmp_path / "a.zarr/0/c/0/0/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert folder_digest(path) != digest
    assert folder_stamp(path) != stamp


def test_what_is_no_image_is_told(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(InputError, match="a Zarr group without `multiscales`"):
        ZarrStore(str(tmp_path / "a.zarr"))
    zarr.create_array(tmp_path / "b.zarr", data=np.zeros((2, 2, 2, 2, 2)))
    with pytest.raises(InputError, match=r"lengths \(2, 2, 2, 2, 2\) that does not name"):
        ZarrStore(str(tmp_path / "b.zarr"))
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(UnusableImage, match="a Zarr folder with one of") as caught:
        read_image(tmp_path / "c.zarr")
    assert caught.value.quarantined.code == "unreadable"
