"""From image paths to names of files: safe, and no two the same."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import write_tiny_project
from tests.export_data import image_of, target_in
from usam_core.config.project import load_project
from usam_core.files.atomic import whole_file, whole_folder
from usam_core.lineage.chain import read_chain
from usam_core.masks.label_png import save_label_png
from usam_core.outputs.formats import WRITERS, open_writer
from usam_core.outputs.label_files import output_names
from usam_core.outputs.ledger import Ledger
from usam_core.steps import STEPS, review, run_step
from usam_core.steps.exporting import Job, export_part, remove_left_over
from usam_core.steps.lineage_checks import check_chain

LONG = [
    f"{'x' * 251}.jpg",
    f"{'x' * 251}.png",
    f"{'x' * 250}y.jpg",
    f"{'字' * 80}.png",
    f"{'字' * 83}.tif",
    f"{'d' * 255}/{'é' * 127}/{'x' * 251}.png",
    f"{'d' * 255}/{'é' * 127}/{'x' * 251}.jpg",
]
"""Names of 244 to 255 bytes; several begin alike."""


def test_images_whose_names_differ_in_their_endings_have_names_of_their_own():
    names = output_names(["a.jpg", "a.png", "a.jpg.tif", "b.tif"])
    assert re.fullmatch("a.jpg-[0-9a-f]{12}", names.pop("a.jpg"))
    assert names == {"a.png": "a.png", "a.jpg.tif": "a.jpg.tif", "b.tif": "b"}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["s0.png", "sub/s0.png"], ["s0", "sub/s0"]),
        (["w.ome.tif#t=3,z=0", "w.ome.tif#t=3,z=1"], ["w.ome_t3_z0", "w.ome_t3_z1"]),
        (["w.tif#t=3", "w_t3.tif"], ["w.tif_t3", "w_t3.tif"]),
        (["A.png", "a.jpg"], ["A.png", "a.jpg"]),
        (["s3://bucket/a?b.png"], ["s3/bucket/a_b"]),
        (["../x.png", "/y.png"], ["_/x", "y"]),
        (["well #1, a=b.png"], ["well #1, a=b"]),
    ],
)
def test_names(paths, names):
    assert list(output_names(paths).values()) == names


letters = st.text("aA.#=t0,/:_", min_size=1, max_size=6)


@given(st.lists(letters.map(lambda text: f"{text}.png"), unique=True, max_size=12))
def test_no_two_are_the_same_and_all_stay_below_their_folder(paths):
    names = output_names(paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    for name in names.values():
        assert not name.startswith("/")
        assert ".." not in name.split("/")


steps = st.builds(str.__mul__, st.sampled_from(["x", "xX", "字", "é"]), st.integers(1, 255))


@given(st.lists(st.lists(steps, min_size=1, max_size=20).map("/".join), unique=True, max_size=8))
def test_there_is_room_for_an_ending_and_for_marks(paths):
    names = output_names(f"{path}.png" for path in paths)
    assert len({name.casefold() for name in names.values()}) == len(paths)
    for name in names.values():
        assert len(os.fsencode(name)) < 2000
        *folders, last = (len(os.fsencode(part)) for part in name.split("/"))
        assert last <= 220
        assert all(folder <= 255 for folder in folders)


@pytest.mark.parametrize("name", ["x" * 255, "字" * 85, "é" * 127])
def test_files_and_folders_of_the_longest_names_are_written(name, tmp_path):
    with whole_file(tmp_path / name) as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    with whole_folder(tmp_path / "in" / name) as temporary:
        (temporary / "file").write_bytes(b"whole")
    assert os.listdir(tmp_path / "in") == [name]


@pytest.mark.parametrize("format_", sorted(WRITERS))
def test_every_format_takes_the_longest_names(format_, tmp_path):
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    names, images = output_names(LONG), []
    for number, path in enumerate(LONG):
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 6)).save(tmp_path / "images" / path)
        here = np.roll(mask, number % 3, axis=0)
        image = image_of([here], (6, 9), path, tmp_path / "images", names[path])
        images.append(replace(image, folder=tmp_path / "annotate"))
        save_label_png(images[-1].png_file, here.astype(np.uint8))
    writer = open_writer(format_, target_in(tmp_path))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for kept in (images, images, images[:2]):
            export_part("part", kept, [Job(writer, "key")], ledger)
            remove_left_over(writer, ledger)
            assert list(ledger.edits(format_)) == []
        rows = [row for image in images for row in writer.rows(image)]
        writer.finish(iter(json.loads(json.dumps(rows))))
        for image in images[:2]:
            place = writer.target(image)
            if place is not None:
                read = writer.read(image, place).classes
                assert (read == np.asarray(image.objects > 0)).all()
        gone = [writer.target(image) for image in images[2:]]
        assert not any(place is not None and os.path.lexists(place) for place in gone)


@pytest.mark.slow
def test_a_project_of_long_names_runs_from_end_to_end(tmp_path):
    file = write_tiny_project(tmp_path)
    names = ("x" * 251, "x" * 250 + "y", "字" * 80, f"{'d' * 255}/{'x' * 251}")
    for number, name in enumerate(names):
        for folder in ("images", "truth"):
            place = tmp_path / folder / f"{name}.png"
            place.parent.mkdir(exist_ok=True)
            (tmp_path / folder / f"s{number}.png").rename(place)
    project = load_project(file)
    outputs = project.config.outputs.model_copy(update={"formats": sorted(WRITERS)})
    project = replace(project, config=project.config.model_copy(update={"outputs": outputs}))
    done = {step: run_step(step, project) for step in STEPS}
    assert done["evaluate"].summary["images"] == 4
    assert done["export"].summary["edited"] == dict.fromkeys(sorted(WRITERS), 0)
    assert run_step("export", project).reused
    review.open_review(project, limit=3)
    for png in (tmp_path / "out" / "annotate" / "masks").rglob("*.png"):
        assert {f.verdict for f in check_chain(read_chain(png))} <= {"ok", "unknown"}
