"""What the forms of the flows take, and what they refuse before any work."""

import pytest
from pydantic import ValidationError

from flows.parameters import SETTINGS, AnnotateDatasetSettings
from usam_core.errors import ConfigError, InputError

MODELS = [AnnotateDatasetSettings, *SETTINGS.values()]


@pytest.mark.parametrize("model", MODELS)
def test_a_project_that_is_not_there_is_named_with_the_machine(model, tmp_path):
    with pytest.raises(InputError, match=r"gone/project\.yaml: no such file on .+ absolute"):
        model(project_file=str(tmp_path / "gone" / "project.yaml"))


@pytest.mark.parametrize("model", MODELS)
def test_a_mistake_in_the_project_is_told_as_the_command_line_tells_it(model, tiny_project):
    tiny_project.write_text(tiny_project.read_text().replace("per_class: 3", "per_class: -3"))
    with pytest.raises(ConfigError, match=r"project\.yaml:\d+: training\.render\.per_class"):
        model(project_file=str(tiny_project))


@pytest.mark.parametrize("model", MODELS)
def test_every_field_has_a_title_and_a_description(model):
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        assert field["title"] != name.replace("_", " ")
        assert len(field["description"]) > 20, name
        assert "anyOf" not in field, f"{name}: the page shows alternatives badly"
    assert schema["required"] == ["project_file"]


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (AnnotateDatasetSettings, {"start": "train"}),
        (SETTINGS["fit"], {"level": ""}),
        (SETTINGS["fit"], {"refersh": True}),
        (SETTINGS["report"], {"pictures": 13}),
        (SETTINGS["embed"], {"project_file": ""}),
    ],
)
def test_a_wrong_choice_is_refused(model, wrong, tiny_project):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        model(**{"project_file": str(tiny_project)} | wrong)


def test_only_classes_of_the_project_can_be_collected(tiny_project):
    assert SETTINGS["collect"](project_file=str(tiny_project), only=["rod"]).only == ["rod"]
    with pytest.raises(ConfigError, match=r"no class 'cat' .*; expected some of disc, ring, rod"):
        SETTINGS["collect"](project_file=str(tiny_project), only=["rod", "cat"])


def test_the_level_of_the_file_is_no_change(tiny_project):
    file = str(tiny_project)
    assert AnnotateDatasetSettings(project_file=file).changes == {}
    assert SETTINGS["fit"](project_file=file).changes == {}
    parents = SETTINGS["fit"](project_file=file, level="parents")
    assert parents.changes == {"level": "parents"}
    assert parents.load().config.level == "parents"
    one = SETTINGS["fit"](project_file=file, level="round")
    assert one.load().config.label_names == ["round", "rod"]
    with pytest.raises(ConfigError, match=r"got 'sideways'; .* of a parent: 'round', 'long'"):
        SETTINGS["fit"](project_file=file, level="sideways")
