"""Processes in the background: found again whatever became of who started them; a small server.

Every process gets a mark in its environment, which the processes that it starts inherit. So all of
them are found by the mark, also those whose parent was killed, and no number of a process that
ended long ago is ever taken for one of ours.
"""

import atexit
import itertools
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from filelock import FileLock, Timeout

from flows.environment import WORDS, own_folder, say, writable
from usam_core.errors import TransientError, UsamError

HOST = "127.0.0.1"

_MARK = "USAM_SERVER_FOLDER"
_OWNER = "USAM_RUN_OWNER"
_LINES = 15
_SHOWS_ITSELF = 5.0
_START_SECONDS = 180
_SPEAKS_AFTER = 10.0
_SPEAKS_EVERY = 30.0
_STOP_SECONDS = 5.0
_DATABASE = "prefect.db"
_OWN_HOMES = 100

_held: list[FileLock] = []
_started: list[subprocess.Popen[bytes]] = []


def start(folder: Path, name: str, arguments: list[str], environment: dict[str, str]) -> int:
    """Start `python ARGUMENTS` in a session of its own, its output in `<name>.log`; its pid."""
    process = _spawn(arguments, folder / f"{name}.log", {**environment, _MARK: str(folder)})
    (folder / f"{name}.pid").write_text(f"{process.pid}\n", encoding="ascii")
    # For a moment after its start a process shows no environment, and so no mark.
    deadline = time.monotonic() + _SHOWS_ITSELF
    while process.poll() is None and not alive(folder, name) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.pid


def alive(folder: Path, name: str) -> bool:
    """Say whether the process that `start` began under this name still runs."""
    try:
        pid = int((folder / f"{name}.pid").read_text(encoding="ascii"))
        return _is_ours(psutil.Process(pid), folder)
    except (OSError, ValueError, psutil.Error):
        return False


def marked(folder: Path) -> list[psutil.Process]:
    """Return every live process that `start` began, and those that they began."""
    return [p for p in _processes() if p.pid != os.getpid() and _is_ours(p, folder)]


def stop(folder: Path, name: str, seconds: float) -> None:
    """Ask one process to end, and wait so long for it."""
    if alive(folder, name):
        process = psutil.Process(int((folder / f"{name}.pid").read_text(encoding="ascii")))
        process.terminate()
        psutil.wait_procs([process], timeout=seconds)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def stop_all(folder: Path, seconds: float) -> None:
    """End every marked process; those that do not listen are killed."""
    left = marked(folder)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=seconds)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=seconds)


def check_alive(folder: Path, name: str) -> None:
    """Raise a `UsamError` with the end of its log if the process has ended."""
    if alive(folder, name):
        return
    log = folder / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
    raise UsamError("\n".join([f"the {name} ended while it started; the end of {log}:", *lines]))


def mark_own() -> None:
    """Mark this process's children, so that `end_orphans` finds them should it be killed."""
    me = psutil.Process()
    os.environ[_OWNER] = f"{me.pid} {me.create_time()}"


def end_orphans() -> list[int]:
    """End what runs that were killed have left: servers of their own, Dask workers; their pids."""
    orphans = [process for process in _processes() if _owner_is_gone(process)]
    for process in orphans:
        with suppress(psutil.Error):
            process.terminate()
    return [process.pid for process in orphans]


def _processes() -> Iterator[psutil.Process]:
    """Yield what runs now.

    `psutil.process_iter` keeps what it has yielded: where a number was given to another process
    since, it yields the former one, which takes no signal.
    """
    for pid in psutil.pids():
        with suppress(psutil.Error):
            yield psutil.Process(pid)


def _owner_is_gone(process: psutil.Process) -> bool:
    try:
        owner = process.environ().get(_OWNER)
        if owner is None or process.status() == psutil.STATUS_ZOMBIE:
            return False
        pid, created = owner.split()
    except (psutil.Error, OSError, ValueError):
        return False
    try:
        # Another process may have the number by now.
        return psutil.Process(int(pid)).create_time() != float(created)
    except psutil.Error:
        return True


def _is_ours(process: psutil.Process, folder: Path) -> bool:
    try:
        mark = process.environ().get(_MARK)
        return process.status() != psutil.STATUS_ZOMBIE and mark == str(folder)
    except (psutil.Error, OSError):
        return False


def _spawn(arguments: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )


def new_secret() -> str:
    """Return a name and a password that nobody can guess."""
    return f"usam:{secrets.token_urlsafe(32)}"


def is_healthy(api: str) -> bool:
    """Say whether a Prefect server answers at the address of its API."""
    try:
        return httpx.get(f"{api}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def start_small_server(settings: Any) -> dict[str, str]:
    """Start a Prefect server for this process alone; return the settings of its clients.

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
        if not writable(home) or not hold(home / ".usam-run.lock"):
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


def has_small_server() -> bool:
    """Say whether this process has started one."""
    return bool(_started)


def _serve(home: Path, settings: Any, more: dict[str, str]) -> dict[str, str]:
    secret, server = new_secret(), settings.server
    client = {"PREFECT_API_AUTH_STRING": secret, "PREFECT_API_KEY": ""}
    environment = {
        **os.environ,
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
    log = home / "usam-server.log"
    arguments = ["-m", "flows.guarded_server", "--port", str(port)]
    process = _spawn(arguments, log, environment)
    atexit.register(_stop, process)
    _started.append(process)
    url = f"http://{HOST}:{port}/api"
    try:
        _wait(process, url, log, max(_START_SECONDS, server.ephemeral.startup_timeout_seconds))
    except BaseException:
        _stop(process)
        raise
    return {**client, "PREFECT_API_URL": url}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    began = time.monotonic()
    speaks = _SPEAKS_AFTER
    while not is_healthy(url):
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


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def hold(file: Path) -> bool:
    """Hold a lock until this process ends, however it ends; False if another process has it."""
    lock = FileLock(file)
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
        with closing(sqlite3.connect(database, timeout=5)) as connection:
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
