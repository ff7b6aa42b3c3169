"""A Prefect server and the served flows on this machine, started and stopped as one thing."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from flows import processes, secret
from usam_core.errors import UsamError, UserError
from usam_core.files.atomic import sweep, write_json
from usam_core.files.locks import only_one
from usam_core.sam.load import cache_folder
from usam_core.files.atomic import only_one, sweep, write_json
from usam_core.sam.download import cache_folder

HOST = "127.0.0.1"
PORT = 4200

_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Served:
    """What runs here.

    Attributes:
        port: where the server listens on 127.0.0.1.
        project: project file that the forms begin with, if one was given.
        cron: when that project is run by itself, if it is.
        timezone: the zone that `cron` means.
    """

    port: int = PORT
    project: str | None = None
    cron: str | None = None
    timezone: str = "UTC"

    @property
    def page(self) -> str:
        """Return the address of the UI."""
        return f"http://{HOST}:{self.port}"

    @property
    def api(self) -> str:
        """Return the address that Prefect's clients want."""
        return f"{self.page}/api"


def home() -> Path:
    """Return the folder of the local server: its database, logs and process numbers."""
    return cache_folder() / "server"


def running() -> Served | None:
    """Return what runs, or None if any part of it does not."""
    if secret.read(home()) is None:
        return None
    try:
        served = Served(**json.loads((home() / "served.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return served if all(processes.alive(home(), name) for name in ("server", "flows")) else None


def client_environment(served: Served) -> dict[str, str]:
    """Return the settings with which a Prefect client works with the local server."""
    return {
        "PREFECT_API_URL": served.api,
        "PREFECT_API_AUTH_STRING": secret.read(home()) or "",
        "PREFECT_HOME": str(home() / "prefect"),
    }


def up(wanted: Served) -> bool:
    """Start the server and the flows, and wait until both are there.

    Args:
        wanted: what is to run.

    Returns:
        False if exactly that runs already.

    Raises:
        UserError: something else of ours runs, the port is taken, or the folder is not ours.
        UsamError: a process ended, or did not come up in time.
    """
    folder = home()
    secret.private_folder(folder)
    with only_one(folder / ".lock", "the local server"):
        found = running()
        if found is not None:
            _same(found, wanted)
            return False
        sweep(folder, deep=False)
        # What a crash left: a server without flows, flows without a server, runs of either.
        processes.stop_all(folder, _STOP_SECONDS)
        _port_is_free(wanted.port)
        try:
            _start(folder, wanted)
        except BaseException:
            processes.stop_all(folder, _STOP_SECONDS)
            secret.forget(folder)
            raise
        write_json(folder / "served.json", asdict(wanted))
    return True


def down() -> bool:
    """Stop everything that `up` started, also after a crash; False if there was nothing."""
    folder = home()
    secret.private_folder(folder)
    with only_one(folder / ".lock", "the local server"):
        there = bool(processes.marked(folder))
        # The flows first: they tell the server which runs end with them.
        processes.stop(folder, "flows", _STOP_SECONDS)
        processes.stop(folder, "server", _STOP_SECONDS)
        processes.stop_all(folder, _STOP_SECONDS)
        secret.forget(folder)
        (folder / "served.json").unlink(missing_ok=True)
    return there


def _start(folder: Path, wanted: Served) -> None:
    password = secret.make(folder, wanted.page)
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
    _wait(folder, "server", lambda: _healthy(wanted))

    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    arguments = ["-m", "flows.serve", "--ready", str(ready), "--timezone", wanted.timezone]
    arguments += ["--project", wanted.project] if wanted.project else []
    arguments += ["--cron", wanted.cron] if wanted.cron else []
    processes.start(folder, "flows", arguments, environment)
    _wait(folder, "flows", ready.is_file)


_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The log of a run is read on its page; `usam` itself keeps Prefect's quiet.
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "usam_core",
}


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


def _healthy(served: Served) -> bool:
    try:
        return httpx.get(f"{served.api}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _port_is_free(port: int) -> None:
    with socket.socket() as probe:
        # As the server binds: a port that an earlier server has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST} is taken by another program ({error.strerror}); stop it, "
                "or choose another port: `usam up --port 4201`"
            ) from None


def _same(found: Served, wanted: Served) -> None:
    # What was left at its default was not asked for.
    other_port = wanted.port not in (PORT, found.port)
    asked = wanted.project is not None or wanted.cron is not None
    same = replace(wanted, port=found.port) == found
    if other_port or (asked and not same):
        project = f"the project {found.project}" if found.project else "no project"
        schedule = f"{found.cron} ({found.timezone})" if found.cron else "none"
        raise UserError(
            f"{found.page} runs already, with {project} and schedule {schedule}; "
            "to change that: `usam down`, then `usam up` again"
        )
