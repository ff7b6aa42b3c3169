"""The collect flow: a task a class, and one class anew."""

import pytest
from prefect.client.orchestration import get_client

from flows.parameters import SETTINGS
from flows.steps import collect
from tests.sources.test_web_collect import project_of

pytestmark = pytest.mark.usefixtures("prefect_server")


def task_names(state):
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(limit=200)
    mine = [task for task in tasks if task.flow_run_id == state.state_details.flow_run_id]
    return sorted(task.name for task in mine)


@pytest.mark.slow
def test_a_crawl_is_a_task_a_class_and_one_class_is_got_anew_alone(site, tmp_path):
    file = project_of(tmp_path / "p", site, ["dog", "cat"])
    state = collect(SETTINGS["collect"](project_file=str(file)), return_state=True)
    assert state.result()["summary"]["per_class"] == {"dog": 10, "cat": 10}
    assert task_names(state) == ["collect", "collect cat", "collect dog"]
    before = site.counts
    assert collect(SETTINGS["collect"](project_file=str(file)))["reused"]
    assert site.counts == before
    collect(SETTINGS["collect"](project_file=str(file), refresh=True, only=["cat"]))
    again = site.counts - before
    assert [path for path in again if "q=cat" in path]
    assert not [path for path in again if "q=dog" in path]
