"""The small Prefect server of one run: on this machine alone, and started whatever is there.

Its database is the user's where that can be used, else one of ours: see `start`.
"""

import atexit
import contextlib
import itertools
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from os import environ
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout

from flows.places import WORDS, own_folder, say, writable
from flows.secret import new_secret
from usam_core.errors import TransientError, UsamError

HOST = "127.0.0.1"

_START_SECONDS = 180
_SPEAKS_AFTER = 10.0
_SPEAKS_EVERY = 30.0
_STOP_SECONDS = 5.0
_DATABASE = "prefect.db"
_OWN_HOMES = 100

_held: list[FileLock] = []
_started: list[subprocess.Popen[bytes]] = []


def start(settings: Any) -> dict[str, str]:
    """Start a server for this process alone; return the settings of its clients.

    It keeps its record in the user's Prefect home where that can be, else in one of ours: a
    database that is damaged, or of another version of Prefect, or that another run is using, does
    not stop a run. A database that the user has chosen by its address is used as it is.
    """
    if "connection_url" in settings.server.database.model_fields_set:
        return _serve(own_folder(), settings, {})
    user = Path(settings.home)
    is_ours = user == own_folder()  # the user's own cannot be written
    # Ours are looked for only where the user's cannot be had.
    ours = (own_folder() / str(number) for number in range(1, _OWN_HOMES))
    for home in itertools.chain([user], ours):
        if not writable(home) or not _taken(home):
            continue
        file = home / _DATABASE
        trouble = _trouble(file)
        if trouble and home == user and not is_ours:
            say(f"{file} {trouble}; it is left as it is, and this run is not recorded there")
            continue
        if trouble:
            _remove_database(home)
        address = f"sqlite+aiosqlite:///{file.absolute()}"
        try:
            return _serve(home, settings, {"PREFECT_API_DATABASE_CONNECTION_URL": address})
        except TransientError:
            raise
        except UsamError as error:
            if home != user:
                raise
            say(f"{error}; another database is taken for this run")
    raise UsamError(f"{own_folder()}: {_OWN_HOMES} runs at once, or none can be begun there")


def is_started() -> bool:
    """Say whether this process has started a small server."""
    return bool(_started)


def _serve(home: Path, settings: Any, more: dict[str, str]) -> dict[str, str]:
    secret = new_secret()
    client = {"PREFECT_API_AUTH_STRING": secret, "PREFECT_API_KEY": ""}
    environment = {
        **environ,
        **settings.to_environment_variables(exclude_unset=True),
        **client,
        **more,
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(settings.profiles_path),
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "",  # it has no page
        # As Prefect starts such a server itself: no page, no services that nobody waits for.
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "flows.guarded_server", "--port", str(port)]
    log = home / "usam-server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    atexit.register(_stop, process)
    _started.append(process)
    url = f"http://{HOST}:{port}/api"
    try:
        _wait(
            process,
            url,
            log,
            max(_START_SECONDS, settings.server.ephemeral.startup_timeout_seconds),
        )
    except BaseException:
        _stop(process)
        raise
    return {**client, "PREFECT_API_URL": url}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    began = time.monotonic()
    speaks = _SPEAKS_AFTER
    while not _healthy(url):
        if process.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no word")
            raise UsamError(f"Prefect's small server did not start: {last[:WORDS]} ({log})")
        waited = time.monotonic() - began
        if waited > seconds:
            raise TransientError(
                f"Prefect's small server did not come up within {seconds:.0f} s ({log}); wait "
                "until this machine is less busy, or set "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS to more seconds"
            )
        if waited > speaks:
            speaks += _SPEAKS_EVERY
            say(f"Prefect's small server is starting: {waited:.0f} s of at most {seconds:.0f}")
        time.sleep(0.1)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _taken(home: Path) -> bool:
    """Hold a home until this process ends, however it ends; False if another run holds it."""
    lock = FileLock(home / ".usam-run.lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return False
    _held.append(lock)
    return True


def _trouble(database: Path) -> str | None:
    """Return what is wrong with a database of Prefect's, or None."""
    if not database.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                return f"is damaged ({' '.join(found.split())})"
            # Fails where it, or its folder, cannot be written.
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
            table = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
            if connection.execute(table).fetchone() is None:
                return None
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        return f"cannot be used ({error})"
    import prefect

    scripts = Path(prefect.__file__).parent / "server/database/_migrations/versions/sqlite"
    known = " ".join(file.name for file in scripts.glob("*.py"))
    for (revision,) in rows:
        if str(revision) not in known:
            return f"is of another version of Prefect than {prefect.__version__} ({revision})"
    return None


def _remove_database(home: Path) -> None:
    for file in home.glob(f"{_DATABASE}*"):
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)
