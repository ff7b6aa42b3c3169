"""Stacks as label TIFF and OME-Zarr, read by tifffile, zarr and scipy."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import yaml
import zarr
from scipy import ndimage

from tests.conftest import write_tiny_project
from tests.export_data import CLASSES, image_of, target_in
from usam_core.config.project import load_project
from usam_core.masks.rle import pixels
from usam_core.outputs import volumes
from usam_core.outputs.formats import open_writer
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.steps import annotate, run_step, step_folder


def balls(size=(9, 40, 50)):
    """Return two balls that touch nowhere, bool (2, z, h, w)."""
    z, y, x = np.mgrid[: size[0], : size[1], : size[2]]
    return np.stack(
        [
            4 * (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= 64
            for at in ((4, 12, 12), (4, 26, 36))
        ]
    )


def plane(masks, address):
    """Return a labelled plane; each mask's class is its place in the list."""
    shown = [number for number, mask in enumerate(masks) if mask.any()]
    image = image_of(masks, masks.shape[1:], address, name=address.replace("#", "_"))
    return replace(image, instances=tuple(image.instances[number] for number in shown))


def written(images, folder, **options):
    writer = open_writer("volumes", target_in(folder, **options))
    writer.to.folder.mkdir(parents=True, exist_ok=True)
    rows = [row for image in images for row in writer.rows(image)]
    return writer, writer.finish(iter(rows))


def test_a_stack_has_its_objects_as_scipy_finds_them(tmp_path):
    solid = balls()
    images = [plane(solid[:, z], f"s.tif#z={z}") for z in range(9)]
    writer, files = written(images[::-1], tmp_path, pixel_size=0.5)
    found = tifffile.imread(writer.to.folder / "s.ome.tif")
    expected, count = ndimage.label(solid.any(axis=0))
    assert count == 2
    assert found.shape == expected.shape
    assert found.dtype == np.uint16
    assert np.array_equal(found > 0, expected > 0)
    pairs = {(int(a), int(b)) for a, b in zip(found.ravel(), expected.ravel(), strict=True)}
    assert len(pairs) == 3, "each number is one object and each object one number"
    with tifffile.TiffFile(writer.to.folder / "s.ome.tif") as tiff:
        assert 'PhysicalSizeX="0.5"' in tiff.ome_metadata
    group = zarr.open_group(writer.to.folder / "s.zarr", mode="r")
    assert np.array_equal(np.asarray(group["0"])[0], found)
    (multiscale,) = group.attrs["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["t", "z", "y", "x"]
    scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == [1, 1, 0.5, 0.5]
    said = {one["label-value"]: one["class"] for one in group.attrs["image-label"]["properties"]}
    with open(writer.to.folder / "objects.csv", encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["class"] for row in rows] == [said[1], said[2]]
    assert sorted(said.values()) == sorted(CLASSES[:2])
    for row in rows:
        mask = found == int(row["object"])
        assert int(row["voxels"]) == mask.sum()
        z = np.flatnonzero(mask.any(axis=(1, 2)))
        assert (int(row["first_z"]), int(row["last_z"])) == (z[0], z[-1])
        assert int(row["planes"]) == len(z)
    assert set(files) == {
        *(writer.to.folder / name for name in ("s.ome.tif", "objects.csv")),
        writer.to.folder / "s.zarr" / ".zattrs",
    }


def test_a_film_of_stacks_has_tracks(tmp_path):
    solid = balls()
    images = []
    for t in range(3):
        moved = np.roll(solid, t, axis=3)
        images += [plane(moved[:, z], f"f.tif#t={t},z={z}") for z in range(9)]
    writer, _ = written(images, tmp_path)
    found = tifffile.imread(writer.to.folder / "f.ome.tif")
    assert found.shape == (3, 9, 40, 50)
    assert set(np.unique(found)) == {0, 1, 2}
    for t in range(3):
        assert np.array_equal(found[t], np.roll(found[0], t, axis=2))


def test_large_planes_have_levels_and_unlabelled_planes_are_empty(tmp_path):
    mask = np.zeros((1, 600, 700), bool)
    mask[0, 100:300, 200:500] = True
    images = [plane(mask, f"s.tif#i={place}") for place in (0, 2)]
    writer, _ = written(images, tmp_path)
    group = zarr.open_group(writer.to.folder / "s.zarr", mode="r")
    whole, half = np.asarray(group["0"]), np.asarray(group["1"])
    assert whole.shape == (1, 3, 600, 700)
    assert np.array_equal(half, whole[..., ::2, ::2])
    assert np.array_equal(whole[0, 0], mask[0])
    assert not whole[0, 1].any()
    assert np.array_equal(whole[0, 2], whole[0, 0]), "one object, missed in a plane"


def test_plain_images_have_no_volume_and_channels_are_stacks_of_their_own(tmp_path):
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 5:10, 5:10] = True
    writer, files = written([plane(mask, "a.png")], tmp_path / "a")
    assert files == [writer.to.folder / "objects.csv"]
    assert "nothing to join" in writer.notes[0]
    images = [plane(mask, f"s.tif#s={s},z={z}") for s in range(2) for z in range(2)]
    writer, files = written(images, tmp_path / "b")
    assert sorted(path.name for path in writer.to.folder.glob("*.tif")) == [
        "s_s0.ome.tif",
        "s_s1.ome.tif",
    ]


def test_stacks_whose_names_differ_in_the_ending_alone_keep_it(tmp_path):
    mask = np.zeros((1, 20, 20), bool)
    mask[0, 5:10, 5:10] = True
    images = [plane(mask, f"d/s.{ending}#z=0") for ending in ("tif", "lsm")]
    writer, _ = written(images, tmp_path)
    names = sorted(path.name for path in (writer.to.folder / "d").glob("*.tif"))
    assert names == ["s.ome.tif", "s.tif.ome.tif"]


def test_planes_of_two_sizes_are_left_out_with_a_note(tmp_path):
    images = [
        plane(np.ones((1, side, 20), bool), f"s.tif#z={z}") for z, side in enumerate((20, 30))
    ]
    writer, files = written(images, tmp_path)
    assert files == [writer.to.folder / "objects.csv"]
    assert "differ in size" in writer.notes[0]


def test_a_zarr_is_whole_or_the_one_before_and_goes_whole(tmp_path, monkeypatch):
    mask = np.zeros((1, 600, 700), bool)
    mask[0, 5:10, 5:10] = True
    images = [plane(mask, f"s.tif#z={z}") for z in range(2)]
    writer, _ = written(images, tmp_path)
    group = writer.to.folder / "s.zarr"
    before = {file: file.read_bytes() for file in group.rglob("*") if file.is_file()}
    calls = []

    def fourth_fails(rle):
        calls.append(rle)
        if len(calls) == 4:  # the second plane of the Zarr, behind those of the TIFF
            raise RuntimeError("no more")
        return pixels(rle)

    monkeypatch.setattr(volumes, "pixels", fourth_fails)
    with pytest.raises(RuntimeError, match="no more"):
        written(images, tmp_path)
    assert before == {file: file.read_bytes() for file in group.rglob("*") if file.is_file()}
    assert [path.name for path in group.parent.iterdir() if path.name.startswith(".")] == []

    monkeypatch.undo()
    small = [plane(mask[:, :90, :90], f"s.tif#z={z}") for z in range(2)]
    written(small, tmp_path)
    assert not (group / "1").exists(), "nothing of the former one is left"
    (group / ".zattrs").unlink()
    writer.removed(group / ".zattrs")
    assert not group.exists()


@pytest.mark.slow
def test_a_project_over_a_stack_exports_its_objects_once(tmp_path):
    """The same picture in all planes: what is found in one is found in all, and is one object."""
    file = write_tiny_project(tmp_path)
    for picture in (tmp_path / "images").iterdir():
        picture.unlink()
    drawn = scene(generator(5, 0), ["disc", "ring", "rod"], (48, 64), TRAINING_LOOK, most=2).image
    values = np.broadcast_to(drawn[..., 1].astype(np.uint16) * 9, (2, 4, 1, 48, 64))
    tifffile.imwrite(tmp_path / "images/w.ome.tif", values, ome=True, metadata={"axes": "TZCYX"})
    text = yaml.safe_load(file.read_text())
    del text["evaluation"]
    text["outputs"]["formats"] = ["volumes"]
    file.write_text(yaml.safe_dump(text))
    project = load_project(file)
    steps = ("collect", "embed", "compose", "describe", "fit", "calibrate", "annotate", "export")
    for step in steps:
        done = run_step(step, project)
    folder = step_folder(project, "export") / "volumes"
    found = tifffile.imread(folder / "w.ome.tif")
    assert found.shape == (2, 4, 48, 64)
    for image in annotate.labels(project).images():
        numbers = dict(image.ref.plane)
        assert np.array_equal(found[numbers["t"], numbers["z"]], found[0, 0])
        assert len(np.unique(found[found > 0])) <= len(image.instances)
    group = zarr.open_group(folder / "w.zarr", mode="r")
    assert np.array_equal(np.asarray(group["0"]), found)
    assert not done.reused
    assert run_step("export", load_project(file)).reused
