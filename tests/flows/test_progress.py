"""What a run's page tells of it: one bar of several task runs, its log, failures, Ctrl-C."""

import re
import time

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)

from flows.annotate import annotate_dataset
from flows.parameters import SETTINGS, AnnotateDatasetSettings
from flows.steps import FLOWS
from tasks import report
from tasks.report import RunProgress, whole_bar
from usam_core import progress

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@task
def some(count: int) -> None:
    with RunProgress().bar("Working", count) as bar:
        for _ in range(count):
            bar.advance()


@flow
def work() -> None:
    with whole_bar("Working", 8):
        some(3)
        some(5)


def test_task_runs_share_one_bar_with_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(report, "_SECONDS_BETWEEN", -1)
    state = work(return_state=True)
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
    )
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(artifact_filter=wanted)
    assert artifact.type == "progress"
    assert artifact.data == 100
    assert artifact.description.startswith("Working: 8 of 8, ")
    assert artifact.description.endswith(" a second, 0 s left")


def told(flow_run, words, seconds=20):
    """Return the messages of a run's log, waiting until these words are among them."""
    until = time.monotonic() + seconds
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run]))
    while True:
        with get_client(sync_client=True) as client:
            lines = [log.message for log in client.read_logs(wanted, limit=200)]
        if any(words in line for line in lines) or time.monotonic() > until:
            return lines
        time.sleep(0.2)


def test_the_log_says_how_far_a_task_is(monkeypatch):
    for name in ("MEASURED_SECONDS", "LONG_SECONDS", "BETWEEN_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)
    state = work(return_state=True)
    lines = told(state.state_details.flow_run_id, "Working: 8 of 8")
    assert any(line.startswith("Working 8 items: ") and "; done about " in line for line in lines)
    assert any(re.fullmatch(r"Working: 8 of 8, .+ a second, 0 s left", line) for line in lines)


def test_the_log_says_each_steps_outcome(finished_project):
    state = annotate_dataset(
        AnnotateDatasetSettings(project_file=str(finished_project), start="fit"), return_state=True
    )
    lines = told(state.state_details.flow_run_id, "all 5 steps are done")
    assert "5 steps: fit, calibrate, annotate, evaluate, report" in lines
    assert any(line.startswith("step 1 of 5, fit: unchanged: student for 3") for line in lines)
    assert any(line.startswith("step 3 of 5, annotate: unchanged: ") for line in lines)
    assert "all 5 steps are done" in lines


def test_a_failure_is_a_sentence_in_the_log(tiny_project):
    state = FLOWS["fit"](SETTINGS["fit"](project_file=str(tiny_project)), return_state=True)
    assert state.is_failed()
    assert "usam embed" in state.message
    lines = told(state.state_details.flow_run_id, "usam embed")
    assert any(line.startswith(str(tiny_project.parent)) for line in lines), lines
    assert not any("Traceback" in line for line in lines), lines


def test_a_fault_nobody_foresaw_keeps_its_traceback():
    @flow
    def broken():
        raise ZeroDivisionError("by nothing")

    state = broken(return_state=True)
    lines = told(state.state_details.flow_run_id, "by nothing")
    assert any("Traceback" in line for line in lines)


def test_a_run_stopped_by_ctrl_c_is_cancelled_and_says_what_is_kept(finished_project, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.annotate.report_run", stop)
    state = annotate_dataset(
        AnnotateDatasetSettings(project_file=str(finished_project), start="report"),
        return_state=True,
    )
    assert state.is_cancelled()
    assert state.message.startswith("stopped; kept: finished steps (report)")
