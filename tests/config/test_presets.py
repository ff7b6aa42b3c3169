"""Presets of class names: what they hold, how projects name them, and what mistakes say."""

import json

import pytest
import yaml

from tests.usam_process import usam
from usam_core.config import NAMES, preset_classes, preset_names
from usam_core.config.project import load_project
from usam_core.config.schema import ProjectConfig
from usam_core.config.template import SCHEMA_FILE, write_template
from usam_core.errors import ConfigError, InputError
from usam_core.files.text import normalize_name

PAPERS_SUPERCLASSES = {
    "animals": {"bird", "cat", "cow", "dog", "horse", "sheep"},
    "furniture": {"chair", "diningtable", "sofa"},
    "household items": {"bottle", "pottedplant", "tvmonitor"},
    "person": {"person"},
    "transportation": {"aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"},
}


def config(classes, **more):
    return ProjectConfig.model_validate({"classes": classes, "images": {"path": "x"}, **more})


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("names", NAMES)
def test_every_preset_is_a_valid_list_of_classes(preset, names):
    specs = config({"preset": preset, "names": names}).classes
    assert len(specs) == {"voc-20": 20, "voc-superclasses": 5, "coco-80": 80}[preset]
    assert [spec.name for spec in specs] == [e["name"] for e in preset_classes(preset, names)]


@pytest.mark.parametrize("preset", ["voc-20", "coco-80"])
def test_raw_names_stand_alone_and_cleaned_ones_know_them(preset):
    raw = config({"preset": preset, "names": "raw"}).classes
    cleaned = config(preset).classes
    assert not any(spec.synonyms or spec.prompts or spec.queries for spec in raw)
    for old, new in zip(raw, cleaned, strict=True):
        assert normalize_name(old.name) in {
            normalize_name(word) for word in (new.name, *new.synonyms)
        }
        assert old.parent == new.parent
    assert any(old.name != new.name for old, new in zip(raw, cleaned, strict=True))


def test_voc_has_the_papers_superclasses_both_ways():
    raw = config({"preset": "voc-20", "names": "raw"}, level="parents")
    members = {label: set() for label in raw.label_names}
    for name, label in raw.label_of.items():
        members[label].add(name)
    assert members == PAPERS_SUPERCLASSES
    for names in NAMES:
        for spec in config({"preset": "voc-superclasses", "names": names}).classes:
            known = {spec.name, *spec.synonyms}
            assert known >= PAPERS_SUPERCLASSES[spec.name]


def test_a_preset_is_not_changed_by_who_uses_it():
    preset_classes("voc-20")[0]["name"] = "changed"
    assert preset_classes("voc-20")[0]["name"] == "airplane"


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            "voc-21",
            "1: classes: got 'voc-21'; expected a list of names, or one of the presets",
        ),
        ("voc-21", "did you mean 'voc-20'"),
        ("{preset: coco}", "1: classes.preset: got 'coco'; expected"),
        ("{preset: voc-20, names: nice}", "1: classes.names: got 'nice'; expected cleaned or raw"),
        ("{preset: voc-20, name: raw}", "1: classes.name: unknown key; expected"),
        ("{names: raw}", "1: classes.preset: got None; expected"),
        ("{preset: [voc-20]}", r"1: classes.preset: got \['voc-20'\]; expected"),
    ],
)
def test_a_mistake_in_a_preset_is_placed(tmp_path, classes, said):
    file = tmp_path / "project.yaml"
    file.write_text(f"classes: {classes}\nimages: {{path: .}}\ntraining: {{source: render}}\n")
    with pytest.raises(ConfigError, match=f"project.yaml:{said}" if said[0] == "1" else said):
        load_project(file)


def test_a_template_may_name_a_preset(tmp_path):
    preset = {"preset": "coco-80", "names": "raw"}
    file = write_template(tmp_path / "new", [], tmp_path, training=tmp_path, preset=preset)
    assert yaml.safe_load(file.read_text())["classes"] == preset
    assert len(load_project(file).config.classes) == 80
    schema = json.loads((tmp_path / "new" / SCHEMA_FILE).read_text())
    assert {"enum": preset_names()} in schema["properties"]["classes"]["anyOf"]


@pytest.mark.parametrize(
    ("classes", "preset", "said"),
    [
        ([], None, "got no name; .*voc-20"),
        (["a"], {"preset": "voc-20"}, "got a preset too"),
        ([], {"preset": "voc"}, "--preset: .*got 'voc'"),
    ],
)
def test_a_template_wants_names_or_a_preset(tmp_path, classes, preset, said):
    with pytest.raises(InputError, match=said):
        write_template(tmp_path / "new", classes, tmp_path, preset=preset)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_command_line_lists_presets_and_writes_them(tmp_path):
    assert "voc-superclasses" in usam("init", "--help").stdout.replace("\n", "")
    assert set(json.loads(usam("presets", "--json").stdout)) == set(preset_names())
    shown = json.loads(usam("presets", "voc-20", "--json").stdout)
    assert [entry["name"] for entry in shown["raw"]][10] == "diningtable"
    done = usam(
        "init", "new", "--preset", "voc-20", "--names", "raw", "--images", ".", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "new" / "project.yaml").read_text())
    assert written["classes"] == {"preset": "voc-20", "names": "raw"}
    assert usam("presets", "voc").returncode == 2
