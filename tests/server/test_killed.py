"""A run whose process is killed tells nobody; the server says Crashed all the same."""

import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.server

STARTS_WITHIN = 120


def test_a_killed_run_of_the_command_line_ends_as_crashed(local, whole_run):
    words = [sys.executable, "-m", "flows", "run", str(local.project), "--from", "fit", "--refresh"]
    process = subprocess.Popen(words, env=local.environment, cwd=local.folder)
    deadline = time.monotonic() + STARTS_WITHIN
    while (run := newest(local)) is None and time.monotonic() < deadline:
        assert process.poll() is None, "it came to its end before it could be killed"
        time.sleep(0.1)
    process.kill()
    process.wait()
    ended = local.wait(run["id"], seconds=60)
    assert ended["state"]["type"] == "CRASHED"
    assert "run it again" in ended["state"]["message"]
    again = local.usam("run", str(local.project))
    assert again.returncode == 0, again.stderr


def newest(local):
    """Return the run that no deployment began and that runs now."""
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "deployment_id": {"is_null_": True}}
    found = local.ask("/flow_runs/filter", flow_runs=running)
    return found[0] if found else None
