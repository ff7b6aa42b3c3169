"""A Prefect server and the served flows on this machine, started and stopped as one thing.

Its secret is made at its start, readable by its owner alone. Clients send it as HTTP basic
authentication, as Prefect's own do. A browser gets it from a file that posts it to the server, so
it stands in no address, no history and no list of processes.
"""

import base64
import html
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from flows import processes
from usam_core.errors import UsamError, UserError
from usam_core.files.atomic import disk_errors, only_one, sweep, write_json
from usam_core.sam.load import cache_folder

PORT = 4200
OPEN = "/usam/open"
"""Where the browser's file posts the secret to."""

_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.3
_SECRET, _PAGE, _SERVED = "auth", "open.html", "served.json"
_HTML = """\
<!doctype html>
<meta charset="utf-8">
<title>usam</title>
<form method="post" action="{action}">
<input type="hidden" name="secret" value="{secret}">
<button>Open the page of usam</button>
</form>
<script>document.forms[0].submit()</script>
"""
_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The log of a run is read on its page; `usam` itself keeps Prefect's quiet.
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "usam_core",
}


@dataclass(frozen=True)
class Served:
    """What runs here: the server's port on 127.0.0.1, the project file that the forms begin with,
    and when that project runs by itself, in a time zone.
    """

    port: int = PORT
    project: str | None = None
    cron: str | None = None
    timezone: str = "UTC"

    @property
    def page(self) -> str:
        """Address of the UI."""
        return f"http://{processes.HOST}:{self.port}"

    @property
    def api(self) -> str:
        """Address that Prefect's clients want."""
        return f"{self.page}/api"


def home() -> Path:
    """Return the folder of the local server: its database, logs and process numbers."""
    return cache_folder() / "server"


def running() -> Served | None:
    """Return what runs, or None if any part of it does not."""
    if read_secret(home()) is None:
        return None
    try:
        served = Served(**json.loads((home() / _SERVED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return served if all(processes.alive(home(), name) for name in ("server", "flows")) else None


def client_environment(served: Served) -> dict[str, str]:
    """Return the settings with which a Prefect client works with the local server."""
    return {
        "PREFECT_API_URL": served.api,
        "PREFECT_API_AUTH_STRING": read_secret(home()) or "",
        "PREFECT_HOME": str(home() / "prefect"),
    }


def up(wanted: Served) -> bool:
    """Start the server and the flows and wait for both; False if exactly that runs already.

    Raises:
        UserError: something else of ours runs, the port is taken, or the folder is not ours.
        UsamError: a process ended, or did not come up in time.
    """
    folder = home()
    private_folder(folder)
    with only_one(folder / ".lock", "the local server"):
        served = running()
        if served is not None:
            _check_same(served, wanted)
            return False
        sweep(folder, deep=False)
        # What a crash left: a server without flows, flows without a server, runs of either.
        processes.stop_all(folder, _STOP_SECONDS)
        _check_port(wanted.port)
        try:
            _start(folder, wanted)
        except BaseException:
            processes.stop_all(folder, _STOP_SECONDS)
            forget_secret(folder)
            raise
        write_json(folder / _SERVED, asdict(wanted))
    return True


def down() -> bool:
    """Stop everything that `up` started, also after a crash; False if there was nothing."""
    folder = home()
    private_folder(folder)
    with only_one(folder / ".lock", "the local server"):
        there = bool(processes.marked(folder))
        # The flows first: they tell the server which runs end with them.
        processes.stop(folder, "flows", _STOP_SECONDS)
        processes.stop(folder, "server", _STOP_SECONDS)
        processes.stop_all(folder, _STOP_SECONDS)
        forget_secret(folder)
        (folder / _SERVED).unlink(missing_ok=True)
    return there


def _start(folder: Path, wanted: Served) -> None:
    password = make_secret(folder, wanted.page)
    environment = {**os.environ, **_SETTINGS, **client_environment(wanted)}
    environment.pop("PREFECT_PROFILE", None)
    guarded = {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": wanted.page,
        # The page asks the server it came from, whatever name and port that has for the browser.
        "PREFECT_UI_API_URL": "/api",
    }
    arguments = ["-m", "flows.guarded_server", "--port", str(wanted.port)]
    processes.start(folder, "server", arguments, environment | guarded)
    _wait(folder, "server", lambda: processes.is_healthy(wanted.api))

    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    arguments = ["-m", "flows.serve", "--ready", str(ready), "--timezone", wanted.timezone]
    arguments += ["--project", wanted.project] if wanted.project else []
    arguments += ["--cron", wanted.cron] if wanted.cron else []
    processes.start(folder, "flows", arguments, environment)
    _wait(folder, "flows", ready.is_file)


def _wait(folder: Path, name: str, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not done():
        processes.check_alive(folder, name)
        if time.monotonic() > deadline:
            raise UsamError(
                f"the {name} did not come up within {_START_SECONDS:.0f} s; "
                f"see {folder / f'{name}.log'}"
            )
        time.sleep(_POLL_SECONDS)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        # As the server binds: a port that an earlier server has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((processes.HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} of {processes.HOST} is taken by another program ({error.strerror}); "
                "stop it, or choose another port: `usam up --port 4201`"
            ) from None


def _check_same(served: Served, wanted: Served) -> None:
    # What was left at its default was not asked for.
    other_port = wanted.port not in (PORT, served.port)
    asked = wanted.project is not None or wanted.cron is not None
    if other_port or (asked and replace(wanted, port=served.port) != served):
        project = f"the project {served.project}" if served.project else "no project"
        schedule = f"{served.cron} ({served.timezone})" if served.cron else "none"
        raise UserError(
            f"{served.page} runs already, with {project} and schedule {schedule}; "
            "to change that: `usam down`, then `usam up` again"
        )


def private_folder(folder: Path) -> None:
    """Make a folder that nobody but its owner can enter, or close the one that is there.

    Raises a `UserError` if it is another user's, or a link that another user has put there.
    """
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # Windows has no such numbers, and cache folders lie in a user's own.
        me = os.getuid() if hasattr(os, "getuid") else folder.stat().st_uid
        mine = folder.is_dir() and {folder.lstat().st_uid, folder.stat().st_uid} == {me}
        if not mine:
            raise UserError(
                f"{folder}: expected a folder of this user's own, for the local server's password, "
                "database and logs; remove it, or name another cache folder in USAM_CACHE"
            )
        folder.chmod(0o700)


def make_secret(folder: Path, page: str) -> str:
    """Write a new secret, and the file that opens `page` in a browser; return the secret."""
    secret = processes.new_secret()
    form = _HTML.format(action=html.escape(page + OPEN), secret=html.escape(secret))
    for file, text in ((folder / _SECRET, secret), (opener(folder), form)):
        file.unlink(missing_ok=True)
        # A new file: what another program holds open, or a link in its place, gets nothing.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as out:
            out.write(text)
    return secret


def read_secret(folder: Path) -> str | None:
    """Return the secret of the server that runs, or None if there is none."""
    try:
        return (folder / _SECRET).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None


def forget_secret(folder: Path) -> None:
    """Remove the secret and the file that opens the page."""
    (folder / _SECRET).unlink(missing_ok=True)
    opener(folder).unlink(missing_ok=True)


def opener(folder: Path) -> Path:
    """Return the file that a person opens in a browser."""
    return folder / _PAGE


def encoded(secret: str) -> str:
    """Return the secret as basic authentication sends it, and as Prefect's pages keep it."""
    return base64.b64encode(secret.encode()).decode()


def signed(request: httpx.Request, folder: Path) -> httpx.Request:
    """Put the secret of the server that runs now on a request of httpx."""
    request.headers["Authorization"] = f"Basic {encoded(read_secret(folder) or '')}"
    return request


def runs_folder() -> Path:
    """Return where the runs of this machine have their locks.

    A killed process tells nobody. So a run of the local server holds a lock of its own while its
    process lives, which the system frees however the process ends: a lock that can be taken belongs
    to a run that is over.
    """
    return home() / "runs"


def hold_run(flow: Any, run: Any, state: Any) -> None:
    """Hold a run's lock until this process ends; a hook for when a flow begins to run.

    The run is as good without it; only its end by a kill would not be seen.
    """
    del flow, state
    runs_folder().mkdir(parents=True, exist_ok=True)
    processes.hold(runs_folder() / str(run.id))
