"""A real local server for tests: `usam up`, asked over HTTP as its page asks."""

import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from flows import local_server

ROOT = Path(__file__).parents[1]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LocalServer:
    """The state of one `usam up`, and what the UI would ask of its server."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.project = project
        self.port = free_port()
        self.page = f"http://127.0.0.1:{self.port}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self.environment = kept | {
            "USAM_CACHE": str(folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        }
        self._client = httpx.Client(
            base_url=f"{self.page}/api",
            auth=partial(local_server.signed, folder=self.home),
            trust_env=False,
            timeout=30,
        )

    @property
    def home(self) -> Path:
        return self.folder / "server"

    @property
    def client(self) -> dict[str, str]:
        """Return the settings of a Prefect client that a person gives it by hand."""
        password = (self.home / "auth").read_text()
        return {"PREFECT_API_URL": f"{self.page}/api", "PREFECT_API_AUTH_STRING": password}

    def usam(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "flows", *arguments)

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def ask(self, path: str, **body: Any) -> Any:
        """Return what the server answers to a request with this body."""
        return self._post(path, body).raise_for_status().json()

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Ask again while SQLite is busy (503), as Prefect's own client does."""
        for _ in range(20):
            answer = self._client.post(path, json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.5)
        return answer

    def deployment(self, name: str) -> dict[str, Any]:
        found = self.ask("/deployments/filter", deployments={"name": {"any_": [name]}})
        assert len(found) == 1, f"deployments named {name}: {found}"
        return found[0]

    def create(self, name: str, settings: dict[str, Any] | None = None) -> httpx.Response:
        """Ask for a run of a deployment, as the form does."""
        parameters = {} if settings is None else {"settings": settings}
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        return self._post(path, {"parameters": parameters})

    def run(self, name: str, **settings: Any) -> dict[str, Any]:
        """Run a deployment on this project and wait for its end."""
        asked = {"project_file": str(self.project)} | settings
        return self.wait(self.create(name, asked).raise_for_status().json()["id"])

    def start_again(self, run: str, name: str) -> None:
        """Set a run to be started now, as the page's buttons Retry and Run do."""
        details = {"scheduled_time": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
        state = {"type": "SCHEDULED", "name": name, "state_details": details}
        assert self.ask(f"/flow_runs/{run}/set_state", state=state)["status"] == "ACCEPT"

    def wait(self, run: str, seconds: float = 180) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self._client.get(f"/flow_runs/{run}").raise_for_status().json()
            if found["state"]["type"] in FINAL:
                return found
            time.sleep(0.5)
        log = (self.home / "flows.log").read_text(errors="replace")
        raise AssertionError(f"run {run} is {found['state']} after {seconds} s\n{log[-3000:]}")

    def tasks(self, run: str, attempt: int = 1) -> dict[str, str]:
        """Return the states of the tasks of one attempt at a run, by the tasks' names."""
        found = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {
            task["name"]: task["state"]["name"]
            for task in found
            if task["flow_run_run_count"] == attempt
        }

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.ask(
            "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}}, sort="UPDATED_DESC"
        )
        return {artifact["key"]: artifact["data"] for artifact in reversed(found)}
