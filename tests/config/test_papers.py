"""`recipe: papers`: every value of the papers' mode, and nothing that changes one silently."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from usam_core.bench.plan import Choices, _settings
from usam_core.cli.app import app
from usam_core.config.model import HeadConfig, InferenceConfig
from usam_core.config.project import load_project
from usam_core.config.schema import PAPERS, ProjectConfig
from usam_core.demo import prepare_demo
from usam_core.errors import ConfigError

BASE = {"classes": ["dog", "cat"], "images": {"path": "images"}, "training": {"source": "render"}}
# Typed again from the papers and docs/method.md: a change of the recipe has to be made twice.
HEAD = {
    "features": ["tokens"],
    "mask_choice": "single",
    "hidden": (512, 256, 128),
    "dropout": 0.9,
    "standardize": False,
    "top_k_share": 20,
    "entropy_threshold": 0.5,
    "distil": True,
    "lambda_mil": 1,
    "lambda_uncertainty": 0.15,
    "uncertainty_reduction": "sum",
    "steps": 150,
    "batch_size": 64,
    "learning_rate": 0.001,
    "composed": "off",
    "background": False,
    "familiar": 0,
    "reviewed": False,
    "class_balance": False,
    "text": "off",
}
INFERENCE = {
    "threshold": 0.3,
    "class_thresholds": {},
    "thresholds": "fixed",
    "presence": 0,
    "mask_choice": "single",
    "min_predicted_iou": 0,
    "min_stability": 0,
    "min_area": 0,
    "max_area": 1,
    "min_part": 0,
    "edges": "grid",
    "nms_iou": 0.5,
    "score": "confidence",
    "paint": "score",
}
FREE = {
    HeadConfig: {
        # Without the options above these have no effect; memory changes no result.
        *("lambda_masks", "lambda_background"),
        *("text_block", "text_weight", "text_prompts", "cache_mb"),
    },
    InferenceConfig: {"head"},  # teacher and student are both the papers'
}


def write(folder: Path, **more) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    file = folder / "project.yaml"
    file.write_text(yaml.safe_dump({**BASE, "recipe": "papers", **more}))
    return file


def test_every_value_of_the_papers_mode(tmp_path):
    config = load_project(write(tmp_path)).config
    for section, values in ((config.head, HEAD), (config.inference, INFERENCE)):
        assert {key: getattr(section, key) for key in values} == values
    assert (config.compose.scenes, config.compose.held_out_scenes) == (0, 0)
    assert set(config.training.filters.model_dump().values()) == {None}
    synthetic = config.training.synthetic
    assert (synthetic.per_class, synthetic.prompts) == (200, ["a photo of a {c}"])
    assert config.sam.points_per_side == 10
    assert config.negatives == []
    assert config.features == {}


def test_a_setting_that_is_new_must_be_settled_for_the_papers_too():
    for section, values in ((HeadConfig, HEAD), (InferenceConfig, INFERENCE)):
        assert set(section.model_fields) == {*values, *FREE[section]}
    assert PAPERS["head"] == HEAD
    assert PAPERS["inference"] == INFERENCE


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"head": {"dropout": 0.5}}, "head.dropout: got 0.5, but recipe: papers has 0.9"),
        ({"head": {"features": ["encoder"]}}, "head.features: got"),
        ({"inference": {"paint": "vote"}}, "inference.paint: got 'vote'"),
        ({"inference": {"class_thresholds": {"dog": 0.5}}}, "inference.class_thresholds: got"),
        ({"compose": {"held_out_scenes": 60}}, "compose.held_out_scenes: got 60"),
        ({"training": {"source": "render", "filters": {"min_side": 64}}}, "filters.min_side: got"),
        ({"training": {"synthetic": {"per_class": 7}}}, "training.synthetic.per_class: got 7"),
        ({"training": {"synthetic": {"prompts": ["{c}"]}}}, "synthetic.prompts: got ['{c}']"),
        ({"negatives": ["grass"]}, "negatives: got"),
        ({"sam": {"points_per_side": 4}}, "sam.points_per_side: got 4"),
    ],
)
def test_what_contradicts_the_recipe_is_refused_with_its_line(tmp_path, more, place):
    with pytest.raises(ConfigError) as told:
        load_project(write(tmp_path, **more))
    assert place in str(told.value)
    assert "recipe: papers" in str(told.value)
    assert "project.yaml:" in str(told.value)


@pytest.mark.parametrize(
    "more",
    [
        {"head": {"dropout": 0.9, "cache_mb": 64}},
        {"head": None},
        {"inference": {"head": "teacher"}, "seed": 3},
        {"sam": {"device": "cpu"}},
        {"training": {"source": "synthetic", "synthetic": {"redraws": 5}}},
        {"images": {"path": "images", "tile": 512}},
    ],
)
def test_what_agrees_or_is_left_open_may_stand(tmp_path, more):
    config = load_project(write(tmp_path, **more)).config
    assert ProjectConfig.model_validate(config.model_dump(mode="json")) == config


def test_an_unknown_recipe_is_refused_and_none_changes_nothing(tmp_path):
    with pytest.raises(ConfigError, match="recipe: got 'fastest'; expected 'laptop'"):
        load_project(write(tmp_path, recipe="fastest"))
    assert load_project(write(tmp_path, recipe=None)).config.head == HeadConfig()


def test_demo_bench_and_init_say_the_one_word(tmp_path):
    demo = load_project(prepare_demo(tmp_path / "demo", scenes=2, pictures=2).papers)
    choices = Choices("voc21", tmp_path, tmp_path, papers=True)
    assert demo.config.recipe == _settings(choices)["recipe"] == "papers"
    (tmp_path / "images").mkdir()
    words = ["init", str(tmp_path / "new"), "--classes", "dog", "--papers"]
    done = CliRunner().invoke(app, [*words, "--images", str(tmp_path / "images")])
    assert done.exit_code == 0, done.output
    values = yaml.safe_load((tmp_path / "new" / "project.yaml").read_text())
    assert values["recipe"] == "papers"
    assert ProjectConfig.model_validate(values).head.features == ["tokens"]
