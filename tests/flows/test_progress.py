"""Progress of several task runs as one bar on the flow's page."""

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from tasks import report
from tasks.report import RunProgress, whole_bar

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
