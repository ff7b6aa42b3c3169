"""What a run finds around it: places to write to, proxies, and a Prefect server that answers.

A run needs a Prefect server. One that the user has named, by `PREFECT_API_URL` or by a profile, is
asked once, and has to answer. Otherwise the run starts a small one of its own, which no fault of
the user's home, database or proxies can keep from starting.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usam_core.cli import terminal
from usam_core.errors import TransientError, UsamError, UserError
from usam_core.sam.load import cache_folder

WORDS = 300
"""So many letters of another program's message are shown."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


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
        os.environ["HOME"] = str(temporary())
    if not cache_folder().is_dir() and not writable(cache_folder()):
        os.environ["USAM_CACHE"] = str(temporary())
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in direct.split(",") if name.strip()]
    names += [name for name in _LOOPBACK if name not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def own_folder() -> Path:
    """Return where our own Prefect homes are: in usam's cache, or in a temporary folder."""
    folder = cache_folder() / "prefect"
    return folder if writable(folder) else temporary() / "prefect"


def temporary() -> Path:
    """Return this user's folder in the system's temporary one, or raise a `UserError`."""
    try:
        if not hasattr(os, "getuid"):  # Windows, where the temporary folder is the user's own
            folder = Path(tempfile.gettempdir()) / "usam"
            folder.mkdir(exist_ok=True)
            return folder
        folder = Path(tempfile.gettempdir()) / f"usam-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        stat = folder.lstat()
        if stat.st_uid != os.getuid() or stat.st_mode & 0o077 or folder.is_symlink():
            # Another user may have made it to read along: never that one.
            folder = Path(tempfile.mkdtemp(prefix="usam-"))
    except OSError as error:
        raise UserError(
            f"no folder can be written, neither {cache_folder()} nor a temporary one "
            f"({words(error)}); free space, or name a folder in USAM_CACHE and in TMPDIR"
        ) from error
    return folder


def writable(folder: Path) -> bool:
    """Say whether a file can be written in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"usam")
    except OSError:
        return False
    return True


def words(error: BaseException) -> str:
    """Return the message of an error, in one line."""
    from pydantic import ValidationError

    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= WORDS else f"{text[:WORDS]} ..."


def say(text: str) -> None:
    """Print a line on stderr, where it disturbs no `--json`."""
    terminal.print_line(f"usam: {text}", terminal.errors)


def prepare(local: bool) -> None:
    """Choose the server of this process's runs, and see that it answers.

    Args:
        local: the settings name what `usam up` started.

    Raises:
        UserError: a variable, a profile or an address cannot be used; the message says which.
        TransientError: the server that was named does not answer, or ours did not start in time.
        UsamError: ours ended while it started.
    """
    from flows.processes import start_small_server

    _check_proxies()
    home = _users_home()
    if not writable(home):  # then Prefect's is one of ours; profiles stay the user's
        with contextlib.suppress(OSError):
            if (home / "profiles.toml").is_file():
                os.environ.setdefault("PREFECT_PROFILES_PATH", str(home / "profiles.toml"))
        os.environ["PREFECT_HOME"] = str(own_folder())
    with _settings_errors(), contextlib.redirect_stderr(io.StringIO()):
        from prefect.context import get_settings_context, refresh_global_settings_context
        from prefect.settings import load_profiles

        context, profiles = get_settings_context(), load_profiles()
    wanted = os.environ.get("PREFECT_PROFILE") or profiles.active_name
    if wanted not in profiles.names:
        raise UserError(
            f"{context.settings.profiles_path}: no profile {wanted!r}, which PREFECT_PROFILE or "
            f"`active` names; expected one of {', '.join(sorted(profiles.names))}, or no such line"
        )
    url = context.settings.api.url
    if url:
        _ask(url, _chosen_by(context, local), context.settings)
        return
    os.environ.update(start_small_server(context.settings))
    refresh_global_settings_context()


def lost_server(error: BaseException) -> str | None:
    """Return the message of a failed request of Prefect's if it ended the run, else None."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    from flows.processes import has_small_server

    again = "" if has_small_server() else "; start it again (`usam up`)"
    cause: BaseException | None = error
    # An error of ours says itself what happened, also where a request of ours was its cause.
    while cause is not None and not isinstance(cause, UsamError):
        if isinstance(cause, httpx.TransportError):
            return f"does not answer any more ({cause!r}){again}"
        if isinstance(cause, PrefectHTTPStatusError):
            return f"refused a request ({words(cause)}); look at its log{again}"
        cause = cause.__cause__
    return None


def _check_proxies() -> None:
    """See that the variables of proxies and certificates are such that a client can be made."""
    import httpx

    names = [n for n in os.environ if n.lower() in _PROXIES and os.environ[n]]
    names += [n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(n)]
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL, OSError) as error:
        raise UserError(
            f"{', '.join(sorted(names))}: cannot be used ({words(error)}); expected addresses of "
            "proxies such as http://host:port or socks5://host:port, and files of certificates "
            "that exist; mend or unset them"
        ) from None


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
            f"Prefect's settings cannot be read ({words(error)}); mend or remove what is wrong "
            f"in the variables PREFECT_..., in {profiles}, or in .env, prefect.toml and "
            f"pyproject.toml of {Path.cwd()}"
        ) from error


def _chosen_by(context: Any, local: bool) -> str:
    """Return who named the server, and what to do to work without it."""
    if local:
        return "`usam up` started it: `usam down`, then `usam up` starts it again"
    if os.environ.get("PREFECT_API_URL"):
        return "PREFECT_API_URL names it: start or mend it, or unset the variable to run without"
    place = f"the profile {context.profile.name!r} of {context.settings.profiles_path}"
    return (
        f"PREFECT_API_URL in {place}, or in .env, prefect.toml or pyproject.toml here, names it: "
        "start or mend it, or remove the line to run without"
    )


def _ask(url: str, chosen: str, settings: Any) -> None:
    """See that a server that was named answers, takes us, and is one of Prefect's."""
    import httpx
    from prefect import __version__
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        parts = httpx.URL(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.host)
    except httpx.InvalidURL:
        is_url = False
    # Without the name and password that an address may hold.
    shown = str(parts.copy_with(userinfo=b"")) if is_url else repr(url)

    def wrong(what: str, kind: type[UsamError] = UserError) -> UsamError:
        return kind(f"the Prefect server {shown} {what}; {chosen}")

    form = "an address such as http://127.0.0.1:4200/api"
    if not is_url:
        raise wrong(f"cannot be asked: expected {form}")
    cloud = url.startswith(str(settings.cloud.api_url))
    timeout = httpx.Timeout(30.0, connect=10.0)
    version: object = ""
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client({"timeout": timeout}, sync_client=True) as client,
        ):
            version = client.hello().text if cloud else client.api_version()
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            key = "PREFECT_API_KEY" if cloud else "PREFECT_API_AUTH_STRING"
            raise wrong(f"refuses us ({code}): set {key} to what it expects") from None
        if code >= 500:
            raise wrong(f"is not well ({code}): look at its log", TransientError) from None
    except httpx.HTTPError as error:
        raise wrong(f"does not answer ({words(error)})", TransientError) from None
    except OSError as error:
        raise wrong(f"cannot be asked: its certificates are not to be read ({error})") from None
    except ValueError:
        pass  # no version
    if cloud:
        return
    if not isinstance(version, str) or not version[:1].isdigit():
        raise wrong(f"answers, but not as a Prefect API does: expected {form}, which ends in /api")
    if version.split(".")[0] != __version__.split(".")[0]:
        raise wrong(f"runs Prefect {version}, but here is {__version__}: expected the same")
