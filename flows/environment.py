"""What a run finds around it: home folders, proxies, Prefect's settings, and a server that answers.

A run needs a Prefect server. One that the user has named, by `PREFECT_API_URL` or by a profile, is
asked once, and has to answer. Otherwise the run starts a small one of its own, which no fault of
the user's home, database or proxies can keep from starting.
"""

import atexit
import contextlib
import io
import itertools
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout
from pydantic import ValidationError

from usam_core.cli import terminal
from usam_core.errors import TransientError, UsamError, UserError
from usam_core.sam.download import cache_folder

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_ASK = httpx.Timeout(30.0, connect=10.0)
_START_SECONDS = 180
_SPEAKS_AFTER = 20.0
_SPEAKS_EVERY = 30.0
_STOP_SECONDS = 5.0
_WORDS = 300
_DATABASE = "prefect.db"
_OWN_HOMES = 100

_held: list[FileLock] = []


def settle() -> None:
    """Make this process's environment one that libraries can start in; before any of them is used.

    A folder of this user's in the system's temporary one takes the place of a home folder that is
    not known, and of usam's cache folder that cannot be made. This machine itself is never asked
    through a proxy.
    """
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if stream is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's letters do not have is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    try:
        Path.home()
    except RuntimeError:  # a user without a name, as containers have them
        os.environ["HOME"] = str(_temporary())
    if not cache_folder().is_dir() and not _writable(cache_folder()):
        os.environ["USAM_CACHE"] = str(_temporary())
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    names += [name for name in _LOOPBACK if name not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def prepare(local: bool) -> None:
    """Choose the server of this process's runs, and see that it answers.

    Args:
        local: the settings name what `usam up` started.

    Raises:
        UserError: a variable, a profile or an address cannot be used; the message says which.
        TransientError: the server that was named does not answer, or ours did not start in time.
        UsamError: ours ended while it started.
    """
    _check_proxies()
    _prefect_home()
    with _settings_errors(), contextlib.redirect_stderr(io.StringIO()):
        from prefect.context import get_settings_context, refresh_global_settings_context
        from prefect.settings import load_profiles

        found, profiles = get_settings_context(), load_profiles()
    wanted = os.environ.get("PREFECT_PROFILE") or profiles.active_name
    if wanted not in profiles.names:
        raise UserError(
            f"{found.settings.profiles_path}: no profile {wanted!r}, which PREFECT_PROFILE or "
            f"`active` names; expected one of {', '.join(sorted(profiles.names))}, or no such line"
        )
    url = found.settings.api.url
    if url:
        _ask(url, _chosen_by(found, local), found.settings)
        return
    os.environ.update(_start_small_server(found.settings))
    refresh_global_settings_context()


def lost_server(error: BaseException) -> str | None:
    """Return what a failed request of Prefect's says if it ended the run, else None."""
    from prefect.exceptions import PrefectHTTPStatusError

    seen: BaseException | None = error
    # An error of ours says itself what happened, also where a request of ours was its cause.
    while seen is not None and not isinstance(seen, UsamError):
        if isinstance(seen, httpx.TransportError):
            return f"does not answer any more ({seen!r}); start it again (`usam up`)"
        if isinstance(seen, PrefectHTTPStatusError):
            return f"refused a request ({_words(seen)}); look at its log, and start it again"
        seen = seen.__cause__
    return None


def _check_proxies() -> None:
    """See that the variables of proxies and certificates are such that a client can be made.

    Raises:
        UserError: they are not.
    """
    given = [n for n in os.environ if n.lower() in _PROXIES and os.environ[n]]
    given += [n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(n)]
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL, OSError) as error:
        raise UserError(
            f"{', '.join(sorted(given))}: cannot be used ({_words(error)}); expected addresses of "
            "proxies such as http://host:port or socks5://host:port, and files of certificates "
            "that exist; mend or unset them"
        ) from None


def _prefect_home() -> None:
    """Give Prefect a home of ours where the user's cannot be written; profiles stay the user's."""
    home = _users_home()
    if _writable(home):
        return
    with contextlib.suppress(OSError):
        if (home / "profiles.toml").is_file():
            os.environ.setdefault("PREFECT_PROFILES_PATH", str(home / "profiles.toml"))
    os.environ["PREFECT_HOME"] = str(_own_folder())


def _users_home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


@contextlib.contextmanager
def _settings_errors() -> Iterator[None]:
    """Say in a sentence what Prefect cannot read of its settings."""
    try:
        yield
    except Exception as error:
        profiles = os.environ.get("PREFECT_PROFILES_PATH") or _users_home() / "profiles.toml"
        raise UserError(
            f"Prefect's settings cannot be read ({_words(error)}); mend or remove what is wrong "
            f"in the variables PREFECT_..., in {profiles}, or in .env, prefect.toml and "
            f"pyproject.toml of {Path.cwd()}"
        ) from error


def _chosen_by(found: Any, local: bool) -> str:
    """Return who named the server, and what to do to work without it."""
    if local:
        return "`usam up` started it: `usam down`, then `usam up` starts it again"
    if os.environ.get("PREFECT_API_URL"):
        return "PREFECT_API_URL names it: start or mend it, or unset the variable to run without"
    return (
        f"PREFECT_API_URL in the profile {found.profile.name!r} of {found.settings.profiles_path}, "
        "or in .env, prefect.toml or pyproject.toml here, names it: start or mend it, or remove "
        "the line to run without"
    )


def _ask(url: str, chosen: str, settings: Any) -> None:
    """See that a server that was named answers, takes us, and is one of Prefect's.

    Raises:
        UserError: the address, what we are to say who we are, or its version cannot be right.
        TransientError: it does not answer, or is not well.
    """
    from prefect import __version__
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    def wrong(what: str, kind: type[UsamError] = UserError) -> UsamError:
        return kind(f"the Prefect server {_without_secrets(url)} {what}; {chosen}")

    form = "an address such as http://127.0.0.1:4200/api"
    if not _is_url(url):
        raise wrong(f"cannot be asked: expected {form}")
    cloud = url.startswith(str(settings.cloud.api_url))
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client({"timeout": _ASK}, sync_client=True) as client,
        ):
            version = client.hello().text if cloud else client.api_version()
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            key = "PREFECT_API_KEY" if cloud else "PREFECT_API_AUTH_STRING"
            raise wrong(f"refuses us ({code}): set {key} to what it expects") from None
        if code >= 500:
            raise wrong(f"is not well ({code}): look at its log", TransientError) from None
        version = ""
    except httpx.HTTPError as error:
        raise wrong(f"does not answer ({_words(error)})", TransientError) from None
    except OSError as error:
        raise wrong(f"cannot be asked: its certificates are not to be read ({error})") from None
    except ValueError:
        version = ""
    if cloud:
        return
    if not isinstance(version, str) or not version[:1].isdigit():
        raise wrong(f"answers, but not as a Prefect API does: expected {form}, which ends in /api")
    if version.split(".")[0] != __version__.split(".")[0]:
        raise wrong(f"runs Prefect {version}, but here is {__version__}: expected the same")


def _start_small_server(settings: Any) -> dict[str, str]:
    """Start a server for this process alone; return the settings of its clients.

    It keeps its record in the user's Prefect home where that can be, else in one of ours: a
    database that is damaged, or of another version of Prefect, or that another run is using, does
    not stop a run. A database that the user has chosen by its address is used as it is.
    """
    if "connection_url" in settings.server.database.model_fields_set:
        return _serve(_own_folder(), settings, {})
    user = Path(settings.home)
    # Ours are looked for only where the user's cannot be had.
    ours = (_own_folder() / str(number) for number in range(1, _OWN_HOMES))
    for home in itertools.chain([user], ours):
        if not _writable(home) or not _taken(home):
            continue
        file = home / _DATABASE
        trouble = _trouble(file)
        if trouble and home == user:
            _say(f"{file} {trouble}; it is left as it is, and this run is not recorded there")
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
            _say(f"{error}; another database is taken for this run")
    raise UsamError(f"{_own_folder()}: {_OWN_HOMES} runs at once, or none can be begun there")


def _serve(home: Path, settings: Any, more: dict[str, str]) -> dict[str, str]:
    secret = f"usam:{secrets.token_urlsafe(32)}"
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
        "PREFECT__SERVER_FINAL": "1",
    }
    with socket.socket() as probe:
        probe.bind((_LOOPBACK[0], 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    words += ["--host", _LOOPBACK[0], "--port", str(port), "--log-level", "error"]
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
    url = f"http://{_LOOPBACK[0]}:{port}/api"
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
            raise UsamError(f"Prefect's small server did not start: {last[:_WORDS]} ({log})")
        waited = time.monotonic() - began
        if waited > seconds:
            raise TransientError(
                f"Prefect's small server did not come up within {seconds:.0f} s ({log}); wait "
                "until this machine is less busy, or set "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS to more seconds"
            )
        if waited > speaks:
            speaks += _SPEAKS_EVERY
            _say(f"Prefect's small server is starting: {waited:.0f} s of at most {seconds:.0f}")
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


def _own_folder() -> Path:
    """Return where our own Prefect homes are: in usam's cache, or in a temporary folder."""
    folder = cache_folder() / "prefect"
    return folder if _writable(folder) else _temporary() / "prefect"


def _temporary() -> Path:
    """Return this user's own folder in the system's temporary one.

    Raises:
        UserError: there is no place at all that can be written.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"usam-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
            # Another user may have made it to read along: never that one.
            folder = Path(tempfile.mkdtemp(prefix="usam-"))
    except OSError as error:
        raise UserError(
            f"no folder can be written, neither {cache_folder()} nor a temporary one "
            f"({_words(error)}); free space, or name a folder in USAM_CACHE and in TMPDIR"
        ) from error
    return folder


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"usam")
    except OSError:
        return False
    return True


def _is_url(url: str) -> bool:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def _without_secrets(url: str) -> str:
    """Return an address without the name and password that it may hold."""
    return str(httpx.URL(url).copy_with(userinfo=b"")) if _is_url(url) else repr(url)


def _words(error: BaseException) -> str:
    """Return what an error says, in one line."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _WORDS else f"{text[:_WORDS]} ..."


def _say(text: str) -> None:
    terminal.errors.print(f"usam: {text}", markup=False, highlight=False, soft_wrap=True)
