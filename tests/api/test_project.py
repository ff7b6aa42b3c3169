"""`usam.open`: what it labels is what the pipeline wrote, whichever way an image is given."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

import usam_core as usam
from tests.conftest import change
from usam_core.masks.label_png import read_label_png, save_label_png
from usam_core.steps import STEPS, run_step


@pytest.fixture(scope="module")
def project(finished_project):
    return usam.open(finished_project)


@pytest.fixture(scope="module")
def written(project):
    return list(project.labels())


def check_same(labelled, written):
    assert np.array_equal(labelled.labels, written.labels)
    assert labelled.labels.dtype == written.labels.dtype
    assert labelled.instances == written.instances
    assert labelled.missed == written.missed
    assert labelled.pixels == written.pixels
    assert labelled.label_map == written.label_map
    assert np.array_equal(labelled.label_map.colors, written.label_map.colors)


def test_labels_come_by_path_one_after_the_other(project, written):
    assert [one.path for one in written] == [f"s{number}.png" for number in range(4)]
    assert next(iter(project.labels())).path == "s0.png"


def test_a_path_is_labelled_as_annotate_did_without_sam(project, written, no_sam):
    for one in written:
        labelled = project.predict(one.file)
        check_same(labelled, one)
        assert (labelled.path, labelled.root, labelled.sha256) == (one.path, one.root, one.sha256)
        check_same(project.predict(one.path), one)


def test_arrays_and_pillow_images_are_labelled_as_their_files(project, written):
    for one in written[:2]:
        with Image.open(one.file) as picture:
            check_same(project.predict(picture), one)
            check_same(project.predict(np.asarray(picture)), one)


def test_a_path_below_the_working_folder_is_found(project, written, monkeypatch, no_sam):
    folder = project.config.images.path
    monkeypatch.chdir(written[0].root)
    monkeypatch.chdir("..")
    labelled = project.predict(f"{folder}/s1.png")
    assert labelled.path == "s1.png"


def test_embeddings_are_the_stores_or_made_now(project, written):
    stored = project.embeddings(written[0].file)
    with Image.open(written[0].file) as picture:
        made = project.embeddings(picture)
    assert np.array_equal(stored.packed_masks, made.packed_masks)
    assert np.array_equal(stored.tokens, made.tokens)
    assert np.array_equal(stored.features["encoder"], made.features["encoder"])
    check = project.head.predict(stored)
    # Without the image, borders lie on SAM's grid.
    assert [one.score for one in check.instances] == [one.score for one in written[0].instances]
    assert project.predict(written[0].file).instances == written[0].instances
    with pytest.raises(usam.UsamError, match="its pixels are not known"):
        check.plot()


def test_a_head_labels_where_its_store_is_not(project_file, written):
    (project_file.parent / "out" / "store").rename(project_file.parent / "elsewhere")
    check_same(usam.open(project_file).predict("s0.png"), written[0])


def test_a_store_of_bytes_is_met_by_images_made_now(project_file):
    project = change(project_file, outputs={"precision": "int8"})
    for step in list(STEPS)[:7]:
        run_step(step, project)
    opened = usam.open(project_file)
    one = next(iter(opened.labels()))
    with Image.open(one.file) as picture:
        check_same(opened.predict(picture), one)


def test_large_images_are_tiled_as_annotate_does(project_file):
    for number in (2, 3):
        (project_file.parent / "images" / f"s{number}.png").unlink()
    settings = change(project_file, images={"tile": 64})
    for step in list(STEPS)[:7]:
        run_step(step, settings)
    project = usam.open(project_file)
    for one in project.labels():
        assert len(one.tiles) > 1
        with Image.open(one.file) as picture:
            array = np.asarray(picture)
        for image in (one.file, array):
            labelled = project.predict(image)
            check_same(labelled, one)
            assert np.array_equal(np.asarray(labelled.plot()), np.asarray(one.plot()))
    with pytest.raises(usam.UsamError, match=r"expected one of them, such as .*#rows=0:64"):
        project.embeddings(one.file)
    address = f"{one.file}#rows=0:64,columns=0:64"
    assert project.embeddings(address).size_hw == (64, 64)


def test_what_a_person_decided_counts_and_what_was_painted_is_read(project_file):
    from usam_core.review.decisions import Decision, append_decision
    from usam_core.steps.record import decisions_file

    project = usam.open(project_file)
    one = next(one for one in project.labels() if one.instances)
    worst = one.instances[0]
    append_decision(
        decisions_file(project._settings.out),
        Decision(
            id="1",
            time="2026-11-28T12:00:00+00:00",
            sha256=one.sha256,
            file_name=one.path,
            prompt=worst.prompt,
            mask=worst.rle,
            head_class=one.class_names[0],
            label=None,
            sampled=False,
        ),
    )
    run_step("annotate", project._settings)
    project = usam.open(project_file)
    ruled = next(other for other in project.labels() if other.path == one.path)
    assert len(ruled.rejected) == 1
    check_same(project.predict(one.file), ruled)
    labels = read_label_png(ruled.png_file)
    save_label_png(ruled.png_file, np.zeros_like(labels))
    painted = next(other for other in project.labels() if other.path == one.path)
    assert painted.is_edited()
    assert not painted.labels.any()


def test_the_table_has_a_row_for_each_instance(project, written):
    table = project.table()
    assert list(table["class"]) == [name for one in written for name in one.class_names]
    assert list(table["image"]) == [one.path for one in written for _ in one.instances]
    assert list(table["area"]) == [i.area for one in written for i in one.instances]
    assert "run" not in table


def test_plots_show_the_picture_its_labels_and_a_legend(written):
    class Axes:
        def imshow(self, picture):
            self.picture = picture

        def set_axis_off(self):
            self.off = True

    one, axes = written[0], Axes()
    drawn = one.plot(axes)
    assert axes.picture is drawn
    assert axes.off
    h, w = one.size_hw
    assert drawn.width == w
    assert drawn.height > h, "a legend"
    with Image.open(one.file) as picture:
        kept = np.asarray(picture.convert("RGB"))[one.labels == 0]
    assert np.array_equal(np.asarray(drawn)[:h][one.labels == 0], kept)


def test_coco_says_what_the_instances_are(project, written):
    record = project.predict(written[0].file).to_coco()
    assert record["image"]["file_name"] == "s0.png"
    areas = [annotation["area"] for annotation in record["annotations"]]
    assert areas == [one.area for one in written[0].instances]


def test_supervision_gets_boxes_masks_scores_and_names(written):
    pytest.importorskip("supervision", reason="needs the package supervision, not installed here")
    one = written[0]
    found = one.to_supervision()
    assert len(found) == len(one.instances)
    assert found.mask.sum((1, 2)).tolist() == [i.area for i in one.instances]
    assert found.class_id.tolist() == [i.class_index for i in one.instances]
    assert found.data["class_name"].tolist() == one.class_names
    assert np.allclose(found.confidence, [i.score for i in one.instances])
    for box, mask in zip(found.xyxy, found.mask, strict=True):
        rows, columns = np.nonzero(mask)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert box.tolist() == list(edges)


def test_detections_are_made_as_supervision_takes_them(written, monkeypatch):
    """The same by a stand-in, for where the package is not installed."""
    stand_in = types.ModuleType("supervision")
    stand_in.Detections = lambda **columns: columns
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    found = written[0].to_supervision()
    count, size_hw = len(written[0].instances), written[0].size_hw
    assert found["xyxy"].shape == (count, 4)
    assert found["mask"].shape == (count, *size_hw)
    assert found["mask"].dtype == bool


def test_a_missing_package_is_one_sentence(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(usam.UsamError, match="`pip install supervision`"):
        written[0].to_supervision()


def test_what_has_not_run_is_told(tiny_project):
    project = usam.open(tiny_project)
    with pytest.raises(usam.UsamError, match="usam fit"):
        project.predict(np.zeros((9, 9), np.uint8))
    for read in (lambda: list(project.labels()), project.table):
        with pytest.raises(usam.UsamError, match="usam annotate"):
            read()


def test_levels_and_mistakes_are_told_as_by_the_command(finished_project, tmp_path):
    assert usam.open(finished_project, level="parents").config.label_names == ["round", "long"]
    with pytest.raises(usam.UsamError, match="nothing"):
        usam.open(tmp_path / "nothing.yaml")


def test_a_file_that_is_no_image_says_so(project, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(usam.UsamError, match="first bytes"):
        project.predict(bad)
