"""The quality gate on a real server: the run fails and shows why, and an automation tells it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from tests.local_server import ROOT

pytestmark = pytest.mark.server


@pytest.fixture
def received():
    """Return the address of a receiver on 127.0.0.1, and the list of what it got."""
    got = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/notice", got
    server.shutdown()
    server.server_close()


@pytest.fixture
def strict_gate(local):
    """Let no run pass; the other tests' project file comes back."""
    before = local.project.read_text()
    gate = {"gate": {"max_covered": None, "min_miou": 1.0}}
    local.project.write_text(yaml.safe_dump(yaml.safe_load(before) | gate))
    yield
    local.project.write_text(before)


def notify(local, *arguments):
    script = str(ROOT / "deployments" / "notify.py")
    own = {"PREFECT_HOME": str(local.folder / "client")}
    return local.python(script, *arguments, **local.client, **own)


def test_a_run_that_does_not_pass_fails_with_pictures_and_a_notice(
    local, whole_run, strict_gate, received
):
    url, got = received
    for _ in range(2):  # the second time replaces the first: one notice, not two
        done = notify(local, "--url", url)
        assert done.returncode == 0, done.stdout + done.stderr
    failed = local.run("annotate-dataset", start="evaluate")
    assert failed["state"]["type"] == "FAILED"
    assert "did not pass the quality gate: min_miou: mIoU is" in failed["state"]["message"]
    artifact = local.artifacts(failed["id"])["quality-gate"]
    assert "min_miou: mIoU is" in artifact
    assert "data:image/jpeg;base64," in artifact
    deadline = time.monotonic() + 30
    while not got and time.monotonic() < deadline:
        time.sleep(0.2)
    (notice,) = got
    assert "tiny did not pass the quality gate:\n* min_miou: mIoU is" in notice["text"]
    assert f"{local.page}/runs/flow-run/{failed['id']}" in notice["text"]

    assert notify(local, "--remove").stdout.strip() == "removed"
    assert notify(local, "--remove").stdout.strip() == "there was none"


def test_an_address_that_is_none_is_refused(local):
    done = notify(local, "--url", "hooks.example/x")
    assert done.returncode == 2
    assert "hooks.example/x" in done.stderr
