"""Recipes: settings under one word, what they cost, and which one a machine gets."""

import json
import logging

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import change, write_tiny_project
from tests.feature_models import save_model
from tests.hub_site import answers, hub_of
from tests.sam_models import save_sam
from usam_core.cli.app import app
from usam_core.cli.recipes import Machine, choose, describe, fault, hub_id
from usam_core.config.project import check_extras, load_project
from usam_core.config.recipes import RECIPES, poor_features
from usam_core.config.schema import ProjectConfig
from usam_core.sam.hub_models import HUB_SAMS
from usam_core.steps import STEPS
from usam_core.steps.embed import warn_of_features

OURS = ["laptop", "fast", "balanced", "best"]
MINIMAL = {"classes": ["dog", "cat"], "images": {"path": "images"}}


def config_of(recipe, **more):
    return ProjectConfig.model_validate({**MINIMAL, "recipe": recipe, **more})


def test_the_word_of_each_recipe_is_one_of_the_table():
    assert list(RECIPES) == OURS
    assert config_of(None).recipe is None
    for word in (*OURS, "papers"):
        assert config_of(word).recipe == word


@pytest.mark.parametrize("word", OURS)
def test_no_recipe_leaves_the_head_on_sams_own_eyes(word):
    config = config_of(word)
    assert not {"tokens", "encoder"} & set(config.head.features)
    assert set(config.head.features) <= set(config.features)
    assert poor_features(config.sam.model, config.head.features, config.head.text, word) == ""


@pytest.mark.parametrize("word", OURS)
def test_the_parts_of_a_recipe_are_its_settings(word):
    config, recipe = config_of(word), RECIPES[word]
    models = [config.sam.model, *(block.model for block in config.features.values())]
    assert [part.model for part in recipe.parts] == models
    for part in recipe.parts:
        known = HUB_SAMS.get(part.model)
        if known:
            assert (part.megabytes, part.licence) == (known.megabytes, known.licence)
    if "names" in config.features:
        assert (config.head.text, config.text_block) == ("fuse", "names")


def test_every_other_setting_stays_settable():
    config = config_of(
        "balanced",
        sam={"points_per_side": 16, "model": "vit_b"},
        features={"looks": {"model": "models/dino"}, "third": {"model": "a/b"}},
        head={"text": "off", "steps": 9},
    )
    assert (config.sam.model, config.sam.points_per_side) == ("vit_b", 16)
    assert config.features["looks"].model == "models/dino"
    assert config.features["names"].model == "google/tipsv2-l14"
    assert config.features["third"].model == "a/b"
    assert (config.head.text, config.head.steps, config.head.features) == ("off", 9, ["looks"])


@pytest.mark.parametrize(
    ("sam", "features", "text", "recipe", "poor"),
    [
        ("vit_b", ["encoder"], "off", None, True),
        ("sam2.1_large", ["tokens", "encoder"], "fuse", None, True),
        ("vit_h", ["tokens"], "off", "papers", False),
        ("vit_h", ["tokens", "dinov2"], "off", None, False),
        ("vit_h", ["encoder"], "alone", None, False),
        ("nano", ["encoder"], "off", None, False),
    ],
)
def test_a_head_on_a_real_sams_own_features_is_warned_of(sam, features, text, recipe, poor):
    found = poor_features(sam, features, text, recipe)
    assert bool(found) == poor
    if poor:
        assert f"{features} of sam.model {sam}" in found
        assert "11 %" in found


def test_the_warning_is_said_where_the_work_begins(tmp_path, caplog):
    file = write_tiny_project(tmp_path)
    with caplog.at_level(logging.WARNING):
        warn_of_features(load_project(file))
        assert caplog.text == ""
        warn_of_features(change(file, sam={"model": "vit_b"}))
    assert "project.yaml: head.features: ['encoder'] of sam.model vit_b" in caplog.text


def machine(gpu_gb=0.0, disk=10**12, hub=True, here=(), can_load=True):
    return Machine(gpu_gb, disk, hub, lambda part: part.model in here, can_load)


BALANCED = [part.model for part in RECIPES["balanced"].parts]
BEST = [part.model for part in RECIPES["best"].parts]


@pytest.mark.parametrize(
    ("found", "chosen", "why"),
    [
        (machine(), "laptop", "not fast: wants a GPU of 4 GB"),
        (machine(gpu_gb=6), "fast", "not balanced: wants a GPU of 8 GB"),
        (machine(gpu_gb=80), "balanced", "not best: needs an agreement on the hub first"),
        (machine(gpu_gb=80, here=BEST), "best", ""),
        (machine(gpu_gb=80, hub=False, here=BALANCED), "balanced", "not best: the hub does not"),
        (machine(gpu_gb=80, hub=False), None, "not laptop: the hub does not answer"),
        (machine(gpu_gb=80, disk=2 * 10**9), "laptop", "not fast: wants 5 GB of disk"),
        (machine(can_load=False, hub=False), None, "pip install 'usam[features]'"),
    ],
)
def test_a_machine_gets_the_largest_recipe_that_runs_well(found, chosen, why):
    name, reasons = choose(found)
    assert name == chosen
    assert any(why in reason for reason in reasons) or (not why and not reasons)


def test_what_a_recipe_costs_is_said_before_it_starts():
    text = describe("balanced", machine(here=BALANCED[:1]))
    assert "about 3167 MB (facebook/dinov2-with-registers-large, google/tipsv2-l14)" in text
    assert "licences: Apache-2.0;" in text
    assert "MB of store an image" in text
    assert "agreement needed: facebook/dinov3-vitl16" in describe("best", machine())
    assert "Download: nothing" in describe("laptop", machine(here=["facebook/dinov2-small"]))
    assert fault(RECIPES["best"], machine(gpu_gb=80, here=BEST)) == ""


def test_init_writes_the_word_and_leaves_the_sam_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Machine, "look", lambda folder: machine(gpu_gb=6))
    (tmp_path / "images").mkdir()
    run = ["init", str(tmp_path / "p"), "--classes", "dog,cat", "--images"]
    run += [str(tmp_path / "images"), "--source", "synthetic", "--recipe", "balanced"]
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "recipe balanced: SAM 2.1 base+" in said
    assert "about 3491 MB" in said
    assert "here, recipe balanced: wants a GPU of 8 GB" in said
    file = tmp_path / "p" / "project.yaml"
    assert yaml.safe_load(file.read_text())["recipe"] == "balanced"
    project = load_project(file)
    assert project.config.sam.model == "sam2.1_base_plus"
    check_extras(project)
    done = CliRunner().invoke(app, [*run, "--sam", "vit_b", "--force"])
    assert load_project(file).config.sam.model == "vit_b"


def test_auto_says_what_it_chose_and_why(tmp_path, monkeypatch):
    monkeypatch.setattr(Machine, "look", lambda folder: machine(gpu_gb=10))
    (tmp_path / "images").mkdir()
    run = ["init", str(tmp_path / "p"), "--classes", "dog,cat", "--images"]
    run += [str(tmp_path / "images"), "--recipe", "auto"]
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "not best: needs an agreement" in said
    assert "recipe auto: balanced. SAM 2.1 base+" in said
    assert yaml.safe_load((tmp_path / "p" / "project.yaml").read_text())["recipe"] == "balanced"
    monkeypatch.setattr(Machine, "look", lambda folder: machine(hub=False))
    done = CliRunner().invoke(app, [*run, "--force", "--json"])
    written = json.loads(done.output)
    assert written["recipe"] is None
    assert "recipe auto: none" in written["told"][-1]
    values = yaml.safe_load((tmp_path / "p" / "project.yaml").read_text())
    assert (values.get("recipe"), values["sam"]["model"]) == (None, "nano")


def test_doctor_shows_all_recipes_and_the_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Machine, "look", lambda folder: machine(gpu_gb=6))
    file = write_tiny_project(tmp_path)
    change(file, sam={"model": "sam3"})
    done = CliRunner().invoke(app, ["doctor", str(file), "--json"])
    found = {check["name"]: check for check in json.loads(done.output)}
    for word in OURS:
        assert "MB of store an image" in found[f"recipe {word}"]["value"]
    assert found["recipe fast"]["verdict"] == "good"
    assert found["recipe balanced"]["advice"] == "wants a GPU of 8 GB"
    assert found["head.features"]["verdict"] == "note"
    assert "3440 MB from facebook/sam3" in found["SAM sam3"]["advice"]
    assert "agreement" in found["SAM sam3"]["advice"]


KINDS = {"dinov2-with": "dinov2_with_registers", "dinov2": "dinov2", "dinov3": "dinov3_vit"}
_SCRIPT = """
import json, sys
from usam_core.config.project import load_project
from usam_core.errors import UsamError
from usam_core.steps import STEPS, run_step

project = load_project(sys.argv[1])
for step in STEPS:
    done = run_step(step, project)
    print(json.dumps([step, done.reused]))
"""


def tiny_models(folder, word):
    """Tiny models in the place of a recipe's, by their hub ids."""
    models = {}
    for part in RECIPES[word].parts:
        place = folder / part.model.replace("/", "--")
        if part.model in HUB_SAMS:
            models[hub_id(part)] = save_sam(place, "sam2")
        elif part.megabytes:
            kinds = (KINDS[key] for key in KINDS if key in part.model)
            models[part.model] = save_model(place, next(kinds, "tipsv2"))
    return models


def tiny_project(folder, word, **sections):
    """A project that says the recipe's word, and nothing of what is the recipe's."""
    folder.mkdir()
    file = write_tiny_project(folder)
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**values, "recipe": word, **sections}))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("word", OURS)
def test_a_recipe_runs_end_to_end_from_a_hub_and_offline_from_folders(tmp_path, word):
    models = tiny_models(tmp_path / "models", word)
    file = tiny_project(tmp_path / "hub", word)
    with hub_of(models) as (address, asked):
        steps = answers(tmp_path / "cache", address, _SCRIPT, str(file))
        assert {step for step, _ in steps} == set(STEPS)
        assert ["annotate", False] in steps
        assert all(any(path.startswith(f"/{name}/") for path in asked) for name in models)
    # The hub is gone: nothing is done again.
    again = answers(tmp_path / "cache", "http://127.0.0.1:9", _SCRIPT, str(file))
    assert all(reused for _, reused in again)
    # The same from folders, with nothing downloaded before.
    config = load_project(file).config
    sections = {
        "features": {
            name: {"model": str(models[block.model])} for name, block in config.features.items()
        },
    }
    if config.sam.model != "nano":
        folder = models[HUB_SAMS[config.sam.model].hub_id]
        sections["sam"] = {"checkpoint": str(folder), "points_per_side": 4}
    offline = tiny_project(tmp_path / "offline", word, **sections)
    steps = answers(tmp_path / "empty", "http://127.0.0.1:9", _SCRIPT, str(offline))
    assert ["annotate", False] in steps
