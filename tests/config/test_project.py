"""`project.yaml`: every mistake with line, key, value and expectation; the template; the schema."""

import json
import os
import re

import pytest
import yaml

from usam_core.config.project import load_project
from usam_core.config.schema import (
    ClassSpec,
    HeadConfig,
    ImagesConfig,
    InferenceConfig,
    OutputsConfig,
    ProjectConfig,
    SamConfig,
)
from usam_core.config.template import SCHEMA_FILE, write_template
from usam_core.config.training import TrainingConfig
from usam_core.errors import ConfigError, InputError

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
        (GOOD + "level: both\n", "6: level: got 'both'; expected 'classes', 'parents' or .*no"),
        (
            GOOD.replace("dog, cat", "{name: dog, parent: pet}, cat") + "level: pets\n",
            "6: level: got 'pets'; expected 'classes', 'parents' or the name of a parent: 'pet'$",
        ),
        (GOOD.replace("dog, cat", "{name: dog, parent: parents}"), "parent: got 'parents'; exp"),
        (GOOD.replace("dog, cat", "{name: dog, parent: ..}"), r"parent: got '\.\.'; .* folder's"),
        (
            GOOD.replace("dog, cat", "{name: dog, parent: a/b}"),
            "parent: got 'a/b'; expected a name without slashes",
        ),
        (GOOD + "seed: 1\nseed: 2\n", r"7: seed: given twice \(first on line 6\)"),
        (
            GOOD.replace("[dog, cat]", "[dog, Dog]"),
            r"1: classes\[1\]: got 'Dog', which names 'dog' already",
        ),
        (
            GOOD.replace("[dog, cat]", "[dog, dog]"),
            r"1: classes\[1\]: got 'dog', which names 'dog' already",
        ),
        (GOOD.replace("[dog, cat]", "[]"), "1: classes: got .*at least 1 item"),
        (GOOD.replace("[dog, cat]", "[a/b]"), r"classes\[0\]: got 'a/b'; expected a name"),
        (
            GOOD.replace("path: images", "path: nowhere"),
            "3: images.path: got 'nowhere'; expected a",
        ),
        (GOOD.replace("images:\n  path: images\n", ""), "images: missing; expected"),
        (GOOD.replace("render", "folder"), "training.path: missing; expected the folder"),
        (GOOD + "sam: {checkpoint: a.pth}\n", "6: sam.checkpoint: got 'a.pth'; expected a file"),
        (GOOD + "evaluation: {format: coco, path: images}\n", "evaluation.path: .*expected a file"),
        (GOOD + "level: parents\n", r"classes\[0\]: 'dog' has no parent"),
        (
            GOOD + "inference: {class_thresholds: {cow: 0.5}}\n",
            "6: inference.class_thresholds.cow: got 'cow', which is no cl",
        ),
        (GOOD + "images: [\n", r"project.yaml:\d+: not valid YAML"),
        ("just words", "expected a mapping"),
        (GOOD + "name: !foo x\n", r"project.yaml:6: not valid YAML"),
        (GOOD + "name: !!python/object:os.system x\n", r"project.yaml:6: not valid YAML"),
        (GOOD + "name: 2026-13-45\n", "not valid YAML"),
        (GOOD + "? [a, b]\n: c\n", "not valid YAML"),
        (GOOD + "name: " + 2000 * "[" + "\n", "not valid YAML"),
        (GOOD + "head: {learning_rate: .inf}\n", "6: head.learning_rate: got inf"),
        (GOOD + "head: {hidden: [0, 1, 1]}\n", r"head.hidden\[0\]: got 0; expected greater"),
        (GOOD + "head: {features: [bogus]}\n", r"features\[0\]: got 'bogus'; expected some of"),
        (
            GOOD + "head: {features: [tokens, tokens]}\n",
            r"features\[1\]: got 'tokens'; .* each once",
        ),
        (
            GOOD + "features: {encoder: {model: a}}\n",
            "6: features.encoder: got 'encoder', which SAM",
        ),
        (GOOD + "features: {a/b: {model: a}}\n", "6: features.a/b: got 'a/b'; expected a name"),
        (
            GOOD + "features: {a: {model: ./gone}}\n",
            "6: features.a.model: got './gone'; expected a",
        ),
        (
            GOOD + "features:\n  d: facebook/dinov2-small\n",
            "7: features.d: got 'facebook/dinov2-small'; expected a section: "
            r"d: \{model: facebook/dinov2-small\}$",
        ),
        (GOOD + "features: {d: }\n", r"6: features.d: got None; .* d: \{model: facebook/dinov2-b"),
        (GOOD + "features: [d]\n", r"6: features: got \['d'\]; expected a section a block: d: \{"),
        (GOOD + "features: {a: {modle: b}}\n", "features.a.modle: unknown key; .*mean 'model'"),
        (GOOD + "head: {distil: 'off'}\n", "head.distil: got 'off'; expected a valid boolean"),
        (GOOD + "inference: {min_area: 0.9, max_area: 0.1}\n", "6: inference.min_area: got 0.9"),
        (GOOD.replace("path: images", "path: images\n  window: [5, 3]"), "4: images.window: got"),
        (
            GOOD.replace("path: images", "path: images\n  recursive: 1"),
            "4: images.recursive: got 1",
        ),
        (GOOD.replace("[dog, cat]", "[dog, 'dog ']"), r"classes\[1\].*without spaces at its ends"),
        (GOOD.replace("[dog, cat]", "[dog, Background]"), r"classes\[1\].*expected another name"),
        (GOOD.replace("[dog, cat]", "[caf\u00e9, cafe\u0301]"), "names 'caf\u00e9' already"),
        (GOOD + "outputs: {path: images}\n", "6: outputs.path: got 'images', the folder of the im"),
        (GOOD + "outputs: {path: project.yaml}\n", "6: outputs.path: .*is a file"),
        (
            GOOD.replace("render", "web"),
            "4: training.web: missing; expected at least its `contact`",
        ),
    ],
)
def test_a_mistake_names_line_key_value_and_expectation(project_file, text, message):
    found = complaint(project_file, text)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("root:x:0:0:hunter2\nnobody:x:1:1:hunter2\n", "text"),
        ("- hunter2\n- {hunter2: hunter2}\n", "a list"),
        ("4711", "one value"),
        ("# hunter2\n", "nothing"),
    ],
)
def test_a_file_that_is_no_project_is_not_quoted(project_file, text, kind):
    found = complaint(project_file, text)
    assert found.endswith(f"expected a mapping with `classes` and `images`, got {kind}")


def test_of_a_mapping_that_is_no_project_only_keys_are_told(project_file):
    found = complaint(project_file, "password: hunter2\nhosts: [hunter2, {name: hunter2}]\n")
    assert "password: unknown key" in found
    assert "hunter2" not in found


def test_all_mistakes_are_told_at_once(project_file):
    found = complaint(project_file, GOOD + "seed: x\nhead: {steps: 0, lr: 1}\n")
    assert len(found.splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot read"):
        load_project(tmp_path / "none.yaml")


def test_a_number_of_thousands_of_digits_is_a_sentence(tmp_path):
    (tmp_path / "images").mkdir()
    file = tmp_path / "p.yaml"
    file.write_text("classes: [a]\nimages: {path: images}\nseed: 0x" + "f" * 5000)
    with pytest.raises(ConfigError, match="got a number of thousands of digits"):
        load_project(file)


def test_a_line_of_another_file_is_not_quoted_as_a_key(tmp_path):
    file = tmp_path / "shadow"
    file.write_text("root: $6$salt$hash:20228:0:99999:7:::\nwww-data:*:20228:0: 7\n")
    with pytest.raises(ConfigError) as error:
        load_project(file)
    assert "hash" not in str(error.value)
    assert "20228" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes in folders")
def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        load_project(tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        load_project("/dev/zero")


def test_the_template_is_a_valid_project_with_the_defaults(tmp_path):
    for name in ("photos", "examples"):
        (tmp_path / name).mkdir()
    names = ["dog", "yes", "a: b", "3"]
    file = write_template(
        tmp_path / "new", names, tmp_path / "photos", training=tmp_path / "examples", full=True
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
    photos = tmp_path / "photos"
    file = write_template(tmp_path, ["dog"], photos, training=photos, full=True)
    text = file.read_text()
    # The keys of the sections, and of the class; other lines with a colon are sentences.
    sections = (ClassSpec, ImagesConfig, TrainingConfig, SamConfig, HeadConfig, InferenceConfig)
    keys = {key for section in (*sections, OutputsConfig) for key in section.model_fields}
    known = "|".join(sorted(keys))
    switched = re.sub(rf"^(    |  )# ({known}): ", r"\1\2: ", text, flags=re.MULTILINE)
    assert switched.count("\n  # ") < text.count("\n  # ") - 30
    config = ProjectConfig.model_validate(yaml.safe_load(switched))
    plain = {"name": tmp_path.name, "classes": ["dog"], "images": {"path": "photos"}}
    plain["training"] = {"path": "photos"}
    assert config == ProjectConfig.model_validate(plain)
    # The sections inside `training`.
    for part in ("render", "synthetic", "web", "filters"):
        lines = text.split("\n")
        start = lines.index(f"  # {part}:")
        for number in range(start, len(lines)):
            if not lines[number].startswith("  #"):
                break
            if number > start and not lines[number].startswith("  #   "):
                break
            lines[number] = "  " + lines[number][4:]
        values = yaml.safe_load("\n".join(lines).replace("contact: '...'", "contact: me@lab"))
        assert getattr(ProjectConfig.model_validate(values).training, part) is not None


def test_the_template_names_every_setting_there_is(tmp_path):
    (tmp_path / "photos").mkdir()
    photos = tmp_path / "photos"
    file = write_template(tmp_path, ["dog"], photos, training=photos, full=True)
    named = set(re.findall(r"^[ #-]*(\w+):", file.read_text(), flags=re.MULTILINE))

    def keys(schema):
        yield from schema.get("properties", {})
        for part in schema.get("$defs", {}).values():
            yield from part.get("properties", {})

    assert sorted(set(keys(ProjectConfig.model_json_schema())) - named) == []


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


@pytest.mark.parametrize("source", ["synthetic", "web"])
def test_a_template_for_another_source_is_valid_and_has_its_settings_ready(tmp_path, source):
    (tmp_path / "photos").mkdir()
    file = write_template(
        tmp_path / "new",
        ["dog"],
        tmp_path / "photos",
        source=source,
        contact="me@lab.example",
        full=True,
    )
    training = load_project(file).config.training
    assert training.source == source
    switched = file.read_text().replace("    # per_class: ", "    per_class: ")
    file.write_text(switched.replace(f"{'45' if source == 'web' else '200'}\n", "7\n", 1))
    assert getattr(load_project(file).config.training, source).per_class == 7


def test_a_crawl_needs_a_contact(tmp_path):
    with pytest.raises(InputError, match="--contact: missing"):
        write_template(tmp_path / "new", ["dog"], tmp_path, source="web")


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"inference": {"presence": 0.5}, "compose": {"held_out_scenes": 0}}, "inference.presence"),
        (
            {"inference": {"thresholds": "calibrated"}, "compose": {"held_out_scenes": 0}},
            "inference.thresholds",
        ),
        ({"compose": {"backgrounds": ["negative"]}}, "compose.backgrounds"),
        (
            {"features": {"d": {"model": "a/b", "pooling": "crop", "crop_below": 0.2}}},
            "features.d.crop_below",
        ),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(tiny_project, extra, key):
    values = yaml.safe_load(tiny_project.read_text())
    for section, settings in extra.items():
        values[section] = {**values.get(section, {}), **settings}
    tiny_project.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_project(tiny_project)


NAMED = """\
classes: [{name: Dog, parent: Animals}, {name: café, parent: Animals}]
images: {path: images}
training: {source: render}
"""


@pytest.mark.parametrize("level", ["Animals", "animals", " ANIMALS "])
def test_a_level_is_the_parent_of_that_name_however_it_is_written(project_file, level):
    project_file.write_text(NAMED + f"level: {level!r}\n")
    config = load_project(project_file).config
    assert config.level == "Animals"
    assert config.label_names == ["Animals"]


@pytest.mark.parametrize(
    ("written", "name"), [("Dog", "Dog"), ("dog ", "Dog"), ("CAFE\u0301", "café")]
)
def test_a_threshold_is_that_of_the_class_however_it_is_written(project_file, written, name):
    project_file.write_text(NAMED + f"inference: {{class_thresholds: {{{written!r}: 0.5}}}}\n")
    assert load_project(project_file).config.inference.class_thresholds == {name: 0.5}


def test_a_label_has_its_threshold_beside_a_class_of_the_same_name(project_file):
    named = NAMED.replace("Animals", "dog") + "level: dog\n"
    project_file.write_text(named + "inference: {class_thresholds: {dog: 0.5, DOG: 0.5}}\n")
    config = load_project(project_file).config
    assert config.label_names == ["dog"]
    assert config.inference.class_thresholds == {"dog": 0.5}


def test_two_thresholds_of_one_name_are_refused(project_file):
    text = NAMED + "inference: {class_thresholds: {Dog: 0.5, dog: 0.6}}\n"
    said = complaint(project_file, text)
    assert "4: inference.class_thresholds.dog: got 'dog', which names 'Dog' already" in said
