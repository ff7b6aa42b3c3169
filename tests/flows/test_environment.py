"""`usam run` in environments that go wrong: it runs, or one sentence says what is wrong and why."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from flows import environment, processes
from tests import usam_process
from tests.local_server import ROOT
from usam_core.errors import TransientError, UsamError, UserError

DEAD = "http://127.0.0.1:9/api"


@pytest.fixture(scope="module")
def surroundings(finished_project, tmp_path_factory):
    """Return a home folder for runs, whose cache has a database of Prefect's that is up to date."""
    home = tmp_path_factory.mktemp("home")
    done = usam(home, "run", str(finished_project), "--from", "report")
    assert done.returncode == 0, done.stderr
    return home


def usam(home, *arguments, **variables):
    """Run `usam` in a process that has imported nothing of Prefect's, in such an environment."""
    dropped = {k: None for k in os.environ if k.startswith(("PREFECT_", "USAM_", "XDG_"))}
    names = {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return usam_process.usam(*arguments, cwd=home, timeout=400, **dropped | names | variables)


def started(home, *arguments, stdout=subprocess.PIPE, **variables):
    """Run `usam` in a process that was started in such an environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "USAM_", "XDG_"))}
    names = {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env=kept | names,
        cwd=home if Path(home).is_dir() else "/",
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=400,
    )


def sentence(done, code):
    """Return the one line that a run which cannot begin has said."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("usam: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def asked(home, file, code, **variables):
    return sentence(usam(home, "run", str(file), **variables), code)


class Server:
    """An HTTP server on 127.0.0.1 that answers everything alike."""

    def __init__(self, status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_address[1]

    def __enter__(self):
        return f"http://127.0.0.1:{self.port}/api"

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.slow
def test_a_server_that_is_named_and_dead_is_told_at_once_with_who_named_it(tiny_project, tmp_path):
    home = tmp_path / "home"
    (home / ".prefect").mkdir(parents=True)
    said = asked(home, tiny_project, 1, PREFECT_API_URL=DEAD)
    assert f"{DEAD} does not answer" in said
    assert "unset the variable" in said
    lines = f'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "{DEAD}"\n'
    (home / ".prefect" / "profiles.toml").write_text(lines)
    said = asked(home, tiny_project, 1)
    assert f"profile 'lab' of {home}/.prefect/profiles.toml" in said
    assert "No such" in sentence(
        usam(home, "run", str(tiny_project), SSL_CERT_FILE="/no/such.pem"), 2
    )
    assert "PREFECT_PROFILE" in asked(home, tiny_project, 2, PREFECT_PROFILE="nix")
    (home / ".prefect" / "profiles.toml").write_text('active = "la')
    assert f"{home}/.prefect/profiles.toml" in asked(home, tiny_project, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "code", "expected"),
    [
        (200, b"<html>a wiki</html>", 2, "not as a Prefect API does"),
        (200, b'{"it": "is json"}', 2, "ends in /api"),
        (404, b"", 2, "not as a Prefect API does"),
        (401, b"", 2, "PREFECT_API_AUTH_STRING"),
        (500, b"", 1, "is not well (500)"),
        (200, b'"2.19.0"', 2, "runs Prefect 2.19.0"),
    ],
)
def test_a_server_that_cannot_be_ours(tiny_project, tmp_path, status, body, code, expected):
    with Server(status, body) as url:
        said = asked(tmp_path, tiny_project, code, PREFECT_API_URL=url)
    assert url in said
    assert expected in said


@pytest.mark.slow
def test_a_server_without_tls_or_an_address_that_is_none(tiny_project, tmp_path):
    with Server(200, b'"3.8.8"') as url:
        secure = url.replace("http:", "https:")
        assert "does not answer" in asked(tmp_path, tiny_project, 1, PREFECT_API_URL=secure)
    for address in ("127.0.0.1:4200/api", "banana", "ftp://127.0.0.1/api"):
        said = asked(tmp_path, tiny_project, 2, PREFECT_API_URL=address)
        assert "expected an address such as http://" in said
    said = asked(tmp_path, tiny_project, 2, PREFECT_CLIENT_MAX_RETRIES="many")
    assert "got 'many'" in said
    assert "socks4" in asked(tmp_path, tiny_project, 2, ALL_PROXY="socks4://127.0.0.1:9")


def with_database(folder, surroundings, kind):
    """Make a Prefect home whose database is of a kind."""
    folder.mkdir()
    file = folder / "prefect.db"
    if kind == "folder":
        file.mkdir()
        return
    with sqlite3.connect(surroundings / ".prefect" / "prefect.db") as whole:
        whole.execute("VACUUM INTO ?", (str(file),))
    if kind == "zero":
        file.write_bytes(b"")
    elif kind == "noise":
        file.write_bytes(os.urandom(5000))
    elif kind == "cut":
        file.write_bytes(file.read_bytes()[:100_000])
    elif kind == "newer":
        with sqlite3.connect(file) as changed:
            changed.execute("UPDATE alembic_version SET version_num = 'ffff00001111'")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["newer", "noise", "cut", "folder", "zero"])
def test_a_database_of_another_version_or_damaged_stops_no_run(
    finished_project, surroundings, tmp_path, kind
):
    prefect = tmp_path / "prefect"
    with_database(prefect, surroundings, kind)
    file = prefect / "prefect.db"
    before = None if kind == "folder" else file.read_bytes()
    words = ["run", str(finished_project), "--from", "report"]
    done = usam(surroundings, *words, PREFECT_HOME=str(prefect))
    assert done.returncode == 0, done.stderr
    if kind != "zero":
        assert f"{file} " in done.stderr
        assert "left as it is" in done.stderr
        assert file.is_dir() if before is None else file.read_bytes() == before


@pytest.mark.slow
def test_our_own_database_is_made_anew_when_it_is_damaged(finished_project, surroundings):
    variables = {"PREFECT_HOME": "/proc/nobody"}
    own = surroundings / ".cache" / "usam" / "prefect"
    own.mkdir(parents=True, exist_ok=True)
    (own / "prefect.db").write_bytes(b"noise" * 1000)
    done = usam(surroundings, "run", str(finished_project), "--from", "report", **variables)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(own / "prefect.db") as mended:
        assert mended.execute("SELECT count(*) FROM flow_run").fetchone() == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": "/proc/nobody", "TMPDIR": "/proc/nobody"},
        {"HOME": os.devnull, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {
            "HTTP_PROXY": "http://127.0.0.1:9",
            "https_proxy": "127.0.0.1:9",
            "ALL_PROXY": "socks5://127.0.0.1:9",
            "no_proxy": "example.org",
        },
    ],
    ids=["no home", "home is a file", "proxies"],
)
def test_a_run_needs_no_home_no_locale_and_no_proxy(finished_project, surroundings, variables):
    done = started(surroundings, "run", str(finished_project), "--from", "report", **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_runs_at_once_on_one_home_and_project(tiny_project, surroundings):
    ends = {}

    def run(name):
        ends[name] = usam(surroundings, "run", str(tiny_project))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.returncode for done in ends.values()] == [0, 0], [d.stderr for d in ends.values()]


@pytest.mark.slow
@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--json")])
def test_output_that_nobody_reads_or_that_does_not_fit(tmp_path, words):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        done = started(tmp_path, *words, stdout=gone)
    assert (done.returncode, done.stderr) == (1, "")
    with open("/dev/full", "w") as full:
        done = started(tmp_path, *words, stdout=full)
    assert "cannot be written: No space left on device" in sentence(done, 1)


def test_loopback_is_added_to_what_goes_without_a_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "lab.example, 127.0.0.1")
    monkeypatch.delenv("no_proxy", raising=False)
    environment.settle()
    assert os.environ["no_proxy"] == "lab.example,127.0.0.1,localhost,::1"
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]


def test_a_folder_that_another_user_laid_out_in_tmp_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.tempfile, "tempdir", str(tmp_path))
    laid = tmp_path / f"usam-{os.getuid()}"
    laid.mkdir(mode=0o755)
    laid.chmod(0o777)
    found = environment.temporary()
    assert found != laid
    assert found.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(laid)
    assert environment.temporary() == laid
    monkeypatch.setattr(environment.tempfile, "tempdir", "/proc/nobody")
    with pytest.raises(UserError, match="USAM_CACHE and in TMPDIR"):
        environment.temporary()


def begun(tmp_path, code):
    log = tmp_path / "log"
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out), log


def test_a_small_server_that_is_slow_is_waited_for_aloud_and_one_that_ends_is_not(
    tmp_path, monkeypatch, capsys
):
    assert processes._START_SECONDS >= 120
    monkeypatch.setattr(processes, "_SPEAKS_AFTER", 0)
    process, log = begun(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(TransientError, match="STARTUP_TIMEOUT_SECONDS to more"):
        processes._wait(process, DEAD, log, 1)
    processes._stop(process)
    assert "is starting: 0 s of at most 1" in capsys.readouterr().err
    process, log = begun(tmp_path, "raise SystemExit('no such revision')")
    with pytest.raises(UsamError, match="did not start: no such revision"):
        processes._wait(process, DEAD, log, 600)


def test_an_error_of_ours_is_not_taken_for_a_lost_server():
    away = TransientError("the hub is away")
    away.__cause__ = httpx.ConnectError("refused")
    assert environment.lost_server(away) is None
    assert "does not answer" in environment.lost_server(away.__cause__)
