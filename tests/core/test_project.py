"""`project.yaml`: every mistake with line, key, value and expectation; the template; the schema."""

import json

import pytest
import yaml

from usam_core.config import ProjectConfig
from usam_core.errors import ConfigError, InputError
from usam_core.project import load_project
from usam_core.project_template import SCHEMA_FILE, write_template

GOOD = """\
classes: [dog, cat]
images:
  path: images
training:
  source: render
"""


@pytest.fixture
def project_file(tmp_path):
    (tmp_path / "images").mkdir()
    file = tmp_path / "project.yaml"
    file.write_text(GOOD)
    return file


def complaint(file, text):
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    return str(caught.value)


def test_a_good_file_is_read_and_its_paths_count_from_it(project_file):
    project = load_project(project_file)
    assert project.config.label_names == ["dog", "cat"]
    assert project.images_path == project_file.parent / "images"
    assert project.store_root == project_file.parent / "out" / "store"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "head:\n  step: 3\n", "project.yaml:7: head.step: unknown key; .*'steps'"),
        (GOOD + "hed: {}\n", "project.yaml:6: hed: unknown key; .*did you mean 'head'"),
        (GOOD + "head:\n  steps: 3x\n", "project.yaml:7: head.steps: got '3x'; expected a numb"),
        (GOOD + "head:\n  steps: true\n", "project.yaml:7: head.steps: got True; expected a nu"),
        (GOOD + "head: {steps: 0}\n", "head.steps: got 0; expected greater than or equal to 1"),
        (GOOD + "level: both\n", "6: level: got 'both'; expected 'classes' or 'parents'"),
        (GOOD + "seed: 1\nseed: 2\n", r"7: seed: given twice \(first on line 6\)"),
        (GOOD.replace("[dog, cat]", "[dog, Dog]"), "'Dog' names both 'dog' and 'Dog'"),
        (GOOD.replace("[dog, cat]", "[dog, dog]"), "'dog' is listed twice"),
        (GOOD.replace("[dog, cat]", "[]"), "1: classes: got .*at least 1 item"),
        (GOOD.replace("[dog, cat]", "[a/b]"), r"classes\[0\]: got 'a/b'; expected text of"),
        (
            GOOD.replace("path: images", "path: nowhere"),
            "3: images.path: got 'nowhere'; expected a",
        ),
        (GOOD.replace("images:\n  path: images\n", ""), "images: missing; expected"),
        (GOOD.replace("render", "folder"), "training.path: missing; expected the folder"),
        (GOOD + "sam: {checkpoint: a.pth}\n", "6: sam.checkpoint: got 'a.pth'; expected a file"),
        (GOOD + "evaluation: {format: coco, path: images}\n", "evaluation.path: .*expected a file"),
        (GOOD + "level: parents\n", "level is 'parents' but .'dog', 'cat'. have no parent"),
        (GOOD + "inference: {class_thresholds: {cow: 0.5}}\n", "class_thresholds: .'cow'. are no"),
        (GOOD + "images: [\n", r"project.yaml:\d+: not valid YAML"),
        ("just words", "expected a mapping"),
    ],
)
def test_a_mistake_names_line_key_value_and_expectation(project_file, text, message):
    import re

    found = complaint(project_file, text)
    assert re.search(message, found), found


def test_all_mistakes_are_told_at_once(project_file):
    found = complaint(project_file, GOOD + "seed: x\nhead: {steps: 0, lr: 1}\n")
    assert len(found.splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read"):
        load_project(tmp_path / "none.yaml")


def test_the_template_is_a_valid_project_with_the_defaults(tmp_path):
    for name in ("photos", "examples"):
        (tmp_path / name).mkdir()
    names = ["dog", "yes", "a: b", "3"]
    file = write_template(
        tmp_path / "new", names, tmp_path / "photos", training=tmp_path / "examples"
    )
    project = load_project(file)
    assert [c.name for c in project.config.classes] == names
    plain = ProjectConfig.model_validate(
        {"classes": names, "images": {"path": "x"}, "training": {"path": "y"}}
    )
    for part in ("sam", "head", "inference", "outputs"):
        assert getattr(project.config, part) == getattr(plain, part)


def test_every_commented_line_of_the_template_can_be_switched_on(tmp_path):
    (tmp_path / "photos").mkdir()
    file = write_template(tmp_path, ["dog"], tmp_path / "photos", training=tmp_path / "photos")
    text = file.read_text()
    for part, model in (("head", "steps"), ("inference", "threshold"), ("outputs", "overlays")):
        assert f"# {part}:" in text
        text = text.replace(f"# {part}:", f"{part}:")
        text = text.replace(f"\n  # {model}: ", f"\n  {model}: ")
    assert (
        yaml.safe_load(text)["head"]["steps"]
        == ProjectConfig.model_validate(yaml.safe_load(text)).head.steps
    )


def test_the_template_is_not_written_over_a_project(tmp_path):
    write_template(tmp_path, ["dog"], tmp_path)
    with pytest.raises(InputError, match="exists already"):
        write_template(tmp_path, ["cat"], tmp_path)
    write_template(tmp_path, ["cat"], tmp_path, force=True)
    assert "cat" in (tmp_path / "project.yaml").read_text()


def test_the_schema_knows_every_key_and_refuses_others(tmp_path):
    write_template(tmp_path, ["dog"], tmp_path)
    schema = json.loads((tmp_path / SCHEMA_FILE).read_text())
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(ProjectConfig.model_fields)
    assert "papers' mode" in schema["$defs"]["HeadConfig"]["properties"]["features"]["description"]
