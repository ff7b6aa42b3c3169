"""Every command of README and docs: run here, or named below with the reason why it is not."""

import ast
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import change
from tests.usam_process import usam

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deployments/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)

NOT_RUN = {
    r"python3\.11 -m venv": "installs; .ci/run and a fresh clone do it",
    r"^(\. )?\.venv": "belongs to the one before",
    r"^pip install": "installs",
    r"umask 077": "writes a password into one's home: docs/prefect.md says for what",
    r"^hf download": "needs a model hub",
    r"usam init real |--source (synthetic|web)": "needs a model hub or the web: "
    "test_sources_hub.py and test_web_collect.py run the same on 127.0.0.1",
    r"^usam (collect|run) (pets|real)|run my-project|run \"\$1\"": "belongs to the one before",
    r"^usam bench": "needs official data: test_bench.py runs it on data of the same layout",
    r"^usam (up|down)": "a server: tests/server/test_served.py",
    r"^aws s3 sync": "a bucket",
    r"^usam review": "a page: test_review_browser.py",
    r"^usam crop": "a page: test_crop.py",
    r"^usam diff": "names runs of one's own: test_difference.py",
    r"scripts/mutate\.py": "minutes, and cosmic-ray is no dependency",
    r"deployments/notify\.py": "a server: tests/server/test_gate_notice.py",
    r"^(export|prefect|srun|docker|kubectl|#SBATCH|#!/bin/bash)": "a server or a cluster: "
    "tests/server/test_deploy.py runs the deployments",
}
"""Commands that no test of this file runs, by what they contain."""


def blocks(*languages):
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language in languages:
                yield page.relative_to(ROOT).as_posix(), language, text


def commands():
    """Yield each command line of the pages with where it stands, continued lines joined."""
    for page, language, text in blocks("sh", "console"):
        lines = text.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            for one in line.partition(" #")[0].split(" && "):
                if one.strip() and not one.startswith("#"):
                    yield page, " ".join(one.split())


def why_not(command):
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


RUN = sorted({command for _, command in commands() if not why_not(command)})
USAM = [command for command in RUN if command.startswith("usam ")]
BENCHMARKS = [command for command in RUN if command.startswith("python benchmarks/")]


def test_every_command_is_run_or_has_a_reason():
    assert sorted([*USAM, *BENCHMARKS]) == RUN, "name a reason in NOT_RUN, or teach this file"
    assert len(USAM) > 10
    everything = [command for _, command in commands()]
    for pattern in NOT_RUN:
        if pattern.startswith("^"):
            continue
        assert any(re.search(pattern, one) for one in everything), f"{pattern}: not in the docs"


@pytest.fixture(scope="module")
def place(finished_project, tmp_path_factory):
    """Return a folder in which the paths of the docs are there."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("demo", "."):
        shutil.copytree(finished_project.parent, folder / name, dirs_exist_ok=True)
    change(folder / "project.yaml", outputs={"formats": ["yolo", "label_tiff"]})
    change(folder / "project.yaml", distill={"steps": 1, "size": 64})
    for name in ("data/plates", "photos"):
        shutil.copytree(folder / "images", folder / name)
    for kind in ("nucleus", "debris", "dog", "cat"):
        for top in ("data/examples", "pictures"):
            shutil.copytree(folder / "images", folder / top / kind)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", USAM)
def test_commands_of_usam_do_what_the_docs_say(command, place):
    words = shlex.split(command.replace("/data/", "data/"))[1:]
    if words[0] == "init" and (place / words[1]).exists():
        shutil.rmtree(place / words[1])
    if words[0] == "run" and "round things" in words:
        words[words.index("round things")] = "round"
    done = usam(*words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", BENCHMARKS)
def test_commands_of_benchmarks_name_files_and_options_that_there_are(command):
    """They take minutes to hours; here their options are held against what they accept."""
    words = shlex.split(command.replace("[", "").replace("]", ""))
    script = ROOT / words[1]
    assert script.is_file()
    source = script.read_text(encoding="utf-8")
    known = {
        argument.value
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }
    assert [word for word in words[2:] if word.startswith("--") and word not in known] == []
    files = [word for word in words[2:] if word.startswith("benchmarks/")]
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_sections_of_project_files_are_ones_that_can_be_read():
    from usam_core.config.schema import ProjectConfig

    known = set(ProjectConfig.model_fields)
    seen = 0
    for page, _, text in blocks("yaml"):
        if page.startswith("deployments/"):
            continue
        values = yaml.safe_load(text)
        assert set(values) <= known, page
        seen += 1
    assert seen > 8


def test_python_of_the_docs_is_python():
    """What a side environment would run is compiled here; docs/outputs.md says what was run."""
    for page, _, text in blocks("python"):
        compile(text, page, "exec")


def test_links_between_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
