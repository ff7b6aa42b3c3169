"""What a foreign web page, or another user of this machine, gets from `usam up`: nothing."""

import json
import socket
import stat
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows import local_server, processes

pytestmark = pytest.mark.server

EVIL = {"Origin": "https://evil.example"}
SOCKETS = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled")
RUN_PER_SHELL = [{"prefect.deployments.steps.run_shell_script": {"script": "touch PWNED"}}]


@pytest.fixture
def known(local):
    """Return the header of those who know the secret."""
    return {"Authorization": f"Basic {local_server.encoded(local_server.read_secret(local.home))}"}


def send(local, method, path, body=None, **headers):
    content = None if body is None else json.dumps(body)
    url = f"{local.page}/api{path}"
    return httpx.request(method, url, content=content, headers=headers, trust_env=False, timeout=30)


def attacks(local):
    """Return what a stranger would ask, in the order of an attack."""
    fit = local.deployment("fit")
    planted = {key: fit[key] for key in ("name", "flow_id", "entrypoint", "path", "tags")}
    planted |= {"pull_steps": RUN_PER_SHELL, "enforce_parameter_schema": False}
    settings = {"settings": {"project_file": "/etc/passwd"}}
    return [
        ("POST", "/deployments/filter", {}),
        ("POST", "/deployments/", planted),
        ("POST", f"/deployments/{fit['id']}/create_flow_run", {"parameters": settings}),
        ("DELETE", f"/deployments/{fit['id']}", None),
        ("GET", f"/deployments/{fit['id']}", None),
        ("GET", "/admin/settings", None),
        ("OPTIONS", "/deployments/", None),
    ]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "knows", "status"),
    [
        (JSON, False, 401),
        (JSON | {"Authorization": "Basic dXNhbTo="}, False, 401),
        (JSON | EVIL, False, 403),
        (JSON | EVIL, True, 403),
        (JSON | {"Origin": "null"}, True, 403),
        (JSON | {"Origin": "http://127.0.0.1:9"}, True, 403),
        (JSON | {"Host": "evil.example"}, True, 400),
        (JSON | {"Host": "127.0.0.1.evil.example"}, True, 400),
        (EVIL | {"Content-Type": "text/plain"}, False, 403),
    ],
)
def test_a_stranger_neither_reads_nor_makes_nor_runs_anything(local, known, headers, knows, status):
    before = [local.ask(f"/{kind}/filter") for kind in ("deployments", "flow_runs")]
    for method, path, body in attacks(local):
        answer = send(local, method, path, body, **headers, **(known if knows else {}))
        assert answer.status_code == status, (method, path, answer.text)
        assert "access-control-allow-origin" not in answer.headers
        assert "fit" not in answer.text
    after = [local.ask(f"/{kind}/filter") for kind in ("deployments", "flow_runs")]
    for one, other in zip(before, after, strict=True):
        assert {row["id"] for row in one} == {row["id"] for row in other}
    assert not list(Path(local.folder).rglob("PWNED"))


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_is_not_called_json_is_not_taken_as_json(local, known, kind):
    headers = known | ({"Content-Type": kind} if kind else {})
    answer = send(local, "POST", "/deployments/filter", {}, **headers)
    assert answer.status_code == httpx.codes.UNSUPPORTED_MEDIA_TYPE
    assert send(local, "POST", "/deployments/filter", {}, **known, **JSON).is_success


@pytest.mark.parametrize("path", SOCKETS)
def test_no_socket_talks_to_a_stranger(local, path):
    url = f"{local.page.replace('http', 'ws')}/api/{path}"
    password = local_server.read_secret(local.home)
    rebound = url.replace("127.0.0.1", "evil.example")
    for address, origin in ((url, EVIL["Origin"]), (rebound, None)):
        here = socket.create_connection(("127.0.0.1", local.port))
        with pytest.raises(InvalidStatus) as refused:
            connect(address, sock=here, origin=origin, subprotocols=["prefect"], proxy=None)
        assert refused.value.response.status_code == httpx.codes.FORBIDDEN
    for token in (None, "", "usam:guess"):
        with connect(url, subprotocols=["prefect"], proxy=None) as talk:
            talk.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed):
                talk.recv(timeout=10)
    with pytest.raises((ConnectionClosed, InvalidStatus)), connect(url, proxy=None) as talk:
        talk.recv(timeout=10)
    with connect(url, subprotocols=["prefect"], proxy=None) as talk:
        talk.send(json.dumps({"type": "auth", "token": password}))
        assert json.loads(talk.recv(timeout=10)) == {"type": "auth_success"}


def test_a_run_of_a_file_that_is_no_project_does_not_show_it(local, tmp_path):
    file = tmp_path / "passwd"
    file.write_text("root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:hunter2\n")
    run = local.run("fit", project_file=str(file))
    assert run["state"]["type"] == "FAILED"
    assert str(file) in run["state"]["message"]
    for content in ("root:x", "daemon", "hunter2"):
        assert content not in run["state"]["message"]


def test_only_its_owner_can_reach_the_secret(local):
    for file in ("auth", "open.html"):
        assert stat.S_IMODE((local.home / file).stat().st_mode) == 0o600
    assert stat.S_IMODE(local.home.stat().st_mode) == 0o700


def test_a_second_up_keeps_the_secret(local):
    before = local_server.read_secret(local.home)
    again = local.usam("up", "--json")
    assert again.returncode == 0, again.stderr
    assert local_server.read_secret(local.home) == before
    where = json.loads(again.stdout)
    assert where["open"] == str(local.home / "open.html")
    assert before not in again.stdout


def test_a_guess_opens_nothing_and_learns_nothing(local):
    url = local.page + local_server.OPEN
    password = local_server.read_secret(local.home)
    token = local_server.encoded(password)
    ask = {"trust_env": False, "timeout": 30}
    for given in ("", "usam:guess", token):
        answer = httpx.post(url, data={"secret": given}, **ask)
        assert answer.status_code == httpx.codes.FORBIDDEN
        assert token not in answer.text
        assert password not in answer.text
    assert httpx.post(url, content=b"secret=" + b"a" * 10_000, **ask).status_code == 413
    assert httpx.get(url, params={"secret": password}, **ask).status_code == 405
    right = httpx.post(url, data={"secret": password}, headers={"Origin": "null"}, **ask)
    assert token in right.text
    assert right.headers["Cache-Control"] == "no-store"


def test_the_secret_is_in_no_command_line_log_database_or_result(local, whole_run):
    password = local_server.read_secret(local.home)
    traces = [password.partition(":")[2].encode(), local_server.encoded(password).encode()]
    # A run of the terminal as well, with all that it has to say.
    run = local.usam("run", str(local.project), "--from", "report", "--refresh", "--verbose")
    assert run.returncode == 0, run.stderr
    said = (run.stdout + run.stderr).encode()
    assert not any(trace in said for trace in traces)
    assert len(processes.marked(local.home)) >= 2
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or []).encode()
        assert not any(trace in line for trace in traces), process.info["cmdline"]
    files = [file for file in local.folder.rglob("*") if file.is_file()]
    assert {"prefect.db", "server.log", "flows.log", "report.html"} <= {file.name for file in files}
    holders = {file.name for file in files if any(trace in file.read_bytes() for trace in traces)}
    assert holders == {"auth", "open.html"}
