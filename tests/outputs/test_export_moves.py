"""An image's file of a format moves: what lay at the old place goes, unless a person changed it."""

import os
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.conftest import write_tiny_project
from tests.images.test_imagestores_zarr import write_image
from tests.outputs.test_export_stage import opened as open_all
from tests.outputs.test_export_stage import out
from usam_core.files.paths import remove
from usam_core.outputs.ledger import Ledger, Written
from usam_core.steps import export, exporting, run_step

FORMATS = ["label_tiff", "ome_zarr", "voc", "yolo"]


def opened(file, **outputs):
    project = open_all(file, FORMATS)
    changed = project.config.outputs.model_copy(update=outputs)
    return replace(project, config=project.config.model_copy(update={"outputs": changed}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a project of three pictures and an OME-Zarr image of each version, exported."""
    file = write_tiny_project(tmp_path_factory.mktemp("exported"))
    images = file.parent / "images"
    for name, version in (("s2", 2), ("s3", 3)):
        with Image.open(images / f"{name}.png") as picture:
            values = np.asarray(picture).transpose(2, 0, 1)
        write_image(zarr.open_group(images / f"{name}.zarr", zarr_format=version), values, "cyx")
        (images / f"{name}.png").unlink()
    for step in ("collect", "embed", "compose", "fit", "calibrate", "annotate", "export"):
        run_step(step, opened(file))
    return file


@pytest.fixture
def file(exported, tmp_path):
    shutil.copytree(exported.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / "project.yaml"


def rerun(file, **outputs):
    for step in ("embed", "annotate", "export"):
        result = run_step(step, opened(file, **outputs))
    assert run_step("export", opened(file, **outputs)).reused
    return result


def add_namesake(file):
    """Add an image beside s0.png of the same name: both keep their endings from now on."""
    with Image.open(file.parent / "images" / "s0.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file.parent / "images" / "s0.bmp")


def names(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("s0"))


def rows(file):
    with sqlite3.connect(out(file) / "ledger.sqlite") as table:
        return {path for (path,) in table.execute("SELECT path FROM file WHERE path LIKE '%s0%'")}


def test_files_go_when_another_image_takes_their_name(file):
    add_namesake(file)
    result = rerun(file)
    assert result.summary["edited"] == dict.fromkeys(FORMATS, 0)
    folder = out(file)
    assert names(folder / "label_tiff") == ["s0.bmp.tif", "s0.png.tif"]
    assert names(folder / "ome_zarr") == ["s0.bmp.zarr", "s0.png.zarr"]
    assert names(folder / "voc" / "SegmentationClass") == ["s0.bmp.png", "s0.png.png"]
    assert names(folder / "yolo" / "labels") == ["s0.bmp.txt", "s0.png.txt"]
    assert names(folder / "yolo" / "images") == ["s0.bmp.bmp", "s0.png.png"]
    assert len(rows(file)) == 2 * len(FORMATS)
    (file.parent / "images" / "s0.bmp").unlink()
    rerun(file)
    assert names(folder / "label_tiff") == ["s0.tif"]
    assert names(folder / "yolo" / "images") == ["s0.png"]
    assert len(rows(file)) == len(FORMATS)


def test_an_edited_file_stays_at_the_old_place_and_is_told_once(file):
    old = out(file) / "label_tiff" / "s0.tif"
    numbers = tifffile.imread(old)
    numbers[:5, :7] = 999
    tifffile.imwrite(old, numbers)
    add_namesake(file)
    result = rerun(file)
    assert names(old.parent) == ["s0.bmp.tif", "s0.png.tif", "s0.tif"]
    assert np.array_equal(tifffile.imread(old), numbers)
    (note,) = [note for note in result.summary["notes"] if "s0.tif" in note]
    assert "edited and is kept" in note
    again = run_step("export", opened(file), refresh=True)
    assert not [note for note in again.summary["notes"] if "s0.tif" in note]


def test_a_link_goes_when_the_image_has_another_ending(file):
    with Image.open(file.parent / "images" / "s0.png") as picture:
        picture.save(file.parent / "images" / "s0.bmp")
    (file.parent / "images" / "s0.png").unlink()
    (out(file) / "yolo" / "images" / "s0.webp").write_bytes(b"a person's own")
    rerun(file)
    assert names(out(file) / "yolo" / "images") == ["s0.bmp", "s0.webp"]


def labels_of(file, name):
    group = zarr.open_group(file.parent / "images" / f"{name}.zarr" / "labels", mode="r")
    said = group.attrs.asdict()
    return said.get("ome", said)["labels"], sorted(group.group_keys())


def test_labels_leave_the_image_when_they_are_no_longer_wanted_in_place(file):
    aside = out(file) / "ome_zarr"
    rerun(file, ome_zarr_in_place=True)
    for name in ("s2", "s3"):
        assert labels_of(file, name) == (["usam"], ["usam"])
        labels = zarr.open_group(file.parent / "images" / f"{name}.zarr" / "labels", mode="a")
        labels.create_group("mine")
    assert sorted(os.listdir(aside)) == ["s0.zarr", "s1.zarr"]
    rerun(file)
    for name in ("s2", "s3"):
        assert labels_of(file, name) == ([], ["mine"])
    assert sorted(os.listdir(aside)) == [f"s{n}.zarr" for n in range(4)]


def test_a_kill_while_old_files_go_makes_no_edit_of_them(file, monkeypatch):
    rerun(file, ome_zarr_in_place=True)

    def die(root, path):
        if path.parent.name != "labels" or not path.is_dir():
            return remove(root, path)
        for part in list(path.iterdir())[1:]:
            part.unlink() if part.is_file() else shutil.rmtree(part)
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "remove", die)
    with pytest.raises(KeyboardInterrupt):
        run_step("export", opened(file))
    monkeypatch.undo()
    result = rerun(file)
    assert not [note for note in result.summary["notes"] if "edited" in note]
    for name in ("s2", "s3"):
        left = os.listdir(file.parent / "images" / f"{name}.zarr" / "labels")
        assert not [entry for entry in left if "usam" in entry]


def test_files_of_a_part_that_lost_one_to_another_part_go_with_it(tmp_path):
    """A part that has to be done again is no part of the table, and its files are its own still."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for name in ("a", "b"):
            (tmp_path / name).write_text(name)
        both = [Written(name, "image", "digest") for name in ("a", "b")]
        ledger.plan("voc", both)
        ledger.finish("voc", "old", "key", both, [])
        ledger.plan("voc", both[:1])
        ledger.finish("voc", "new", "key", both[:1], [])
        ledger.drop_parts("voc", {"new", export.INDEX})
        assert ledger.left_over("voc") == ["b"]
