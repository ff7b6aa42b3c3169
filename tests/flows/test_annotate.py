"""The flow on a real Prefect server: cached by content, healed, retried where the world fails."""

import base64
import json
import os
import shutil

import cloudpickle
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import (
    PREFECT_RESULTS_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from prefect.states import StateType

from flows.annotate import annotate_dataset
from flows.parameters import SETTINGS, AnnotateDatasetSettings
from flows.steps import collect, embed, fit
from tasks import steps as task_steps
from usam_core.config.project import load_project
from usam_core.errors import ConfigError, InputError, MissingStepError, TransientError
from usam_core.files.digest import file_digest
from usam_core.steps import collect as collect_step
from usam_core.steps import embed as embed_step
from usam_core.steps import step_folder

# Each goes on with what the one before has left.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def settings(file, **parameters):
    return AnnotateDatasetSettings(project_file=str(file), **parameters)


def step_settings(file, **parameters):
    return SETTINGS["fit"](project_file=str(file), **parameters)


def run(file, **parameters):
    """Run the flow; return its results by step, and its last task runs' states by name."""
    state = annotate_dataset(settings(file, **parameters), return_state=True)
    results = state.result()
    with get_client(sync_client=True) as client:
        (last,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
        tasks = client.read_task_runs(limit=200)
        mine = {t.name: t.state.name for t in tasks if t.flow_run_id == last.id}
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[last.id]))
        artifacts = {a.key: a.data for a in client.read_artifacts(artifact_filter=wanted)}
    return {r["step"]: r for r in results}, mine, artifacts


@pytest.fixture(scope="module")
def project_file(finished_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow") / "project"
    shutil.copytree(finished_project.parent, folder)
    shutil.rmtree(folder / "out")
    return folder / "project.yaml"


def test_the_whole_job_and_what_is_on_its_page(project_file):
    results, tasks, artifacts = run(project_file)
    assert list(results) == [
        "collect",
        "embed",
        "compose",
        "fit",
        "calibrate",
        "annotate",
        "evaluate",
        "report",
    ]
    assert results["embed"]["summary"]["embedded"] == 13
    assert not any(result["reused"] for result in results.values())
    assert {"collect", "fit", "annotate", "evaluate"} <= set(tasks)
    assert [name for name in tasks if name.startswith("embed shards")]
    assert set(tasks.values()) == {"Completed"}
    assert "data:image/jpeg;base64," in artifacts["annotation-run"]
    assert len(artifacts["annotation-run"]) < 300_000
    assert "background" in artifacts["metrics-per-class"]
    assert "/out/report/report.html" in artifacts["report"]
    assert "file://" not in artifacts["report"], "browsers follow no such link from a server's page"
    assert "What to do next" in artifacts["report"]
    assert {"collect disc", "collect ring", "collect rod"} <= set(tasks)
    assert "| disc | 3 |" in artifacts["training-pictures"]
    assert "data:image/jpeg;base64," in artifacts["training-pictures"]


def test_the_run_page_shows_the_lineage_and_the_lineage_names_the_run(project_file):
    _, _, artifacts = run(project_file, start="annotate", refresh=True)
    folder = step_folder(load_project(project_file), "evaluate")
    shown = artifacts["lineage"]
    assert "and the steps it was made from" in shown.partition("](data:image/svg+xml;base64,")[0]
    assert file_digest(folder / "lineage.json")[:12] in shown
    assert "9 for training" in shown
    assert "SAM nano, bundled with usam" in shown
    with get_client(sync_client=True) as client:
        (last,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
    for step in ("annotate", "evaluate"):
        document = json.loads((folder.parent / step / "lineage.json").read_text())
        assert document["flow_run"] == {"id": str(last.id), "name": last.name}
    earlier = json.loads((folder.parent / "fit" / "lineage.json").read_text())
    assert earlier["flow_run"]["id"] != str(last.id), "a step that is reused keeps its lineage"


def test_the_same_again_is_cached_and_says_so(project_file):
    results, tasks, _ = run(project_file)
    assert all(result["reused"] for result in results.values())
    # What has to be looked at each time: which images came, and whether the run can be trusted.
    always = ("plan-embed", "quality-gate")
    assert {"Cached"} == {state for name, state in tasks.items() if not name.startswith(always)}


def test_a_deleted_output_is_made_again(project_file):
    labels = step_folder(load_project(project_file), "annotate")
    victim = labels / "masks" / "s2.png"
    before = victim.read_bytes()
    victim.unlink()
    results, tasks, _ = run(project_file)
    assert victim.read_bytes() == before
    assert tasks["annotate"] == "Completed"
    assert tasks["fit"] == "Cached"
    assert results["annotate"]["summary"]["images"] == 4


class Planted:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_that_lies_in_the_folder_of_results_is_unpickled(project_file, tmp_path):
    results, planted = tmp_path / "results", tmp_path / "planted"
    code = cloudpickle.dumps(Planted(planted))
    record = {"result": base64.b64encode(code).decode()}
    wanted = {
        PREFECT_RESULTS_LOCAL_STORAGE_PATH: results,
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
    }
    with temporary_settings(wanted):
        for refresh in (True, False):
            run(project_file, start="fit", refresh=refresh)
            for file in results.glob("*"):
                whole = file.read_bytes()
                known = json.loads(whole) | record if whole.startswith(b"{") else None
                file.write_bytes(json.dumps(known).encode() if known else code)
    assert not planted.exists()
    assert not results.exists()


def test_starting_later_leaves_earlier_steps_alone(project_file):
    results, tasks, _ = run(project_file, start="annotate", refresh=True)
    assert set(results) == {"annotate", "evaluate", "report"}
    assert "collect" not in tasks
    assert tasks["annotate"] == "Completed"


def test_coarser_classes_embed_nothing(project_file):
    results, tasks, _ = run(project_file, level="parents")
    assert not [name for name in tasks if name.startswith("embed shards")]
    assert results["fit"]["summary"]["classes"] == ["round", "long"]


def test_beginning_with_evaluate_wants_truth(project_file, tmp_path):
    shutil.copytree(project_file.parent, tmp_path / "copy")
    file = tmp_path / "copy" / "project.yaml"
    values = yaml.safe_load(file.read_text())
    del values["evaluation"]
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="no `evaluation` section"):
        run(file, start="evaluate")


def test_a_step_alone_runs_as_its_own_flow(project_file):
    assert fit(step_settings(project_file))["reused"]


def test_a_step_builds_on_the_chosen_manifest_and_on_no_other(project_file, tmp_path):
    collected = step_folder(load_project(project_file), "collect") / "lineage.json"
    chosen = file_digest(collected)
    for manifest in (str(collected), str(collected.parent), chosen, chosen[:12].upper()):
        assert fit(step_settings(project_file, manifest=manifest))["reused"]
    other = tmp_path / "lineage.json"
    other.write_text("{}")
    for manifest, expected in (
        (str(other), f"would build on collect {chosen[:12]}, embed "),
        ("0123456789ab", "run the step before again"),
        ("no/such.json", "which is no file"),
        (chosen[:7], "which is no file"),
    ):
        with pytest.raises(InputError, match=expected):
            fit(step_settings(project_file, manifest=manifest, refresh=True))


def test_refresh_repeats_the_step_and_all_after_it(project_file):
    results, tasks, _ = run(project_file, start="embed", refresh=True)
    assert results["embed"]["summary"]["embedded"] == 13
    assert any(name.startswith("forget-embeddings") for name in tasks)
    assert not any(results[step]["reused"] for step in ("fit", "annotate", "evaluate", "report"))
    assert "collect" not in results
    results, tasks, _ = run(project_file, refresh=True)
    assert not any(result["reused"] for result in results.values())
    assert {"collect disc", "collect ring", "collect rod"} <= set(tasks)


def once_failing(monkeypatch, module, name, number):
    """Let the n-th call of a stage fail; return the arguments of all calls after the project."""
    calls = []
    real = getattr(module, name)

    def stage(project, *arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise InputError("mend me")
        return real(project, *arguments, **options)

    monkeypatch.setattr(module, name, stage)
    return calls


def test_a_retry_of_a_refresh_goes_on_where_the_first_attempt_was(project_file, monkeypatch):
    forgotten = once_failing(monkeypatch, embed_step, "forget", 0)
    groups = once_failing(monkeypatch, embed_step, "embed_groups", 3)
    again = embed.with_options(retries=1)
    file = str(project_file)
    result = again(SETTINGS["embed"](project_file=file, refresh=True))
    assert len(forgotten) == 1
    assert [call[0] for call in groups].count(groups[2][0]) == 2
    assert len(groups) == 5
    assert result["summary"]["embedded"] + result["summary"]["reused"] == 13

    classes = once_failing(monkeypatch, collect_step, "collect_class", 2)
    collect.with_options(retries=1)(SETTINGS["collect"](project_file=file, refresh=True))
    assert [name for (name,) in classes] == ["disc", "ring", "ring", "rod"]
    # The next run is asked anew.
    collect(SETTINGS["collect"](project_file=file, refresh=True))
    assert [name for (name,) in classes[4:]] == ["disc", "ring", "rod"]


def test_a_wrong_parameter_is_refused_before_the_run_starts(project_file):
    with pytest.raises(Exception, match=r"level"):
        annotate_dataset({"project_file": str(project_file), "level": "sideways"})


@pytest.fixture
def quick_retries(monkeypatch):
    quick = task_steps.run_step.with_options(retry_delay_seconds=0.1)
    monkeypatch.setattr(task_steps, "run_step", quick)


def failing(monkeypatch, error, times):
    calls = []
    real = task_steps.core.run_step

    def run_step(step, project, **options):
        calls.append(step)
        if len(calls) <= times:
            raise error
        return real(step, project, **options)

    monkeypatch.setattr(task_steps.core, "run_step", run_step)
    return calls


def test_where_the_world_fails_a_step_is_tried_again(project_file, monkeypatch, quick_retries):
    calls = failing(monkeypatch, TransientError("the hub is away"), times=2)
    assert not fit(step_settings(project_file, refresh=True))["reused"]
    assert calls == ["fit"] * 3


def test_a_mistake_is_not_tried_again_and_keeps_its_sentence(
    project_file, monkeypatch, quick_retries
):
    calls = failing(monkeypatch, MissingStepError("run `usam embed` first"), times=9)
    state = fit(step_settings(project_file, refresh=True), return_state=True)
    assert state.type == StateType.FAILED
    with pytest.raises(MissingStepError, match="run `usam embed` first"):
        state.result()
    assert calls == ["fit"]


def test_papers_on_the_command_line_are_the_recipe_of_the_file(project_file, tmp_path):
    file = tmp_path / "project.yaml"
    values = yaml.safe_load(project_file.read_text())
    kept = {key: values[key] for key in ("classes", "images", "training", "evaluation")}
    shutil.copytree(project_file.parent / "images", tmp_path / "images")
    shutil.copytree(project_file.parent / "truth", tmp_path / "truth")
    kept |= {"outputs": {"overlays": 0}, "gate": {"max_covered": None}}
    file.write_text(yaml.safe_dump(kept))
    once, _, _ = run(file, recipe="papers", level="parents")
    assert once["fit"]["summary"]["features"] == ["tokens"]
    assert once["fit"]["summary"]["classes"] == ["round", "long"]
    file.write_text(yaml.safe_dump({**kept, "recipe": "papers", "level": "parents"}))
    again, _, _ = run(file)
    assert {step: one["key"] for step, one in once.items()} == {
        step: one["key"] for step, one in again.items()
    }
    assert all(result["reused"] for result in again.values())
