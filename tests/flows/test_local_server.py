"""`usam up` and `usam down` where nothing has to be started."""

import socket
from functools import partial

import pytest

from tests import usam_process


@pytest.fixture
def usam(tmp_path):
    """Return a function that runs `usam` with a local server folder of its own."""

    return partial(usam_process.usam, USAM_CACHE=str(tmp_path / "cache"))


def test_a_taken_port_is_told_with_the_way_out(usam, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = usam("up", "--port", str(port))
    assert found.returncode == 2
    assert f"port {port} of 127.0.0.1 is taken by another program" in found.stderr
    assert "--port" in found.stderr
    assert not list((tmp_path / "cache" / "server").glob("*.pid"))


def test_there_is_nothing_to_stop(usam):
    found = usam("down")
    assert (found.returncode, found.stdout) == (0, "nothing was running\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cron", "0 2 * * *"], "--cron needs the project"),
        (["PROJECT", "--cron", "at night"], "every night at two"),
        (["PROJECT", "--cron", "0 2 * * *", "--timezone", "Mars/North"], "Mars/North"),
        (["nowhere.yaml"], "nowhere.yaml: cannot read the file"),
    ],
)
def test_a_mistake_is_told_before_anything_is_started(
    usam, tiny_project, tmp_path, arguments, said
):
    found = usam("up", *(str(tiny_project) if a == "PROJECT" else a for a in arguments))
    assert found.returncode == 2
    assert said in found.stderr
    assert not (tmp_path / "cache" / "server").exists()
