"""A project over stacks: a label image for each plane, and windows that stay what they were."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import yaml
import zarr
from PIL import Image

from tests.conftest import write_tiny_project
from tests.images.test_imagestores_zarr import write_image
from usam_core.config.project import load_project
from usam_core.errors import ConfigError, MissingStepError
from usam_core.files.digest import write_sealed
from usam_core.images.listing.content import _remembered, content_key, mismatch
from usam_core.lineage.chain import read_chain
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.steps import STEPS, run_step, step_folder
from usam_core.steps.embed import open_store, spec
from usam_core.steps.embed_notes import notes_on_endings
from usam_core.steps.lineage_checks import check_chain
from usam_core.steps.read_settings import how_to_read, windows_file

CLASSES = ["disc", "ring", "rod"]


def planes(*lengths: int) -> np.ndarray:
    """Return uint16 (..., c, h, w): drawn scenes, deeper and darker than 8 bit."""
    drawn = [
        scene(generator(5, number), CLASSES, (48, 64), TRAINING_LOOK, most=2).image
        for number in range(int(np.prod(lengths)))
    ]
    values = np.stack(drawn).transpose(0, 3, 1, 2).astype(np.uint16) * 9 + 100
    return values.reshape(*lengths, *values.shape[1:])


def stack(path, values, names=("DAPI", "GFP", "Cy5")):
    said = {"axes": "TZCYX", "Channel": {"Name": list(names)}}
    tifffile.imwrite(path, values, ome=True, compression="lzw", metadata=said)


@pytest.fixture
def project(tmp_path):
    """Return a function that loads the project of stacks with other settings of `images`."""
    file = write_tiny_project(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images" / "plates").mkdir(parents=True)
    stack(tmp_path / "images/plates/well_A1.ome.tif", planes(2, 2))
    text = yaml.safe_load(file.read_text())
    del text["evaluation"]

    def load(**images):
        text["images"] = {"path": "images", **images}
        file.write_text(yaml.safe_dump(text))
        return load_project(file)

    return load


def test_a_plane_is_compared_by_its_file(tmp_path):
    file = tmp_path / "one.ome.tif"
    stack(file, planes(2, 1))
    plane = f"{file}#t=1"
    sha256 = content_key(plane)
    assert mismatch(plane, sha256) == ""
    assert "expected SHA-256 000000000000, got " in mismatch(plane, "0" * 64)
    file.unlink()
    assert "No such file" in mismatch(plane, sha256)


@pytest.mark.slow
def test_every_plane_of_a_stack_and_of_ome_zarr_is_labelled(project, tmp_path):
    group = zarr.open_group(tmp_path / "images/b.ome.zarr", mode="w")
    write_image(group, planes(2, 1), names=("DAPI", "GFP", "Cy5"))
    one = project(channels={"red": "GFP", "green": 0})
    steps = [step for step in STEPS if step not in ("evaluate", "export", "report")]
    results = {step: run_step(step, one) for step in steps}
    folder = step_folder(one, "annotate")
    names = ["b.ome_t0.png", "b.ome_t1.png"]
    names += [f"plates/well_A1.ome_t{t}_z{z}.png" for t in (0, 1) for z in (0, 1)]
    found = sorted(
        p.relative_to(folder / "masks").as_posix() for p in folder.glob("masks/**/*.png")
    )
    assert found == names
    for name in names:
        assert Image.open(folder / "masks" / name).size == (64, 48)
    coco = json.loads((folder / "coco.json").read_text())
    listed = sorted(image["file_name"] for image in coco["images"])
    assert listed[:3] == ["b.ome.zarr#t=0", "b.ome.zarr#t=1", "plates/well_A1.ome.tif#t=0,z=0"]
    assert results["embed"].summary["quarantined"] == []
    # What was shown stands in the lineage, in the index and in the notes.
    said = "uint16 red=GFP green=DAPI without=Cy5"
    lineage = json.loads((step_folder(one, "embed") / "lineage.json").read_text())
    assert lineage["shown"][said] == 6
    assert lineage["inputs"]["store"]["spec"]["channels"] == {"red": "GFP", "green": 0}
    assert any(
        f"6 images are shown as {said}" in note for note in results["embed"].summary["notes"]
    )
    index = open_store(one).index()
    rows = index[index["source"].str.contains("#")]
    low, high = lineage["inputs"]["store"]["spec"]["window"]["uint16 GFP"]
    assert rows["mode"].str.contains(rf"red=GFP\[{low:g}:{high:g}\]").all()
    assert rows["window_low"].min() <= low < high <= rows["window_high"].max()
    assert all(run_step(step, one).reused for step in steps)
    chain = read_chain(folder)
    found = {one.name: (one.verdict, one.text) for one in check_chain(chain) if one.link}
    assert found["labels"] == found["images"] == ("ok", "6 files")


@pytest.mark.slow
def test_windows_stay_when_images_are_added_and_go_with_a_refresh(project, tmp_path):
    one = project()
    run_step("collect", one)
    run_step("embed", one)
    before = spec(one)
    assert before["window"].keys() == {"uint16 DAPI", "uint16 GFP", "uint16 Cy5"}
    stack(tmp_path / "images/bright.ome.tif", planes(1, 1) * 10)
    stack(tmp_path / "images/other.ome.tif", planes(1, 1), names=("DAPI", "GFP", "Cy7"))
    again = run_step("embed", one)
    assert spec(one) == before
    assert again.summary["embedded"] == 2
    notes = [note for note in again.summary["notes"] if "own percentiles" in note]
    assert [note.split()[0] for note in notes] == ["1"]
    anew = run_step("embed", one, refresh=True)
    after = spec(one)["window"]
    assert "uint16 Cy7" in after
    assert after["uint16 DAPI"][1] > before["window"]["uint16 DAPI"][1]
    assert not [note for note in anew.summary["notes"] if "own percentiles" in note]


@pytest.mark.slow
def test_other_channels_have_other_windows_and_other_embeddings(project):
    every, flat = project(), project(projection="max")
    assert windows_file(every) != windows_file(flat)
    open_store(flat, create=True)
    assert spec(flat)["projection"] == "max"
    assert len(how_to_read(flat)["window"]) == 3
    run_step("collect", flat)
    summary = run_step("embed", flat).summary
    assert summary["shown"]["uint16 red=DAPI green=GFP blue=Cy5 max of z"] == 2


def test_of_8_bit_images_the_embeddings_are_what_they_were(tiny_project):
    # Before there were windows of a store, this was the default.
    one = load_project(tiny_project)
    open_store(one, create=True)
    assert spec(one)["window"] == "percentile"
    assert "channels" not in spec(one)
    assert "stretch" not in spec(one)
    assert "stretch" not in how_to_read(one)


@pytest.mark.slow
def test_stretched_8_bit_images_have_other_embeddings_and_say_so(tiny_project):
    text = yaml.safe_load(tiny_project.read_text())
    text["images"]["stretch"] = True
    open_store(load_project(tiny_project), create=True)
    before = spec(load_project(tiny_project))
    tiny_project.write_text(yaml.safe_dump(text))
    one = load_project(tiny_project)
    assert spec(one) == {**before, "stretch": True}
    run_step("collect", one)
    summary = run_step("embed", one).summary
    assert summary["quarantined"] == []
    assert sum(summary["shown"].values()) == summary["images"]
    assert all(mode.endswith(" stretched") for mode in summary["shown"])
    rows = open_store(one).index()
    assert (rows["window_low"] < rows["window_high"]).all()


def test_a_damaged_file_of_windows_is_made_anew(project):
    one = project()
    open_store(one, create=True)
    before = spec(one)
    windows_file(one).write_text('{"windows": [1]}')
    with pytest.raises(MissingStepError, match=r"run `usam embed .*project\.yaml` first"):
        spec(one)
    open_store(one, create=True)
    assert spec(one) == before


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"channels": {"pink": 0}}, "images.channels.pink"),
        ({"channels": {"grey": 0, "red": 1}}, "grey alone"),
        ({"channels": {"grey": -1}}, "images.channels.grey"),
        ({"channels": {"grey": True}}, "images.channels.grey"),
        ({"channels": {}}, "images.channels"),
        ({"projection": "sum"}, "images.projection"),
        ({"window": "own"}, "images.window"),
    ],
)
def test_settings_that_make_no_sense_are_told_with_their_key(project, images, said):
    with pytest.raises(ConfigError, match=said):
        project(**images)


def test_a_channel_that_no_image_has_quarantines_them_with_the_key(project):
    one = project(channels={"grey": "YFP"})
    run_step("collect", one)
    bad = run_step("embed", one).summary["quarantined"]
    assert [entry["code"] for entry in bad] == ["no_channel"] * 4
    assert "images.channels.grey: got 'YFP'" in bad[0]["reason"]


def scene_of_a_satellite(path, **options):
    values = (planes(1, 1)[0, 0, 0] - 50).astype(np.float32)
    values[:20] = -9999
    tifffile.imwrite(path, values, extratags=[(42113, "s", 6, "-9999", True)], **options)


@pytest.mark.slow
def test_of_an_older_store_only_what_was_read_wrongly_is_embedded_again(
    project, tmp_path, monkeypatch
):
    scene_of_a_satellite(tmp_path / "images/a.tif")
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "images/b.tif")
    (tmp_path / "images/c.jxl").write_bytes(b"x")
    one = project(window="percentile")
    run_step("collect", one)
    with monkeypatch.context() as patch:
        patch.setattr("usam_core.images.stores.anew.is_read_anew", lambda source: False)
        before = run_step("embed", one).summary
    (step_folder(one, "embed") / "images.parquet").unlink()
    _remembered.cache_clear()
    after = run_step("embed", one).summary
    assert (before["quarantined"], after["quarantined"]) == ([], [])
    assert after["embedded"] == 1
    assert after["reused"] == before["images"] - 1
    assert "1 images were left out for their endings: 1 .jxl" in " ".join(after["notes"])
    assert notes_on_endings(project(extensions=[".tif"])) == []


def test_windows_of_images_that_were_read_wrongly_are_computed_anew(project, tmp_path):
    old = {"windows": {"float32 0": [-9999.0, 5.0], "uint16 DAPI": [1.0, 2.0]}, "sample": []}
    one = project()
    for sample, kept in (
        (["images/plates/well_A1.ome.tif#t=0,z=0"], True),
        (["images/a.tif", "images/plates/well_A1.ome.tif#t=0,z=0"], False),
    ):
        scene_of_a_satellite(tmp_path / "images/a.tif")
        write_sealed(windows_file(one), {**old, "sample": sample})
        open_store(one, create=True)
        low, _ = how_to_read(one)["window"]["float32 0"]
        assert (low == -9999) == kept
    assert low >= 50
    assert json.loads(windows_file(one).read_text())["reading"] == 3
