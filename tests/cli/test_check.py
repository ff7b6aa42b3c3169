"""`usam check`: every damage of a project is named, and a repair leads to the same results."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import change, write_tiny_project
from usam_core.config.project import load_project
from usam_core.errors import MissingStepError
from usam_core.files.atomic import only_one
from usam_core.steps import STEPS, run_step, step_folder
from usam_core.steps.check import check_project
from usam_core.steps.embed import open_store
from usam_core.steps.gate import check_gate
from usam_core.steps.record import decisions_file, made_digest, read_record
from usam_core.steps.review import open_review
from usam_core.store import shard as shard_module

CACHES = r".*/(images\.parquet|\.checked\.json|labels\.json|\.lock|\w+\.lock|locks/.*)"
"""Files that nothing stands on: what is remembered of work that can be done again."""
BESIDE = r"export/(ome_zarr/.*/0/0|yolo/images)/.*"
"""A pixel of an exported mask may be a person's; links to images are no bytes of ours."""


MAY_BE_GONE = [
    "annotate/lineage/*.json",  # an earlier run's, which no result names any more
    "collect/found/*.json",  # what collect remembers of work that it can do again
    "gate/history.jsonl",  # as before the first run that passed
    "review/precision.json",  # `usam review` writes it
]
"""Files without which nothing that is there stands on less."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a project with results of every kind; tests put back what they change."""
    file = write_tiny_project(tmp_path_factory.mktemp("made"))
    project = change(file, outputs={"formats": ["coco", "ome_zarr", "yolo"]})
    for step in list(STEPS)[: list(STEPS).index("annotate") + 1]:
        run_step(step, project)
    review = open_review(project)
    first = next(iter(review.items.values()))
    review.decide(first.id, first.name)
    for step in list(STEPS)[list(STEPS).index("annotate") :]:
        run_step(step, project)
    check_gate(project)
    return file


@pytest.fixture
def root(made, tmp_path):
    """Return the folder of a copy that a test may change."""
    shutil.copytree(made.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def flip(file, place=0.5):
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def fold(file):
    file.unlink()
    file.mkdir()


WAYS = {
    "flip": flip,
    "cut": cut,
    "gone": Path.unlink,
    "folder": fold,
    "empty": lambda f: f.write_bytes(b""),
}


def kinds(root):
    """Return one file of each kind below the results, by what is the same in the names."""
    found = {}
    for file in sorted((root / "out").rglob("*")):
        name = file.relative_to(root / "out").as_posix()
        if file.is_file() and file.stat().st_size and not re.fullmatch(f"{CACHES}|{BESIDE}", name):
            found.setdefault(re.sub(r"[0-9a-f]{16,}|\d+|disc|ring|rod", "*", name), file)
    return found


def named(found, root, file):
    """Return whether a check says a file, or the exported folder that it lies in, is damaged."""
    name = file.relative_to(root).as_posix()
    whole = re.sub(r"\.zarr/.*", ".zarr", name) if "/ome_zarr/" in name else name
    said = [one.path + one.what for one in found.damages]
    return any(name in text or whole in text for text in said) or name in found.edits


def damaged(root, file, way):
    """Damage a file, check the project, and put the file back."""
    kept, copy = file.read_bytes(), file.with_name(f".kept-{file.name}")
    shutil.copy2(file, copy)
    try:
        way(file)
        return check_project(load_project(root / "project.yaml"))
    finally:
        if file.is_dir():
            file.rmdir()
        copy.replace(file)
        assert file.read_bytes() == kept


def test_images_of_a_damaged_shard_are_not_told_as_missing_too(made):
    index = next(made.parent.glob("out/store/*/shards/*/index.parquet"))
    said = [one.what for one in damaged(made.parent, index, cut).damages]
    assert said
    assert not [what for what in said if "images of the results" in what]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found_and_named(made, data):
    root = made.parent
    of_kind = kinds(root)
    file = of_kind[data.draw(st.sampled_from(sorted(of_kind)))]
    place = data.draw(st.floats(0, 1))
    assert named(damaged(root, file, lambda f: flip(f, place)), root, file), file


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_of_every_kind_is_named(made, way):
    root = made.parent
    assert check_project(load_project(made)).damages == []
    unnamed = [
        kind
        for kind, file in kinds(root).items()
        if not named(damaged(root, file, WAYS[way]), root, file)
    ]
    assert unnamed == (MAY_BE_GONE if way == "gone" else [])


def results(project):
    """Return what the steps made; a report shows the times of the documents."""
    records = {step: read_record(step_folder(project, step)) for step in STEPS}
    return {step: made_digest(one) for step, one in records.items() if one and step != "report"}


REPAIRED = {
    "picture": ("collect/pictures/rod-96-0-1/0001.png", 0),
    "manifest": ("collect/manifest.parquet", 0),
    "remembered": ("collect/found/disc.json", 0),
    "document": ("collect/lineage.json", 0),
    "record": ("embed/record.json", 0),
    "windows": ("embed/windows-*.json", 0),
    "store": ("store/*/zarr.json", 0),
    "shards": ("store/*/shards/zarr.json", 0),
    "shard": ("store/*/shards/*/packed_masks/c/0/0/0/0/0", None),
    "scene": ("compose/scenes/train-00000.png", 0),
    "head": ("fit/student.safetensors", 0),
    "part": ("annotate/parts/*.parquet", 0),
    "label": ("annotate/masks/s1.png", 0),
    "metrics": ("evaluate/metrics.json", 0),
    "ledger": ("export/ledger.sqlite", 0),
    "rows": ("export/rows/coco/*.jsonl", 0),
    "exported index": ("export/coco/instances.json", 0),
    "kept run": ("report/runs/*/cover.parquet", 0),
    "history": ("report/history.json", 0),
}


@pytest.mark.parametrize("way", ["flip", pytest.param("folder", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", REPAIRED)
def test_a_repair_and_a_run_lead_to_the_same_results(root, what, way):
    project = load_project(root / "project.yaml")
    before = results(project)
    pattern, embedded = REPAIRED[what]
    file = sorted((root / "out").glob(pattern))[0]
    shard = next((f for f in file.parents if f.parent.name == "shards"), None)
    if embedded is None:
        store = open_store(project)
        embedded = len(store.images_of(shard.name))
    WAYS[way](file)
    assert not check_project(project).sound
    assert check_project(project, repair=True).sound
    done = {step: run_step(step, project).summary for step in STEPS}
    assert done["embed"]["embedded"] + done["compose"]["embedded"] == embedded
    assert results(project) == before
    again = check_project(project)
    assert (again.damages, again.edits) == ([], [])


def test_damage_that_the_next_run_sees_needs_no_repair(root):
    project = load_project(root / "project.yaml")
    before = results(project)
    files = ["fit/student.safetensors", "annotate/masks/s0.png", "compose/truth/train-00001.png"]
    for name in files:
        flip(root / "out" / name)
    found = check_project(project)
    assert {one.path: one.remade for one in found.damages} == {f"out/{n}": "run" for n in files}
    assert {one.step for one in found.damages} == {"fit", "annotate", "compose"}
    for step in STEPS:
        run_step(step, project)
    assert results(project) == before
    assert check_project(project).damages == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["images/s1.png", "out/review/decisions.jsonl"])
def test_what_is_a_person_s_is_told_and_never_touched(root, name, way):
    project = load_project(root / "project.yaml")
    file = root / name
    WAYS[way](file)
    then = file.read_bytes() if file.is_file() else file.exists()
    found = check_project(project, repair=True)
    assert [(one.path, one.remade) for one in found.damages] == [(name, "no")]
    assert not found.sound
    assert then == (file.read_bytes() if file.is_file() else file.exists())


def test_decisions_that_were_added_since_are_no_damage(root):
    project = load_project(root / "project.yaml")
    review = open_review(project)
    review.decide(list(review.items)[-1], None)
    assert check_project(project).damages == []
    assert decisions_file(project.out).read_text().count("\n") == 2


def test_pictures_of_a_person_are_told_and_never_touched(tmp_path):
    file = write_tiny_project(tmp_path)
    for name in ("disc", "ring", "rod"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(3):
            grey = Image.effect_noise((64, 64), 40 + 60 * number + len(name))
            grey.convert("RGB").save(tmp_path / "mine" / name / f"{number}.png")
    filters = {"leak_bits": None, "min_side": 1}
    training = {"source": "folder", "path": "mine", "filters": filters, "min_per_class": 1}
    project = change(file, training=training)
    run_step("collect", project)
    picture = tmp_path / "mine" / "ring" / "1.png"
    flip(picture)
    then = picture.read_bytes()
    (one,) = check_project(project, repair=True).damages
    assert (one.path, one.remade) == ("mine/ring/1.png", "no")
    assert "put it back as it was" in one.advice
    assert picture.read_bytes() == then


def test_edits_are_no_damage_and_stay(root):
    project = load_project(root / "project.yaml")
    label = root / "out/annotate/masks/s1.png"
    with Image.open(label) as picture:
        picture.putpixel((3, 3), 2)
        picture.save(label)
    text = root / "out/export/yolo/labels/s2.txt"
    text.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    found = check_project(project, repair=True)
    assert (found.damages, found.sound) == ([], True)
    assert found.edits == ["out/annotate/masks/s1.png", "out/export/yolo/labels/s2.txt"]
    assert text.read_text().startswith("0 0.1")


def test_an_edit_outlives_the_loss_of_the_ledger(root):
    project = load_project(root / "project.yaml")
    text = root / "out/export/yolo/labels/s2.txt"
    text.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (root / "out/export/ledger.sqlite").write_bytes(b"no database")
    assert check_project(project, repair=True).sound
    assert run_step("export", project).summary["edited"]["yolo"] == 1
    assert text.read_text().startswith("0 0.1")


def test_a_project_that_never_ran(tiny_project):
    with pytest.raises(MissingStepError, match="no step has run yet; run `usam run"):
        check_project(load_project(tiny_project))


def test_a_step_that_is_being_written_is_waited_for(root):
    project = load_project(root / "project.yaml")
    found = []
    look = threading.Thread(target=lambda: found.append(check_project(project)))
    coco = root / "out/annotate/coco.json"
    content = coco.read_bytes()
    with only_one(root / "out/annotate/.lock", "a run"):
        coco.write_bytes(b"{")
        look.start()
        look.join(2)
        assert look.is_alive()
        coco.write_bytes(content)
    look.join()
    assert found[0].damages == []


def test_a_shard_that_is_dropped_while_it_is_read_is_no_damage(root, monkeypatch):
    project = load_project(root / "project.yaml")
    real = shard_module.check_shard

    def drop(folder, *args, **options):
        shutil.rmtree(folder)
        return real(folder, *args, **options)

    monkeypatch.setattr(shard_module, "check_shard", drop)
    assert open_store(project).verify() == []


def test_every_level_is_looked_at(root):
    project = load_project(root / "project.yaml", level="parents")
    for step in ("fit", "calibrate", "annotate"):
        run_step(step, project)
    flip(root / "out/parents/fit/teacher.safetensors")
    (one,) = check_project(load_project(root / "project.yaml")).damages
    assert one.path == "out/parents/fit/teacher.safetensors"


def test_the_command_says_what_and_its_exit_code(root, tiny_project):
    from tests.usam_process import usam

    file = root / "project.yaml"
    found = usam("check", file, "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert (said["sound"], said["damages"]) == (True, [])
    assert said["bytes"] > sum(f.stat().st_size for f in (root / "out/store").rglob("*.parquet"))
    flip(root / "out/fit/student.safetensors")
    found = usam("check", file)
    assert found.returncode == 1
    assert "out/fit/student.safetensors: expected SHA-256" in found.stdout
    assert "MB/s" in found.stdout
    assert usam("check", file, "--repair").returncode == 0
    found = usam("check", tiny_project)
    assert (found.returncode, found.stdout) == (2, "")
    assert len(found.stderr.strip().splitlines()) == 1
