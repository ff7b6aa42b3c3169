"""The collect step: filters, manifest, report, sheets; folders, CSV files, generated pictures."""

import json

import pandas as pd
import pytest
import yaml
from PIL import Image

from benchmarks.untrained_diffusion import TOY_SIZE, save_untrained
from usam_core.config.project import load_project
from usam_core.errors import InputError, UserError
from usam_core.head.checkpoint import load_head
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, single_object
from usam_core.steps import STEPS, run_step, step_folder
from usam_core.steps.collect import collect_class


def drawn(folder, name, count):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = single_object(generator(3, name, number), name, 96, TRAINING_LOOK).image
        Image.fromarray(picture).save(folder / f"{name}{number}.png")


def with_training(file, **training):
    values = yaml.safe_load(file.read_text())
    values["training"] = training
    file.write_text(yaml.safe_dump(values))
    return load_project(file)


@pytest.fixture
def folder_project(tiny_project):
    for name in ("disc", "ring", "rod"):
        drawn(tiny_project.parent / "pictures" / name, name, 4)
    return with_training(tiny_project, source="folder", path="pictures")


def test_what_is_dropped_has_class_origin_code_and_reason(folder_project):
    pictures = folder_project.root / "pictures" / "disc"
    (pictures / "empty.png").touch()
    Image.open(pictures / "disc0.png").resize((20, 20)).save(pictures / "small.png")
    Image.new("RGB", (90, 90), "grey").save(pictures / "flat.png")
    Image.open(pictures / "disc1.png").resize((192, 192)).save(pictures / "twin.png")
    whole = (pictures / "disc2.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "same.png").write_bytes(whole)
    # An image to be labelled, at another size.
    Image.open(folder_project.root / "images" / "s0.png").resize((256, 192)).save(
        pictures / "leak.png"
    )
    result = run_step("collect", folder_project)
    folder = step_folder(folder_project, "collect")
    dropped = pd.read_parquet(folder / "rejected.parquet")
    codes = {path.rsplit("/", 1)[1]: code for path, code in dropped[["origin", "code"]].values}
    assert codes == {
        "empty.png": "empty",
        "small.png": "too_small",
        "flat.png": "near_uniform",
        "twin.png": "near_duplicate",
        "cut.png": "truncated",
        "same.png": "duplicate",
        "leak.png": "leak",
    }
    assert set(dropped["class"]) == {"disc"}
    assert all(dropped["reason"])
    report = json.loads((folder / "report.json").read_text())
    assert report["disc"]["kept"] == 4
    assert report["disc"]["rejected"]["leak"] == 1
    assert result.summary["rejected"]["leak"] == 1
    manifest = pd.read_parquet(folder / "manifest.parquet")
    assert list(manifest.columns) == ["class", "path", "sha256", "bytes", "source", "provenance"]
    assert set(manifest["source"]) == {"folder"}
    assert json.loads(manifest["provenance"][0]) == {"given_by": "user"}
    with Image.open(folder / "sheets" / "disc.jpg") as sheet:
        assert sheet.width == 960


def test_a_filter_that_is_switched_off_lets_the_leak_in(folder_project):
    picture = folder_project.root / "pictures" / "disc" / "leak.png"
    Image.open(folder_project.root / "images" / "s0.png").save(picture)
    project = with_training(
        folder_project.file, source="folder", path="pictures", filters={"leak_bits": None}
    )
    assert run_step("collect", project).summary["per_class"]["disc"] == 5


def test_a_new_image_to_be_labelled_is_looked_for_among_the_pictures(folder_project):
    assert run_step("collect", folder_project).summary["per_class"]["rod"] == 4
    source = folder_project.root / "pictures" / "rod" / "rod2.png"
    Image.open(source).save(folder_project.root / "images" / "new.png")
    result = run_step("collect", folder_project)
    assert not result.reused
    assert result.summary["per_class"]["rod"] == 3


def test_a_class_that_ends_with_too_few_says_what_was_dropped_and_what_to_try(folder_project):
    for number in range(3):
        path = folder_project.root / "pictures" / "rod" / f"rod{number}.png"
        Image.new("RGB", (90, 90), "grey").save(path)
    with pytest.raises(InputError) as caught:
        run_step("collect", folder_project)
    for part in (
        "rod (1; dropped: 2 duplicate, 1 near_uniform)",
        "at least 3 each",
        "Try: add pictures",
        "sheets",
    ):
        assert part in str(caught.value)
    # What is needed to look into it is there.
    folder = step_folder(folder_project, "collect")
    assert (folder / "sheets" / "rod.jpg").exists()
    assert json.loads((folder / "report.json").read_text())["rod"]["kept"] == 1


def test_a_csv_file_names_class_and_path(folder_project):
    rows = [f"{name},pictures/{name}/{name}{i}.png" for name in ("disc", "rod") for i in range(3)]
    rows += [f"annulus, pictures/ring/ring{i}.png" for i in range(3)]
    rows += ["rod,pictures/rod/gone.png", "other,pictures/x.png", "rod,"]
    (folder_project.root / "list.csv").write_text("\n".join(["class,path", *rows]))
    values = yaml.safe_load(folder_project.file.read_text())
    values["classes"][1]["synonyms"] = ["annulus"]
    folder_project.file.write_text(yaml.safe_dump(values))
    project = with_training(folder_project.file, source="folder", path="list.csv")
    result = run_step("collect", project)
    assert result.summary["per_class"] == {"disc": 3, "ring": 3, "rod": 3}
    assert result.summary["rejected"] == {"missing": 1}
    assert not list(step_folder(project, "collect").rglob("*.png")), "nothing is copied"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,path\ndisc,a.png\n", r"list\.csv: no column 'class'; .*got \['name', 'path'\]"),
        ("class,path\ncat,a.png\n", r"list\.csv: no row of the class 'disc'.*\['cat'\]"),
        ('class,path\n"disc,a.png\n', r"list\.csv: cannot be read as CSV"),
        ("", r"list\.csv: cannot be read as CSV"),
    ],
)
def test_a_csv_file_of_another_form_is_told(folder_project, text, said):
    (folder_project.root / "list.csv").write_text(text)
    project = with_training(folder_project.file, source="folder", path="list.csv")
    with pytest.raises(InputError, match=said):
        run_step("collect", project)


def test_an_unknown_class_names_those_there_are(tiny_project):
    with pytest.raises(UserError, match=r"--class: got 'dog'; expected one of \['disc', 'ring'"):
        collect_class(load_project(tiny_project), "dog")


@pytest.mark.slow
def test_generated_pictures_go_through_every_step_with_their_origin(tiny_project):
    save_untrained(tiny_project.parent)
    settings = {"model": "tiny-sd", "size": TOY_SIZE, "steps": 2, "per_class": 3}
    project = with_training(
        tiny_project,
        source="synthetic",
        synthetic=settings,
        # Random weights draw noise: all of it looks alike.
        filters={"min_side": 16, "duplicate_bits": None, "min_contrast": 1},
    )
    results = {step: run_step(step, project) for step in STEPS}
    summary = results["collect"].summary
    assert summary["per_class"] == {"disc": 3, "ring": 3, "rod": 3}
    provenance = summary["provenance"]
    assert provenance["sources"] == {"synthetic": 9}
    assert provenance["model"] == {"tiny-sd": 9}
    assert provenance["scheduler"] == {"PNDMScheduler": 9}
    _, card = load_head(step_folder(project, "fit") / "student.safetensors")
    assert card["training_provenance"] == provenance
    lineage = json.loads((step_folder(project, "fit") / "lineage.json").read_text())
    assert lineage["inputs"]["pictures"]["provenance"] == provenance
    manifest = pd.read_parquet(step_folder(project, "collect") / "manifest.parquet")
    first = json.loads(manifest["provenance"][0])
    assert first["prompt"] == "a photo of a disc"
    assert run_step("collect", project).reused


def test_names_of_any_form_find_their_folder_and_have_a_sheet(tiny_project):
    values = yaml.safe_load(tiny_project.read_text())
    long = 40 * "\u957f"
    values["classes"] = ["caf\u00e9", long, "d/i".replace("/", ":")]
    tiny_project.write_text(yaml.safe_dump(values))
    for folder, name in (("cafe\u0301", "disc"), (long, "ring"), ("d:i", "rod")):
        drawn(tiny_project.parent / "pictures" / folder, name, 3)
    project = with_training(tiny_project, source="folder", path="pictures")
    result = run_step("collect", project)
    assert set(result.summary["per_class"].values()) == {3}
    assert len(list((step_folder(project, "collect") / "sheets").iterdir())) == 3


def test_paths_that_no_disk_can_hold_are_rejected_lines(folder_project):
    rows = [
        f"{name},pictures/{name}/{name}{i}.png"
        for name in ("disc", "ring", "rod")
        for i in range(3)
    ]
    rows += ["disc," + 300 * "x" + ".png"]
    (folder_project.root / "list.csv").write_text("\n".join(["class,path", *rows]))
    project = with_training(folder_project.file, source="folder", path="list.csv")
    assert run_step("collect", project).summary["rejected"] == {"unreadable": 1}


def test_a_project_that_moved_reads_its_own_pictures(folder_project, tmp_path_factory):
    run_step("collect", folder_project)
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    folder_project.root.rename(moved)
    project = load_project(moved / folder_project.file.name)
    again = run_step("collect", project, refresh=True)
    assert again.summary["per_class"] == {"disc": 4, "ring": 4, "rod": 4}
    manifest = pd.read_parquet(step_folder(project, "collect") / "manifest.parquet")
    assert not [path for path in manifest["path"] if path.startswith("/")]
