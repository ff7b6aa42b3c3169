"""Exports of images in odd places, read by the targets' rules and by the targets' own libraries."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import types
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import tifffile
import yaml
import zarr
from pycocotools.coco import COCO

from tests.cli.odd_places import NAMES, SIZE, mask_of, write_all
from tests.export_data import CLASSES, image_of, target_in
from tests.outputs.exported import filled, written
from tests.outputs.test_export_formats import ome_image
from usam_core.outputs.formats import open_writer

LITERAL = '"out/export/ome_zarr/a.zarr"'
DOCS = Path(__file__).parents[2] / "docs" / "outputs.md"
RESOLVED = ["ome-zarr", "napari", "opencv-python-headless", "shapely", "json-stream", "imagesize"]
RESOLVED += ["defusedxml", "orjson", "cachetools", "attrs", "ruamel.yaml", "ultralytics-thop"]
RESOLVED += ["imgviz", "loguru", "onnxruntime", "pyqt5"]
ALONE = ["ultralytics", "datumaro", "label-studio-sdk", "labelme>=6,<7"]
"""Installed without what they ask for: torch and the like are there, in other versions."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder with the odd images in all formats, and OME-Zarr of every kind."""
    root = tmp_path_factory.mktemp("odd places")
    write_all(root)
    groups = sorted(map(str, (root / "ome_zarr").rglob("*.zarr")))
    for number, size in enumerate([(1, 1), (37, 53), (1030, 5)]):
        for masks in ([], [np.ones(size, bool)]):
            path = root / f"{number} {len(masks)}"
            groups.append(str(written("ome_zarr", image_of(masks, size), path)[1]))
    for version in (2, 3):
        for rows in (96, 700):
            name = f"v{version} {rows}.zarr"
            ome_image(root / "images" / name, version, (1, 1, 1, rows, 9))
            image = image_of([np.ones((rows, 9), bool)], (rows, 9), name, root / "images")
            writer, group, _ = written("ome_zarr", image, root, in_place=True)
            writer.placed(image)
            groups.append(str(group))
    (root / "groups.json").write_text(json.dumps(groups))
    (root / "images" / "a.tif").parent.mkdir(exist_ok=True)
    tifffile.imwrite(root / "images" / "a.tif", np.zeros(SIZE, np.uint8))
    (root / "out" / "export" / "label_tiff").mkdir(parents=True)
    tifffile.imwrite(root / "out" / "export" / "label_tiff" / "a.tif", np.zeros(SIZE, np.uint16))
    (root / "recipe.py").write_text(recipe(), encoding="utf-8")
    return root


def recipe():
    text = DOCS.read_text(encoding="utf-8")
    return re.search(r"## napari.*?```python\n(.*?)```", text, re.DOTALL)[1]


def number_of(root, path):
    """Return which of the images a path leads to."""
    return NAMES.index(Path(path).resolve().relative_to(root.resolve() / "images").as_posix())


def test_every_image_has_its_labels_where_trainers_look(root):
    data = yaml.safe_load((root / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert data.keys() == {"train", "val", "names"}, "with a `path` it counts from elsewhere"
    found = set()
    for image in filter(Path.is_symlink, (root / "yolo" / data["train"]).rglob("*")):
        number = number_of(root, image)
        before, after = str(image).rsplit("/images/", 1)
        text = Path(f"{before}/labels/{after}").with_suffix(".txt")
        label, *corners = text.read_text().split()
        polygon = np.array(corners, float).reshape(-1, 2) * SIZE[::-1]
        assert label == "0"
        assert np.array_equal(filled([np.round(polygon)], SIZE), mask_of(number))
        found.add(number)
    assert found == set(range(len(NAMES)))


def test_no_two_folders_become_one(tmp_path):
    writer = open_writer("yolo", target_in(tmp_path))
    folders = ["images", "images_", "Images", "IMAGES__", "a/images/images", "a/images_/images"]
    folders += ["a images", "images2", "my_images"]
    images = [image_of([], SIZE, f"{folder}/a.png", name=f"{folder}/a") for folder in folders]
    made = [writer.target(image) for image in images]
    made = [path.parent.relative_to(tmp_path / "format" / "labels").as_posix() for path in made]
    # On some disks names that differ in case alone are one.
    pairs = {(f.casefold(), m.casefold()) for f, m in zip(folders, made, strict=True)}
    assert len(pairs) == len({m for _, m in pairs}) == len({f for f, _ in pairs})
    assert made[:2] == ["images_", "images__"]
    assert made[-3:] == folders[-3:], "only what is called so is called otherwise"


def test_an_image_called_images_keeps_its_name(root):
    assert (root / "yolo" / "labels" / "images_" / "images.txt").is_file()


@pytest.mark.parametrize("name", ["coco", "coco_polygons", "cvat"])
def test_coco_names_lead_to_the_images(root, name):
    (file,) = (root / name).rglob("*.json")
    coco = COCO(str(file))
    assert [one["file_name"] for one in coco.imgs.values()] == NAMES
    for number, (image_id, image) in enumerate(coco.imgs.items()):
        assert (root / "images" / image["file_name"]).is_file()
        (record,) = coco.imgToAnns[image_id]
        assert np.array_equal(coco.annToMask(record), mask_of(number))


def test_labelme_and_label_studio_lead_to_the_images(root):
    found = set()
    for file in (root / "labelme").rglob("*.json"):
        document = json.loads(file.read_text(encoding="utf-8"))
        number = number_of(root, file.parent / document["imagePath"])
        points = [shape["points"] for shape in document["shapes"]]
        assert np.array_equal(filled(points, SIZE), mask_of(number))
        found.add(number)
    assert found == set(range(len(NAMES)))
    tasks = json.loads((root / "label_studio" / "tasks.json").read_text(encoding="utf-8"))
    queries = [parse_qs(urlparse(one["data"]["image"]).query) for one in tasks]
    assert [query["d"][-1] for query in queries] == NAMES, "as Label Studio itself reads them"


def test_the_recipe_for_napari_reads_every_group(root, monkeypatch):
    layers = []

    class Viewer:
        def add_image(self, data):
            """Take a picture."""

        def add_labels(self, data, multiscale=None):
            if multiscale and len(data) == 1:
                raise ValueError("napari wants several levels of a pyramid")
            layers.append(data)

    monkeypatch.setitem(sys.modules, "napari", types.SimpleNamespace(Viewer=Viewer))
    monkeypatch.chdir(root)
    for place in json.loads((root / "groups.json").read_text()):
        exec(recipe().replace(LITERAL, repr(place)), {})
        group = zarr.open_group(place, mode="r")
        assert [level.shape for level in layers[-1]] == [
            group[name].shape for name in sorted(group.array_keys())
        ]


@pytest.fixture(scope="module")
def read(root, tmp_path_factory):
    """Return what runs a reader in an environment with the targets' libraries."""
    folder = tmp_path_factory.mktemp("readers")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    # Behind its own: torch and NumPy are not installed twice.
    (own / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for more in (RESOLVED, ["--no-deps", *ALONE]):
        command = [python, "-m", "pip", "install", "--quiet", "--no-input", *more]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
            pytest.skip(f"needs PyPI for the targets' libraries: {last[0][:200]}")
    homes = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "YOLO_CONFIG_DIR")
    environment = {**os.environ, **dict.fromkeys(homes, str(folder)), "YOLO_OFFLINE": "true"}

    def run(reader):
        target = folder / f"{reader}.json"
        script = Path(__file__).with_name("export_readers.py")
        command = [python, script, reader, root, target]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        if "cannot open shared object file" in done.stderr:
            pytest.skip(f"needs a library of the system: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(target.read_text(encoding="utf-8"))

    return run


@pytest.mark.slow
def test_ultralytics_finds_every_label(root, read):
    found = read("yolo")
    assert {number_of(root, path) for path in found} == set(range(len(NAMES)))
    for path, objects in found.items():
        ((label, polygon),) = objects
        assert label == 0
        mask = filled([np.round(np.array(polygon) * SIZE[::-1])], SIZE)
        assert np.array_equal(mask, mask_of(number_of(root, path)))


@pytest.mark.slow
def test_datumaro_reads_coco_and_cvat(root, read):
    for found in read("datumaro").values():
        numbers = {number_of(root, path): objects for path, objects in found.items()}
        assert numbers == {
            number: [[CLASSES[0], int(mask_of(number).sum())]]
            for number, name in enumerate(NAMES)
            if not name.endswith(".jpg")
        }


@pytest.mark.slow
def test_label_studio_decodes_its_brushes(read):
    found = read("label_studio")
    for number, ((label, mask),) in enumerate(found.values()):
        assert label == CLASSES[0]
        assert np.array_equal(mask, mask_of(number))


@pytest.mark.slow
def test_labelme_opens_every_file_and_its_image(root, read):
    found = read("labelme")
    assert {number_of(root, path) for path in found} == set(range(len(NAMES)))
    for path, shapes in found.items():
        assert {label for label, _ in shapes} == {CLASSES[0]}
        mask = filled([points for _, points in shapes], SIZE)
        assert np.array_equal(mask, mask_of(number_of(root, path)))


@pytest.mark.slow
def test_ome_zarr_is_valid_and_read(read):
    for place, (full, levels) in read("ome_zarr").items():
        group = zarr.open_group(place, mode="r")
        assert np.array_equal(full, group["0"][...])
        assert levels == len(list(group.array_keys()))


@pytest.mark.slow
def test_napari_shows_every_group(read):
    for place, (shape, multiscale, kind) in read("napari").items():
        group = zarr.open_group(place, mode="r")
        assert shape == list(group["0"].shape)
        assert multiscale == (len(list(group.array_keys())) > 1)
        assert kind == "Labels"
