"""One `usam up` for all tests that need a real server: its processes, database and port."""

import os
import signal
from datetime import UTC, datetime, timedelta

import pytest

from flows import processes
from tests.conftest import write_tiny_project
from tests.local_server import LocalServer


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """Return a running local server with every flow served and a tiny project every night."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "project").mkdir()
    server = LocalServer(folder, write_tiny_project(folder / "project"))
    # Half a day away: the run of the night is not to begin by itself while the tests run.
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    arguments = [str(server.project), "--cron", f"0 {hour} * * *", "--timezone", "UTC"]
    try:
        up = server.usam("up", *arguments, "--port", str(server.port))
        assert up.returncode == 0, up.stdout + up.stderr
        yield server
    finally:
        # As after a crash: what served the flows is gone, and cannot end what it began.
        if processes.alive(server.home, "flows"):
            os.kill(int((server.home / "flows.pid").read_text()), signal.SIGKILL)
        down = server.usam("down")
    assert down.stdout.strip() == "stopped", down.stderr
    assert processes.marked(server.home) == []
    assert not {"auth", "open.html"} & {file.name for file in server.home.iterdir()}


@pytest.fixture(scope="session")
def whole_run(local):
    """Return the finished first run of the whole job."""
    return local.run("annotate-dataset")
