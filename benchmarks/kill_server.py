"""What `kill_runs.py` needs of `usam up`: runs of both ways to start one, and their states."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows import local_server

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_SPAN = re.compile(r"embed shards (\d+) to (\d+) of")


class Server:
    """A local server in a folder of its own.

    Args:
        folder: its logs, database and cache.
        port: of 127.0.0.1.
        project: project file that is served.
    """

    def __init__(self, folder: Path, port: int, project: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["USAM_CACHE"] = str(folder)
        os.environ["PREFECT_RUNNER_POLL_FREQUENCY"] = "2"
        self._served = local_server.Served(port, str(project))
        self._client = httpx.Client(
            base_url=self._served.api,
            auth=partial(local_server.signed, folder=local_server.home()),
            trust_env=False,
            timeout=60,
        )
        self._project = project
        self._log = folder / "run.log"

    def up(self) -> None:
        """Start it, or what of it is gone."""
        local_server.up(self._served)
        known = local_server.client_environment(self._served)
        login = known.get("PREFECT_API_AUTH_STRING", "").partition(":")
        self._client = httpx.Client(
            base_url=self._served.api,
            auth=(login[0], login[2]) if login[0] else None,
            trust_env=False,
            timeout=60,
        )

    def down(self) -> None:
        """Stop it."""
        local_server.down()

    def start_run(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start `usam run` with more in its environment, through `kill_acts`."""
        words = [sys.executable, str(Path(__file__).with_name("kill_acts.py")), "run"]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*words, str(self._project)],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def last_words(self) -> str:
        """Return the last line that the last `usam run` printed."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"

    def start_served(self) -> str:
        """Ask for a run of the deployment, as the page does; return its id."""
        asked = {"deployments": {"name": {"any_": ["annotate-dataset"]}}}
        (found,) = self.ask("/deployments/filter", **asked)
        return self.ask(f"/deployments/{found['id']}/create_flow_run", parameters={})["id"]

    def ask(self, path: str, **body: Any) -> Any:
        """Return the server's answer; SQLite may be busy (503) for a moment."""
        for _ in range(20):
            answer = self._client.post(path, json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.5)
        return answer.raise_for_status().json()

    def newest_run(self) -> dict[str, Any] | None:
        """Return the run that was begun last."""
        found = self.ask("/flow_runs/filter", sort="START_TIME_DESC", limit=1)
        return found[0] if found else None

    def state(self, run: str, seconds: float = 0.0) -> str:
        """Return a run's state, waiting so long for its end."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self._client.get(f"/flow_runs/{run}").raise_for_status()
            state = answer.json()["state"]
            if state["type"] in ENDED or time.monotonic() >= deadline:
                return state["name"]
            time.sleep(0.5)

    def finished(self, run: str) -> int:
        """Return how many shards a run's tasks have finished."""
        tasks = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        ended = [task["name"] for task in tasks if task["state"]["type"] == "COMPLETED"]
        spans = [found for found in map(_SPAN.match, ended) if found]
        return sum(int(span[2]) - int(span[1]) + 1 for span in spans)

    def process(self, name: str) -> psutil.Process:
        """Return the process called `server` or `flows`."""
        return psutil.Process(int((local_server.home() / f"{name}.pid").read_text()))

    def run_processes(self) -> list[psutil.Process]:
        """Return the processes of served runs, the run's own first."""
        return self.process("flows").children(recursive=True)


def kill(process: psutil.Process) -> None:
    """Kill -9 one process, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=30)


def dask_workers(process: psutil.Process) -> list[psutil.Process]:
    """Return the Dask worker processes below a run."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found
