"""`prefect.yaml` on a real server: `prefect deploy --all`, and a worker that runs a deployment."""

from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.server

FILE = Path(__file__).parents[2] / "prefect.yaml"


@pytest.fixture(scope="module")
def deployed(local):
    """Deploy all of prefect.yaml, under other names than those of the served flows."""
    settings = yaml.safe_load(FILE.read_text())
    for deployment in settings["deployments"]:
        deployment["name"] += "-pool"
    (local.folder / "prefect.yaml").write_text(yaml.safe_dump(settings))
    client = {
        **local.client,
        "PREFECT_HOME": str(local.folder / "worker"),
        "USAM_HOME": str(local.project.parent),
    }
    for command in (
        ["work-pool", "create", "usam-local", "--type", "process"],
        ["--no-prompt", "deploy", "--all"],
    ):
        done = local.python("-m", "prefect", *command, **client)
        assert done.returncode == 0, done.stdout + done.stderr
    return settings["deployments"], client


def test_every_deployment_is_there_with_its_pool_tags_and_schedule(local, deployed):
    for wanted in deployed[0]:
        found = local.deployment(wanted["name"])
        assert found["work_pool_name"] == "usam-local"
        assert found["tags"] == wanted["tags"]
        assert found["parameters"] == wanted["parameters"]
        schedules = [(s["schedule"]["cron"], s["active"]) for s in found["schedules"]]
        nightly = [("0 2 * * *", False)] if wanted["name"].startswith("annotate-dataset") else []
        assert schedules == nightly


def test_a_worker_runs_a_step_whose_project_counts_from_its_home(local, deployed, whole_run):
    run = local.create("report-pool").raise_for_status().json()["id"]
    arguments = ["worker", "start", "--pool", "usam-local", "--run-once"]
    worker = local.python("-m", "prefect", *arguments, **deployed[1])
    assert worker.returncode == 0, worker.stdout + worker.stderr
    done = local.wait(run)
    assert done["state"]["type"] == "COMPLETED", done["state"]["message"]
    # The report is written; nothing else is done again.
    assert local.tasks(run) == {"report": "Cached"}
    artifacts = local.artifacts(run)
    assert "9 training pictures of 3 classes" in artifacts["annotation-run"]
    assert "data:image/jpeg;base64," in artifacts["overlays"]
