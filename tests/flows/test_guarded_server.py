"""The guard before Prefect's server: which hosts, origins and bodies it lets through."""

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from flows.guarded_server import Guard

SECRET = "usam:s3cret"


@pytest.fixture(scope="module")
def guard():
    """Return a client of a guard before an application that says yes."""
    return TestClient(Guard(PlainTextResponse("yes"), SECRET))


def ask(guard, method="POST", **headers):
    plain = {"Host": "127.0.0.1:4200", "Content-Type": "application/json"}
    return guard.request(method, "/api/x", content=b"{}", headers=plain | headers)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:4200", "localhost:14200", "LOCALHOST:1", "[::1]:4200"]
)
def test_this_machine_by_its_names_is_let_through(guard, host):
    answer = ask(guard, Host=host, Origin=f"http://{host}")
    assert answer.text == "yes"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(name=NAME, port=st.integers(1, 65535), own=st.sampled_from(["127.0.0.1", "localhost"]))
def test_no_other_name_is(guard, name, port, own):
    for host in (f"{own}.{name}", f"{name}.{own}", f"{own}@{name}", f"{name}@{own}:{port}"):
        assert ask(guard, Host=host).status_code == 400
    if name not in ("127.0.0.1", "localhost"):
        assert ask(guard, Host=f"{name}:{port}").status_code == 400
        assert ask(guard, Origin=f"http://{name}:{port}").status_code == 403


@given(port=st.integers(1, 65535).filter(lambda port: port != 4200))
def test_another_port_of_this_machine_is_another_origin(guard, port):
    assert ask(guard, Origin=f"http://127.0.0.1:{port}").status_code == 403
    assert ask(guard, Origin="https://127.0.0.1:4200").status_code == 403
    assert ask(guard, Origin="http://localhost:4200").status_code == 403


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("", 415),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_is_json_and_says_so(guard, kind, status, method):
    assert ask(guard, method, **{"Content-Type": kind}).status_code == status


def test_a_body_of_unknown_length_is_a_body(guard):
    headers = {"Host": "127.0.0.1", "Content-Type": "text/plain"}
    answer = guard.post("/api/x", content=iter([b"{}"]), headers=headers)
    assert answer.status_code == 415


def test_two_hosts_or_two_origins_are_not_one(guard):
    for twice in (
        [("Host", "127.0.0.1"), ("Host", "evil.example")],
        [("Host", "127.0.0.1"), ("Origin", "http://127.0.0.1"), ("Origin", "http://evil.example")],
    ):
        assert guard.get("/api/x", headers=twice).status_code in (400, 403)
