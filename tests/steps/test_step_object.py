"""A step is one file and one entry: all else follows, which a step of this test shows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from usam_core.config.project import load_project
from usam_core.errors import MissingStepError
from usam_core.files.code import code_digest
from usam_core.lineage.chain import read_chain
from usam_core.lineage.show import broken_links, tree
from usam_core.steps import STEPS, Input, Step, intact, run_step, step_folder, step_key, steps_table
from usam_core.steps.check import check_project
from usam_core.steps.lineage_checks import check_chain

ROOT = Path(__file__).parents[2]

FILE = """
from usam_core.files.atomic import write_json
from usam_core.files.digest import file_digest
from usam_core.steps import Input, StepResult, step_folder
from usam_core.steps.record import digests, labels_record, made_input

CALCULATIONS = ("usam_core.files.digest",)


def inputs(project):
    wanted = project.root / "wanted.txt"
    said = {"path": "wanted.txt", "sha256": file_digest(wanted)}
    return {
        "labels": made_input(project, labels_record(project)),
        "wanted": Input(said["sha256"], lambda: said),
        "level": project.config.level,
    }


def run(project, key, progress):
    file = step_folder(project, "count") / "count.json"
    write_json(file, labels_record(project).summary["per_class"])
    return StepResult(
        "count", key, False, str(file), {"classes": 3}, digests(file.parent, [file])
    )


def sentence(summary):
    return f"{summary['classes']} classes counted"
"""

ENTRY = {
    "title": "Count what was labelled.",
    "parents": ("annotate",),
    "settings": ("level", "inference"),
    "module": "count_step",
}

PLUG = f"""
import sys
from usam_core.steps import STEPS, Step
STEPS["count"] = Step("count", **{ENTRY!r})
"""


@pytest.fixture
def place(tmp_path):
    """Return a folder with the step's file."""
    (tmp_path / "count_step.py").write_text(FILE)
    return tmp_path


@pytest.fixture
def count(place, monkeypatch):
    """Return the step, registered."""
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "count_step", raising=False)
    monkeypatch.setitem(STEPS, "count", Step("count", **ENTRY))
    code_digest.cache_clear()
    return STEPS["count"]


@pytest.fixture
def counted(project_file, count):
    """Return a project that the step has run on."""
    (project_file.parent / "wanted.txt").write_text("all")
    project = load_project(project_file)
    assert not run_step("count", project).reused
    return project


def test_its_record_holds_until_its_inputs_or_its_outputs_change(counted):
    again = run_step("count", counted)
    assert again.reused
    assert STEPS["count"].sentence(again.summary, again.reused) == "unchanged: 3 classes counted"
    assert again.path == str(counted.out / "count" / "count.json")
    key = step_key("count", counted)
    (counted.root / "wanted.txt").write_text("some")
    assert step_key("count", counted) != key
    assert not run_step("count", counted).reused
    (counted.out / "count" / "count.json").write_text("{}")
    assert intact("count", counted) is None


def test_its_key_follows_the_code_and_the_step_before(counted, place):
    key = step_key("count", counted)
    (place / "count_step.py").write_text(FILE.replace("CALCULATIONS =", "# Words.\nCALCULATIONS ="))
    code_digest.cache_clear()
    assert step_key("count", counted) == key
    (place / "count_step.py").write_text(FILE.replace('"per_class"]', '"images"]'))
    code_digest.cache_clear()
    other = step_key("count", counted)
    assert other != key
    png = counted.out / "annotate" / "coco.json"
    record = json.loads((png.parent / "record.json").read_text())
    run_step("annotate", load_project(counted.file, inference={"threshold": 0.99}))
    assert json.loads((png.parent / "record.json").read_text()) != record
    assert step_key("count", counted) != other


def test_its_lineage_names_what_it_read_and_is_checked(counted):
    folder = step_folder(counted, "count")
    document = json.loads((folder / "lineage.json").read_text())
    before = json.loads((step_folder(counted, "annotate") / "record.json").read_text())
    assert document["parents"] == [
        {
            "step": "annotate",
            "path": "out/annotate/lineage.json",
            "sha256": before["outputs"]["lineage.json"],
        }
    ]
    assert document["inputs"]["labels"]["path"] == "out/annotate"
    assert document["inputs"]["wanted"]["path"] == "wanted.txt"
    assert set(document["config"]) == {"level", "inference"}
    assert document["code"]["sha256"] == STEPS["count"].revision
    chain = read_chain(folder / "count.json")
    findings = check_chain(chain)
    assert broken_links(findings) == []
    assert any("wanted: wanted.txt" in line for line in tree(chain, findings))
    (counted.root / "wanted.txt").write_text("some")
    broken = [finding.text for finding in broken_links(check_chain(chain))]
    assert any("the wanted changed after count read it; run `usam count`" in t for t in broken)


def test_usam_check_reads_what_it_made(counted):
    assert check_project(counted).sound
    (counted.out / "count" / "count.json").write_text("{}")
    assert [damage.step for damage in check_project(counted).damages] == ["count"]


def test_each_level_has_a_result_of_its_own_if_a_step_before_has(count):
    assert count.has_levels
    assert Step("late", "", parents=("count",)).has_levels
    assert not Step("early", "", parents=("embed",)).has_levels
    out = Path("out")
    assert count.folder(out, "parents") == out / "parents" / "count"
    assert STEPS["embed"].folder(out, "parents") == out / "embed"
    assert STEPS["report"].folder(out, "animals") == out / "levels" / "animals" / "report"


def with_count(place, code, *words):
    """Run Python with the step registered before anything is made of the steps."""
    path = os.pathsep.join([str(place), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", PLUG + code, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
    )


def usam(place, *words):
    return with_count(place, "from flows.cli import main\nmain()", *words)


def test_its_command_has_its_title_and_options(place):
    listed = usam(place, "--help").stdout
    assert f" count {'':6}" in listed or " count " in listed
    assert ENTRY["title"] in " ".join(listed.split())
    shown = usam(place, "count", "--help")
    assert shown.returncode == 0, shown.stderr
    for word in (ENTRY["title"], "--level", "--refresh", "usam count my-project"):
        assert word in shown.stdout


@pytest.mark.slow
def test_its_flow_has_a_form_and_an_entrypoint(place):
    code = """
import json
from prefect.flows import load_flow_from_entrypoint
from flows.parameters import AnnotateDatasetSettings
from flows.serve import FLOWS
flow = load_flow_from_entrypoint("flows.steps:count")
start = AnnotateDatasetSettings.model_json_schema()["properties"]["start"]["enum"]
schema = flow.parameters.model_dump()
print(json.dumps([flow.name, flow.description, schema, start, [one.name for one in FLOWS]]))
"""
    done = with_count(place, code)
    assert done.returncode == 0, done.stderr
    name, description, schema, start, served = json.loads(done.stdout)
    assert (name, description) == ("count", ENTRY["title"])
    (form,) = schema["definitions"].values()
    assert form["description"] == ENTRY["title"]
    assert list(form["properties"]) == ["project_file", "level", "refresh", "manifest"]
    assert start == served[1:] == [*STEPS, "count"]


@pytest.mark.slow
def test_a_whole_run_ends_with_it(place, project_file):
    (project_file.parent / "wanted.txt").write_text("all")
    done = usam(place, "run", project_file, "--from", "report", "--json")
    assert done.returncode == 0, done.stderr
    assert [step["step"] for step in json.loads(done.stdout)["steps"]] == ["report", "count"]
    lineage = json.loads((project_file.parent / "out/count/lineage.json").read_text())
    assert lineage["flow_run"]["name"]


def test_it_has_its_row_in_the_docs(count):
    assert "| `count` | Count what was labelled. | annotate |" in steps_table().splitlines()


def test_the_docs_have_every_step_in_the_words_of_its_command(count, monkeypatch):
    monkeypatch.delitem(STEPS, "count")
    assert steps_table() in (ROOT / "docs" / "prefect.md").read_text(encoding="utf-8")
    named = ", ".join(f"`{'usam ' * (name == 'collect')}{name}`" for name in STEPS)
    assert f"| {named} |" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_step_reads_what_steps_before_it_made(finished_project):
    project, before = load_project(finished_project), set()
    for step in STEPS.values():
        assert set(step.parents) <= before, f"{step.name} comes after what it reads"
        before.add(step.name)
        if step.wanted(project.config):
            read = step.code.inputs(project).values()
            made = {value.step for value in read if isinstance(value, Input)} - {"", step.name}
            assert made <= _above(step), step.name


def _above(step):
    return set(step.parents).union(*(_above(STEPS[one]) for one in step.parents))


@pytest.fixture(scope="module")
def opened():
    """Return a list that names every file that is opened, while it is switched on."""
    files, on = [], []
    sys.addaudithook(
        lambda event, given: files.append(str(given[0])) if on and event == "open" else None
    )
    return files, on


@pytest.mark.parametrize("windows", ["kept", "lost", "old"])
def test_opening_the_store_reads_no_image(project_file, opened, windows):
    from usam_core.files.digest import read_sealed, write_sealed
    from usam_core.steps.embed import open_store, store_folder

    project = load_project(project_file)
    before = store_folder(project)
    (file,) = (project.out / "embed").glob("windows-*.json")
    tif = project.root / "images" / "a.tif"
    tif.write_bytes(b"II*\0")
    if windows == "lost":
        file.unlink()
    elif windows == "old":
        said = {key: value for key, value in read_sealed(file).items() if key != "reading"}
        write_sealed(file, {**said, "sample": ["images/a.tif"]})
    files, on = opened
    files.clear()
    on.append(True)
    try:
        if windows == "lost":
            with pytest.raises(MissingStepError, match=r"run `usam embed .*project\.yaml` first"):
                open_store(project)
        else:
            assert open_store(project).path == before
    finally:
        on.clear()
    assert files
    assert [name for name in files if name.startswith(str(project.root / "images"))] == []
