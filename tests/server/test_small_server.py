"""The small server of one run: it asks for a secret, and answers no foreign page."""

import os
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from flows import local_server
from tests.local_server import ROOT

pytestmark = pytest.mark.server

EVIL = {"Origin": "https://evil.example"}
STARTS_WITHIN = 120


@pytest.fixture
def environment(tmp_path):
    """Return the environment of a machine where Prefect was never used."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "USAM_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }


def small_server(process):
    """Return the server process of a run, and where it listens."""
    for child in psutil.Process(process.pid).children(recursive=True):
        words = child.cmdline()
        if "flows.guarded_server" in words:
            return child, f"http://127.0.0.1:{words[words.index('--port') + 1]}/api"
    return None


def test_it_lets_no_stranger_in_and_tells_its_secret_nowhere(environment, tiny_project, tmp_path):
    words = [sys.executable, "-m", "flows", "run", str(tiny_project), "--verbose"]
    log = tmp_path / "said"
    with log.open("w") as out:
        run = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=out, stderr=out)
    deadline = time.monotonic() + STARTS_WITHIN
    statuses = None
    while statuses is None and time.monotonic() < deadline and run.poll() is None:
        try:
            server, api = small_server(run)
            password = server.environ()["PREFECT_SERVER_API_AUTH_STRING"]
            known = {"Authorization": f"Basic {local_server.encoded(password)}"}
            ask = {"json": {}, "trust_env": False, "timeout": 30}
            answers = [
                httpx.post(f"{api}/flows/filter", headers=headers, **ask)
                for headers in ({}, {"Authorization": "Basic dXNhbTo="}, known | EVIL, known)
            ]
            statuses = [answer.status_code for answer in answers]
        except (TypeError, psutil.Error, httpx.ConnectError):
            time.sleep(0.1)  # not there yet
    assert run.wait(300) == 0, log.read_text()
    assert statuses == [401, 401, 403, 200]
    assert not any("access-control-allow-origin" in answer.headers for answer in answers)
    traces = [password.partition(":")[2].encode(), local_server.encoded(password).encode()]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"prefect.db", "said", "report.html"} <= {file.name for file in files}
    assert [f for f in files if any(trace in f.read_bytes() for trace in traces)] == []
