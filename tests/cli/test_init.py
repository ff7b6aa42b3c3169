"""`usam init`: asks on a terminal, writes a short project, and says a command that will work."""

import json
import shutil
import sys

import pexpect
import pytest
import yaml
from PIL import Image

from tests.usam_process import usam
from usam_core.cli import start
from usam_core.cli.start import next_command
from usam_core.config import preset_names
from usam_core.config.project import load_project
from usam_core.config.template import write_template


@pytest.fixture
def lab(tmp_path):
    """A folder with three images, and pictures of two classes."""
    (tmp_path / "plates").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / "plates" / f"{number}.png")
    for name in ("nucleus", "debris"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "plates" / "0.png", tmp_path / "mine" / name)
    return tmp_path


def talk(folder, *words):
    """Start `usam init` on a terminal."""
    words = ["-m", "flows", "init", *words]
    return pexpect.spawn(
        sys.executable, words, cwd=folder, encoding="utf-8", timeout=60, dimensions=(40, 120)
    )


@pytest.mark.slow
def test_started_without_options_on_a_terminal_it_asks(lab):
    child = talk(lab)
    for question, answer in (
        ("Folder of the new project", "lab"),
        (r"Class names, .* \[folders\]", "\n"),
        ("Images to be labelled", "nowhere"),
        ("nowhere: expected a folder", ""),
        ("Images to be labelled", "plates"),
        ("3 images", ""),
        ("Training pictures", "mine"),
        (r"Class names, with commas between them \[debris, nucleus\]", "\n"),
        ("cores here", ""),
        (r"Which SAM or recipe \[", "nano"),
    ):
        child.expect(question)
        if answer:
            child.sendline(answer.strip())
    child.expect("next: usam run lab")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    project = load_project(lab / "lab" / "project.yaml")
    assert [spec.name for spec in project.config.classes] == ["debris", "nucleus"]
    assert project.images_path.resolve() == lab / "plates"
    assert project.training_path.resolve() == lab / "mine"


@pytest.mark.slow
def test_ctrl_c_at_a_question_writes_nothing(lab):
    child = talk(lab, "lab")
    child.expect("Class names")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert not (lab / "lab").exists()


def test_without_a_terminal_nobody_is_asked(lab):
    done = usam("init", cwd=lab)
    assert done.returncode == 2
    assert "--images: missing" in done.stderr


@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_what_is_written_has_at_most_30_lines_and_a_title(lab, preset):
    classes = [] if preset else [f"kind {number}" for number in range(300)]
    named = {"preset": preset, "names": "cleaned"} if preset else None
    file = write_template(
        lab / "my plates",
        classes,
        lab / "plates",
        source="web",
        contact="me@lab.example",
        preset=named,
        recipe="papers",
    )
    assert len(file.read_text().splitlines()) <= 30
    assert yaml.safe_load(file.read_text())["name"] == "my plates"


def test_what_lies_beside_the_project_is_found_where_both_are_moved(lab, tmp_path_factory):
    far = tmp_path_factory.mktemp("far")
    file = write_template(lab / "new", ["nucleus"], lab / "plates", training=lab / "mine")
    assert yaml.safe_load(file.read_text())["images"]["path"] == "../plates"
    assert load_project(lab.rename(far / "lab") / "new" / "project.yaml").images.root
    inside = write_template(far / "p", ["dog"], far / "lab" / "plates", source="synthetic")
    assert load_project(inside).images_path.samefile(far / "lab" / "plates")


def test_what_lies_elsewhere_or_is_reached_by_a_link_is_named_absolutely(lab, tmp_path_factory):
    far = tmp_path_factory.mktemp("far")
    (lab / "link").symlink_to(far)
    for folder in (far / "new", lab / "link" / "other"):
        file = write_template(folder, ["nucleus"], lab / "plates", source="synthetic")
        assert yaml.safe_load(file.read_text())["images"]["path"] == str(lab / "plates")


def test_one_recipe_at_a_time(lab):
    words = ("init", "new", "--images", "plates", "--classes", "dog", "--papers", "--recipe")
    done = usam(*words, "fast", cwd=lab)
    assert done.returncode == 2
    assert "--papers: got --recipe fast too" in done.stderr
    assert usam(*words, "papers", cwd=lab).returncode == 0


def test_a_sam_that_was_named_is_written_beside_a_recipe(lab):
    for sam, written in ((None, None), ("nano", {"model": "nano"})):
        file = write_template(
            lab / "new", ["dog"], lab / "plates", recipe="fast", sam=sam, force=True
        )
        assert yaml.safe_load(file.read_text()).get("sam") == written


def test_the_title_is_the_folders_name_where_the_file_has_none(tiny_project):
    values = yaml.safe_load(tiny_project.read_text())
    del values["name"]
    tiny_project.write_text(yaml.safe_dump(values))
    assert load_project(tiny_project).config.name == tiny_project.parent.name


def test_the_schema_explains_settings_to_editors(lab):
    write_template(lab / "new", ["dog"], lab / "plates")
    first = (lab / "new" / "project.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=project.schema.json"
    schema = json.loads((lab / "new" / "project.schema.json").read_text())
    described = schema["$defs"]["HeadConfig"]["properties"]["steps"]["description"]
    assert described


def test_the_next_command_is_the_run_where_that_works(lab, monkeypatch):
    monkeypatch.chdir(lab)
    write_template(lab / "new", ["nucleus"], lab / "plates", training=lab / "mine")
    assert next_command(lab / "new") == ([], f"usam run {lab / 'new'}")
    write_template(lab / "two words", ["nucleus"], lab / "plates", training=lab / "mine")
    assert next_command(lab / "two words")[1] == f"usam run '{lab / 'two words'}'"


def test_what_is_missing_is_said_before_the_next_command(lab, monkeypatch):
    """No pictures yet, a class without a folder, no images, an extra that is not installed."""
    write_template(lab / "a", ["nucleus", "debris"], lab / "plates")
    todo, _ = next_command(lab / "a")
    assert sorted(one.name for one in (lab / "a" / "training").iterdir()) == ["debris", "nucleus"]
    assert todo == [
        f"put some tens of pictures, one object in each, into {lab / 'a' / 'training'}/NAME, for "
        "NAME in: nucleus, debris"
    ]
    write_template(lab / "b", ["nucleus", "cell"], lab / "plates", training=lab / "mine")
    assert [str(lab / "mine" / "cell") in text for text in next_command(lab / "b")[0]] == [True]
    assert not (lab / "mine" / "cell").exists()  # a person's folder is left alone
    (lab / "none").mkdir()
    write_template(lab / "c", ["nucleus"], lab / "none", training=lab / "mine")
    assert "there are none yet" in next_command(lab / "c")[0][0]
    monkeypatch.setattr("usam_core.config.project.needed_extras", lambda _: [("web", "source")])
    monkeypatch.setattr(start, "complaint", lambda extra, by: f"{by} needs {extra}")
    write_template(lab / "d", ["nucleus"], lab / "plates", training=lab / "mine")
    assert next_command(lab / "d")[0] == ["source needs web"]


def test_a_folder_stands_for_the_project_in_it(lab):
    done = usam("init", "new", "--classes", "nucleus", "--images", "plates", cwd=lab)
    assert done.returncode == 0, done.stderr
    assert "then: usam run new" in done.stdout
    done = usam("collect", "new", cwd=lab)  # as a command that reads the project
    assert "too few training pictures for nucleus (0)" in done.stderr
    done = usam("fit", "plates", cwd=lab)
    assert done.returncode == 2
    assert "plates: no project.yaml in this folder" in done.stderr
    assert "`usam init plates`" in done.stderr


def test_the_version_and_examples_that_can_be_copied():
    assert usam("--version").stdout.startswith("usam 0.")
    lines = usam("run", "--help").stdout.splitlines()
    examples = lines[lines.index("Examples:") + 1 :]
    assert [line for line in examples if line] == [
        "  usam run my-project",
        "  usam run my-project --level parents",
        "  usam run my-project --level animals",
        "  usam run my-project --papers",
        "  usam run my-project --from fit --refresh",
    ]
