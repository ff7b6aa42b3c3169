"""What `usam up` serves: the schedule where it belongs, and the end of runs that nobody runs."""

import asyncio

import pytest
from prefect.client.orchestration import get_client
from prefect.deployments.runner import EntrypointType
from prefect.states import Running, Scheduled

from flows.serve import deployments, end_orphans
from flows.steps import fit, report


def test_only_the_whole_job_is_run_by_the_schedule():
    found = asyncio.run(deployments("/data/project.yaml", "0 2 * * *", "Europe/Paris"))
    schedules = {d.name: [s.schedule for s in d.schedules] for d in found}
    (nightly,) = schedules.pop("annotate-dataset")
    assert (nightly.cron, nightly.timezone) == ("0 2 * * *", "Europe/Paris")
    assert not any(schedules.values())
    settings = {"settings": {"project_file": "/data/project.yaml"}}
    assert all(deployment.parameters == settings for deployment in found)


def test_without_a_project_the_form_asks_for_it_and_nothing_is_scheduled():
    found = asyncio.run(deployments(None, None, "UTC"))
    assert not any(deployment.schedules or deployment.parameters for deployment in found)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_runs_whose_process_is_gone_end_as_crashed_and_no_others():
    ids = {
        flow.name: flow.to_deployment(flow.name, entrypoint_type=EntrypointType.MODULE_PATH).apply()
        for flow in (fit, report)
    }
    settings = {"settings": {"project_file": "project.yaml"}}
    with get_client(sync_client=True) as client:

        def begin(deployment, state):
            run = client.create_flow_run_from_deployment(ids[deployment], parameters=settings)
            client.set_flow_run_state(run.id, state, force=True)
            return run.id

        orphan = begin("fit", Running())
        waiting = begin("fit", Scheduled())
        of_a_worker = begin("report", Running())
        asyncio.run(end_orphans([ids["fit"]]))
        states = [client.read_flow_run(run).state for run in (orphan, waiting, of_a_worker)]
    assert [state.name for state in states] == ["Crashed", "Scheduled", "Running"]
    assert "Retry goes on" in states[0].message
