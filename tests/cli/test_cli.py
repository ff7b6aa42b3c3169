"""The `usam` command in its own process: exit codes, JSON, quiet output, help."""

import json
import subprocess
import sys

import pytest

from tests.usam_process import usam

COMMANDS = [
    "init",
    "collect",
    "embed",
    "calibrate",
    "compose",
    "describe",
    "fit",
    "annotate",
    "evaluate",
    "export",
    "report",
    "diff",
    "lineage",
    "check",
    "doctor",
    "presets",
    "bench",
    "run",
    "demo",
]


def test_help_lists_every_command_and_each_has_an_example():
    listed = usam("--help")
    assert listed.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in listed.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command):
    found = usam(command, "--help")
    assert found.returncode == 0
    assert "Example" in found.stdout
    assert f"usam {command}" in found.stdout


def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(tmp_path):
    words = [sys.executable, "-m", "flows", "fit", str(tmp_path / "none.yaml")]
    found = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("usam: ")
    assert "none.yaml: cannot read" in found.stderr
    assert "Traceback" not in found.stderr


def test_an_unknown_option_is_exit_code_2(tmp_path):
    found = usam("fit", "--nonsense")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


def test_run_as_the_papers_do_refuses_what_the_file_says_otherwise(tiny_project):
    found = usam("run", tiny_project, "--papers")
    assert found.returncode == 2
    assert "sam.points_per_side: got 4, but recipe: papers has 10; take this" in found.stderr


def test_damage_of_ours_is_exit_code_1(finished_project, tmp_path):
    import shutil

    shutil.copytree(finished_project.parent, tmp_path / "copy")
    head = tmp_path / "copy" / "out" / "fit" / "student.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    found = usam("annotate", tmp_path / "copy" / "project.yaml")
    assert found.returncode == 1
    assert "fit again" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_step_prints_one_json_document(finished_project):
    found = usam("embed", finished_project, "--json")
    document = json.loads(found.stdout)
    assert document["step"] == "embed"
    assert document["reused"] is True
    assert document["summary"]["embedded"] == 0
    assert found.stderr == ""


def test_evaluate_shows_a_table_of_the_classes(finished_project):
    found = usam("evaluate", finished_project)
    assert found.returncode == 0
    for word in ("background", "disc", "ring", "rod", "mIoU"):
        assert word in found.stdout


def test_init_writes_a_project_that_says_what_is_missing(tmp_path):
    (tmp_path / "photos").mkdir()
    made = usam("init", "new", "--classes", "dog, cat", "--images", "photos", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert f"put the images that are to be labelled into {tmp_path / 'photos'}" in made.stdout
    (tmp_path / "new" / "training").rename(tmp_path / "elsewhere")
    found = usam("collect", tmp_path / "new" / "project.yaml")
    assert found.returncode == 2
    assert "training.path: got 'training'; expected a folder or file that exists" in found.stderr


def test_doctor_tells_device_disk_and_downloads():
    found = usam("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(found.stdout)}
    assert checks["SAM nano"]["verdict"] == "good"
    here = checks["SAM vit_h"]["verdict"] == "good"
    assert here or "2565 MB" in checks["SAM vit_h"]["advice"]
    assert checks["torch"]["value"].startswith("2.")
    assert "device" in checks
    assert found.returncode == 0


def test_doctor_ends_with_1_when_something_is_bad(tmp_path):
    script = (
        "import sys; from unittest.mock import patch; from flows.cli import main;"
        "sys.argv = ['usam', 'doctor'];"
        "patch('usam_core.cli.inspect.versions', return_value={'torch': 'not installed'}).start();"
        "main()"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert found.returncode == 1, found.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "a,A", "--images", "."], "names 'a' already"),
        (["--classes", "a", "--images", "nowhere"], "--images: got 'nowhere'"),
        (["--classes", "a", "--images", ".", "--sam", "vit_x"], "vit_x"),
        (["--classes", "a", "--images", ".", "--training", "none"], "--training: got 'none'"),
        (["--classes", "a", "--images", ".", "--source", "web"], "--contact: missing"),
    ],
)
def test_init_refuses_what_could_not_run(tmp_path, words, said):
    found = usam("init", "new", *words, cwd=tmp_path)
    assert found.returncode == 2
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["fit", "export", "review"])
def test_a_level_that_is_none_is_refused_by_name(command, tiny_project):
    found = usam(command, tiny_project, "--level", "colours")
    assert found.returncode == 2
    assert "colours" in found.stderr
    assert "the name of a parent: 'round', 'long'" in " ".join(found.stderr.split())


def test_refreshing_a_run_wants_to_know_from_where(finished_project):
    done = usam("run", str(finished_project), "--refresh")
    assert done.returncode == 2
    assert "--from annotate" in done.stderr
