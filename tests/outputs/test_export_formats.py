"""Every output format read back, by the target's own library where it can be had: pixel-exact."""

import json
import tempfile
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import yaml
import zarr
from hypothesis import given
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.export_data import CLASSES, image_of, painted
from tests.outputs.exported import few, filled, images, written
from usam_core.outputs.formats import WRITERS
from usam_core.outputs.rasters import pixel_size


@few
@given(images)
def test_label_tiff_and_ome_zarr_hold_the_number_of_every_pixel(case):
    size, masks = case
    expected = painted(masks, size)
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(masks, size)
        _, tiff, (table,) = written("label_tiff", image, folder)
        found = tifffile.imread(tiff)
        assert found.dtype == np.uint16
        assert np.array_equal(found.reshape(size), expected)
        assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + len(masks)
        writer, group, _ = written("ome_zarr", image, folder)
        assert np.array_equal(zarr.open_group(group, mode="r")["0"][...], expected)
        labels = writer.read(image, group)
        assert np.array_equal(labels.classes, image.object_ids()[expected])


@few
@given(images)
def test_coco_is_read_by_pycocotools(case):
    size, masks = case
    for name in ("coco", "coco_polygons", "cvat"):
        with tempfile.TemporaryDirectory() as folder:
            _, _, (file,) = written(name, image_of(masks, size), folder)
            coco = COCO(str(file))
            found = coco.loadAnns(coco.getAnnIds())
            assert len(found) == len(masks)
            for record, mask in zip(found, masks, strict=True):
                assert np.array_equal(coco.annToMask(record).astype(bool), mask)
            assert [cat["name"] for cat in coco.loadCats(coco.getCatIds())] == CLASSES


@few
@given(images)
def test_yolo_polygons_fill_to_the_masks(case):
    (h, w), masks = case
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(masks, (h, w))
        writer, path, (data,) = written("yolo", image, folder)
        lines = path.read_text().splitlines()
        assert len(lines) == len(masks)
        for number, (line, mask) in enumerate(zip(lines, masks, strict=True)):
            label, *numbers = line.split()
            assert int(label) == number % len(CLASSES)
            polygon = np.array(numbers, float).reshape(-1, 2)
            assert polygon.min() >= 0
            assert polygon.max() <= 1
            assert np.array_equal(filled([np.round(polygon * [w, h])], (h, w)), mask)
        again = writer.read(image, path).classes
        assert np.array_equal(again, image.object_ids()[painted(masks, (h, w))])
        said = yaml.safe_load(data.read_text(encoding="utf-8"))
        assert said["names"] == dict(enumerate(CLASSES))


@few
@given(images)
def test_labelme_shapes_of_a_group_fill_to_the_mask(case):
    size, masks = case
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(masks, size)
        writer, path, _ = written("labelme", image, folder)
        document = json.loads(path.read_text(encoding="utf-8"))
        assert (document["imageHeight"], document["imageWidth"]) == size
        for number, mask in enumerate(masks, start=1):
            shapes = [shape for shape in document["shapes"] if shape["group_id"] == number]
            assert {shape["label"] for shape in shapes} == {CLASSES[(number - 1) % len(CLASSES)]}
            assert np.array_equal(filled([shape["points"] for shape in shapes], size), mask)
        again = writer.read(image, path).classes
        assert np.array_equal(again, image.object_ids()[painted(masks, size)])


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"voc"}))
def test_an_image_without_objects(name, tmp_path):
    image = image_of([], (7, 5))
    writer, path, files = written(name, image, tmp_path)
    assert path is None or not writer.read(image, path).classes.any()
    assert all(file.is_file() for file in files)


@pytest.mark.slow
def test_65536_objects_have_32_bit_and_a_note(tmp_path):
    side = 256
    (one,) = image_of([np.ones((1, 1), bool)], (1, 1)).instances
    found = []
    for place in range(side * side):
        runs = {"size": [side, side], "counts": [place, 1, side * side - place - 1]}
        rle = coco_mask.frPyObjects(runs, side, side)
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        x, y = divmod(place, side)
        found.append(replace(one, rle=rle, bbox=(float(x), float(y), 1.0, 1.0)))
    image = replace(image_of([], (side, side), "many.png", tmp_path), instances=tuple(found))
    writer, path, _ = written("label_tiff", image, tmp_path)
    found = tifffile.imread(path)
    assert found.dtype == np.uint32
    assert np.array_equal(found.T.ravel(), np.arange(1, side * side + 1))
    assert "65536 objects" in writer.notes[0]
    _, group, _ = written("ome_zarr", image, tmp_path)
    assert zarr.open_group(group, mode="r")["0"].dtype == np.uint32
    # One less fits.
    less = replace(image, instances=image.instances[:-1])
    _, path, _ = written("label_tiff", less, tmp_path)
    assert tifffile.imread(path).dtype == np.uint16


def test_label_tiff_is_calibrated_for_imagej(tmp_path):
    (tmp_path / "images").mkdir()
    resolution = (1 / 0.25, 1 / 0.25)
    micron = {"unit": "um", "axes": "YX"}
    source = tmp_path / "images" / "cells.tif"
    pixels = np.zeros((4, 6), np.uint16)
    tifffile.imwrite(source, pixels, imagej=True, resolution=resolution, metadata=micron)
    assert pixel_size(str(source)) == pytest.approx(0.25)
    image = image_of([np.ones((4, 6), bool)], (4, 6), "cells.tif", tmp_path / "images")
    for options, expected in (({}, 0.25), ({"pixel_size": 0.5}, 0.5)):
        _, path, _ = written("label_tiff", image, tmp_path, **options)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_imagej
            assert tiff.imagej_metadata["unit"] == "um"
            pixels, units = tiff.pages[0].tags["XResolution"].value
            assert units / pixels == pytest.approx(expected)
    ome = tmp_path / "images" / "cells.ome.tif"
    said = {"axes": "YX", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(ome, np.zeros((4, 6), np.uint16), metadata=said)
    assert pixel_size(str(ome)) == pytest.approx(0.5)


def test_cvat_gets_the_documented_fields(tmp_path):
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    image = image_of([ring], (5, 5), "sub/a.png")
    _, _, (file,) = written("cvat", image, tmp_path)
    assert file.relative_to(tmp_path / "format").as_posix() == "annotations/instances_default.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    assert set(document) >= {"licenses", "info", "categories", "images", "annotations"}
    (category, *_), (picture,), (record,) = (
        document[key] for key in ("categories", "images", "annotations")
    )
    assert set(category) >= {"id", "name", "supercategory"}
    assert set(picture) >= {"id", "file_name", "width", "height"}
    fields = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
    assert set(record) >= fields
    assert record["iscrowd"] == 0, "CVAT takes run lengths of crowds alone, polygons of the others"
    assert all(len(polygon) >= 6 for polygon in record["segmentation"])
    assert record["attributes"]["occluded"] is False


def test_the_table_of_instances(tmp_path):
    masks = [np.eye(4, 6, dtype=bool), np.ones((4, 6), bool)]
    _, _, (file,) = written("parquet", image_of(masks, (4, 6), "a/b.png"), tmp_path)
    first, second = pq.read_table(file).to_pylist()
    assert first["image"] == "a/b.png"
    assert (first["object"], first["class"], first["runner_up"]) == (1, "disc", "ring")
    assert (first["area"], first["box_width"], first["box_height"]) == (4, 4.0, 4.0)
    assert (second["object"], second["class"], second["area"]) == (2, "ring", 24)
    assert (first["point_x"], first["point_y"], first["run"]) == (1.5, 0.5, "f" * 64)
    assert first["probability"] == 0.75
    assert first["entropy"] == 0.25


def test_the_table_says_what_a_person_decided(tmp_path):
    image = image_of([np.ones((4, 6), bool)] * 3, (4, 6))
    first, second, third = image.instances
    first, third = replace(first, reviewed="accepted"), replace(third, reviewed="changed")
    image = replace(image, instances=(first, second, third))
    _, _, (file,) = written("parquet", image, tmp_path)
    assert pq.read_table(file)["reviewed"].to_pylist() == ["accepted", None, "changed"]


@pytest.mark.parametrize(("version", "attributes"), [(2, ".zattrs"), (3, "zarr.json")])
def test_ome_zarr_labels_beside_the_image(version, attributes, tmp_path):
    masks = [np.ones((700, 9), bool)]
    path = tmp_path / "images" / "cells.zarr"
    ome_image(path, version, (1, 2, 1, 700, 9))
    image = image_of(masks, (700, 9), "cells.zarr", tmp_path / "images")
    writer, group, _ = written("ome_zarr", image, tmp_path, in_place=True)
    writer.placed(image)
    writer.placed(image)
    assert group == path / "labels" / "usam"
    said = zarr.open_group(path / "labels", mode="r").attrs.asdict()
    assert said.get("ome", said)["labels"] == ["usam"]
    labels = zarr.open_group(group, mode="r")
    said = labels.attrs.asdict()
    said = said.get("ome", said)
    assert said["image-label"]["source"] == {"image": "../../"}
    (multiscale,) = said["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["t", "z", "y", "x"]
    first, second = multiscale["datasets"]
    assert first["coordinateTransformations"][0]["scale"] == [1.0, 2.0, 0.5, 0.5]
    assert second["coordinateTransformations"][0]["scale"] == [1.0, 2.0, 1.0, 1.0]
    assert labels["0"].shape == (1, 1, 700, 9)
    assert labels["1"].shape == (1, 1, 350, 5)
    assert (group / attributes).is_file()
    assert writer.read(image, group).objects == {1: 1}


def test_an_ome_zarr_holds_the_labels_of_each_level(tmp_path):
    path = tmp_path / "images" / "cells.zarr"
    ome_image(path, 3, (1, 1, 1, 7, 9))
    image = image_of([np.ones((7, 9), bool)], (7, 9), "cells.zarr", tmp_path / "images")
    for level in ("classes", "parents"):
        writer, _, _ = written("ome_zarr", image, tmp_path, in_place=True, level=level)
        writer.placed(image)
    labels = zarr.open_group(path / "labels", mode="r")
    assert labels.attrs["ome"]["labels"] == ["usam", "usam_parents"]
    assert sorted(labels.group_keys()) == ["usam", "usam_parents"]


def test_an_image_of_many_planes_gets_labels_of_its_own(tmp_path):
    ome_image(tmp_path / "images" / "stack.zarr", 2, (4, 2, 1, 7, 9))
    image = image_of([], (7, 9), "stack.zarr", tmp_path / "images")
    writer, group, _ = written("ome_zarr", image, tmp_path, in_place=True)
    assert group == tmp_path / "format" / "stack.zarr"
    assert "single plane" in writer.notes[0]


SCALE = {"type": "scale", "scale": [1.0, 1.0, 2.0, 0.5, 0.5]}
MOVE = {"type": "translation", "translation": [0.0, 0.0, 0.0, 10.0, 20.0]}
WHOLE = {"type": "scale", "scale": [1.0, 1.0, 1.0, 0.25, 0.25]}
HALVES = {"type": "scale", "scale": [1.0, 2.0, 0.5, 0.5]}
MOVED = {"type": "translation", "translation": [0.0, 0.0, 10.0, 20.0]}
QUARTERS = {"type": "scale", "scale": [1.0, 1.0, 0.25, 0.25]}
UNTYPED = [{"name": name} for name in "tczyx"]


@pytest.mark.parametrize(
    ("dataset", "multiscale", "expected", "own"),
    [
        ([SCALE, MOVE], {}, [HALVES, MOVED], None),
        ([SCALE], {"coordinateTransformations": [WHOLE]}, [HALVES], [QUARTERS]),
        ([{"type": "identity"}, SCALE], {}, [HALVES], None),
        (None, {}, [{"type": "scale", "scale": [1.0] * 4}], None),
        ([SCALE], {"axes": UNTYPED}, [HALVES], None),
        ([SCALE], {"axes": list("tczyx")}, [HALVES], None),
        ([SCALE], {"axes": None}, [HALVES], None),
    ],
    ids=["translation", "multiscale", "identity", "none", "untyped", "strings", "no axes"],
)
def test_ome_zarr_labels_lie_where_the_image_does(dataset, multiscale, expected, own, tmp_path):
    image = placed_image(tmp_path, dataset, multiscale)
    _, group, _ = written("ome_zarr", image, tmp_path, in_place=True)
    assert group.parent.name == "labels"
    (said,) = zarr.open_group(group, mode="r").attrs["multiscales"]
    kinds = [(axis["name"], axis["type"]) for axis in said["axes"]]
    assert kinds == [("t", "time"), ("z", "space"), ("y", "space"), ("x", "space")]
    first, second = (one["coordinateTransformations"] for one in said["datasets"])
    assert first == expected
    twice = [one * by for one, by in zip(expected[0]["scale"], (1, 1, 2, 2), strict=True)]
    assert second == [{"type": "scale", "scale": twice}, *expected[1:]]
    assert said.get("coordinateTransformations") == own


@pytest.mark.parametrize("wrong", [{"type": "scale", "path": "s"}, QUARTERS, {"scale": [1.0] * 5}])
@pytest.mark.parametrize("whole", [False, True])
def test_transformations_that_cannot_be_read_lose_nothing_else(wrong, whole, tmp_path):
    multiscale = {"coordinateTransformations": [wrong]} if whole else {}
    image = placed_image(tmp_path, [SCALE] if whole else [wrong], multiscale)
    writer, group, _ = written("ome_zarr", image, tmp_path, in_place=True)
    assert group == tmp_path / "format" / "cells.zarr"
    (note,) = writer.notes
    assert "cannot be read" in note


def placed_image(folder, dataset, multiscale):
    """Return an OME-Zarr image that says these things of its dataset and its multiscale."""
    path = folder / "images" / "cells.zarr"
    ome_image(path, 2, (1, 2, 1, 700, 9))
    group = zarr.open_group(path, mode="a")
    (said,) = group.attrs["multiscales"]
    said["datasets"] = [{"path": "0"}]
    if dataset is not None:
        said["datasets"][0]["coordinateTransformations"] = dataset
    said = {key: value for key, value in {**said, **multiscale}.items() if value is not None}
    group.attrs["multiscales"] = [said]
    return image_of([np.ones((700, 9), bool)], (700, 9), "cells.zarr", folder / "images")


def test_ome_zarr_metadata_say_what_0_4_asks_for(tmp_path):
    masks = [np.ones((1030, 5), bool)]
    _, group, _ = written("ome_zarr", image_of(masks, (1030, 5)), tmp_path, pixel_size=0.5)
    said = json.loads((group / ".zattrs").read_text())
    (multiscale,) = said["multiscales"]
    assert multiscale["version"] == said["image-label"]["version"] == "0.4"
    assert multiscale["axes"] == [
        {"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")
    ]
    for number, dataset in enumerate(multiscale["datasets"]):
        array = json.loads((group / dataset["path"] / ".zarray").read_text())
        assert array["zarr_format"] == 2
        assert array["dimension_separator"] == "/"
        assert array["dtype"] == "<u2"
        (transform,) = dataset["coordinateTransformations"]
        assert transform == {"type": "scale", "scale": [0.5 * 2**number] * 2}
    assert len(multiscale["datasets"]) == 3
    assert said["image-label"]["colors"] == [{"label-value": 1, "rgba": [128, 0, 0, 255]}]
    assert said["image-label"]["properties"][0]["class"] == "disc"


def ome_image(path, version, shape):
    """Write an empty OME-Zarr image (t, c, z, y, x)."""
    kinds = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
    axes = [{"name": name, "type": kind} for name, kind in kinds.items()]
    scale = {"type": "scale", "scale": [1.0, 1.0, 2.0, 0.5, 0.5]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    multiscales = [{"axes": axes, "datasets": datasets}]
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("0", shape=shape, dtype="u1")
    if version == 2:
        group.attrs["multiscales"] = [{**multiscales[0], "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
