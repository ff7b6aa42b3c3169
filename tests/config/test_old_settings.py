"""Settings of other days: old spellings hold, removed ones are told from mistakes."""

import logging

import pytest
import yaml

from usam_core.config.project import load_project
from usam_core.config.schema import ProjectConfig
from usam_core.errors import ConfigError

BASE = {"classes": ["dog", "cat"], "images": {"path": "images"}, "training": {"source": "render"}}


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a project of some settings."""
    (tmp_path / "images").mkdir()

    def load(**more):
        file = tmp_path / "project.yaml"
        file.write_text(yaml.safe_dump({**BASE, **more}, sort_keys=False))
        return load_project(file).config

    return load


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"classes": [{"name": "dog", "colour": "#ff0000"}]}, ("color", "#ff0000")),
        ({"head": {"standardise": False}}, ("standardize", False)),
        ({"compose": {"min_centre": 0.25}}, ("min_center", 0.25)),
    ],
)
def test_an_old_spelling_holds_and_the_log_says_the_new_one(load, caplog, old, new):
    name, value = new
    caplog.set_level(logging.WARNING)
    config = load(**old)
    (section,) = old
    found = config.classes[0] if section == "classes" else getattr(config, section)
    assert getattr(found, name) == value
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith(f"this key of project.yaml is spelled {name} now")


def test_both_spellings_at_once_are_a_mistake(load):
    with pytest.raises(ConfigError, match=r"head\.standardise: unknown key"):
        load(head={"standardise": False, "standardize": True})


REMOVED = [
    ({"head": {"bank": "mean"}}, "head.bank: got 'mean'; this setting was removed"),
    ({"head": {"fusion": "concat"}}, "head.fusion: got 'concat'; this setting was removed"),
    ({"head": {"fusion": "concat_equal"}}, "head.fusion: got 'concat_equal'; this setting was"),
    ({"inference": {"nms_containment": 0.9}}, "inference.nms_containment: got 0.9; this setting"),
    ({"head": {"mask_choice": "largest"}}, "head.mask_choice: got 'largest'; this value was"),
    ({"inference": {"mask_choice": "largest"}}, "mask_choice: got 'largest'; this value was"),
    ({"inference": {"mask_choice": "most_confident"}}, "got 'most_confident'; this value was"),
    ({"inference": {"paint": "smallest"}}, "inference.paint: got 'smallest'; this value was"),
]


@pytest.mark.parametrize(("more", "message"), REMOVED)
def test_a_removed_setting_is_one_sentence_with_its_line(load, more, message):
    with pytest.raises(ConfigError) as told:
        load(**more)
    (line,) = str(told.value).splitlines()
    assert message in line
    assert line.startswith("project.yaml:9: ")
    assert line.endswith("measured worthless (docs/decisions/0019-what-went.md); delete the line")


def test_every_mistake_is_still_told_at_once(load):
    with pytest.raises(ConfigError) as told:
        load(head={"bank": "mean", "stepps": 3}, inference={"nms_containment": 0.5})
    assert len(str(told.value).splitlines()) == 3


@pytest.mark.parametrize("recipe", [None, "papers"])
def test_a_removed_setting_that_changes_nothing_is_passed_over_with_a_note(load, caplog, recipe):
    """Projects of before, and what `usam init` wrote into them, go on."""
    caplog.set_level(logging.WARNING)
    head = {"bank": "off", "bank_weight": 0.3, "bank_neighbours": 7, "fusion": "late"}
    config = load(recipe=recipe, head=head, inference={"nms_containment": 1})
    assert config == load(recipe=recipe)
    assert len(caplog.records) == len(head) + 1
    assert ProjectConfig.model_validate(config.model_dump(mode="json")) == config


def test_elsewhere_such_a_key_is_unknown_as_any_other(load):
    with pytest.raises(ConfigError, match=r"inference\.bank: unknown key"):
        load(inference={"bank": "off"})
