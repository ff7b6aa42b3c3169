"""What a run finds around it: proxies, Prefect's settings, and a server that answers.

A run needs a Prefect server. One that the user has named, by `PREFECT_API_URL` or by a profile, is
asked once, and has to answer. Otherwise the run starts a small one of its own, which no fault of
the user's home, database or proxies can keep from starting.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from flows import small_server
from flows.places import own_folder, words, writable
from usam_core.errors import TransientError, UsamError, UserError

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_ASK = httpx.Timeout(30.0, connect=10.0)


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
    os.environ.update(small_server.start(found.settings))
    refresh_global_settings_context()


def lost_server(error: BaseException) -> str | None:
    """Return what a failed request of Prefect's says if it ended the run, else None."""
    from prefect.exceptions import PrefectHTTPStatusError

    again = "" if small_server.is_started() else "; start it again (`usam up`)"

    seen: BaseException | None = error
    # An error of ours says itself what happened, also where a request of ours was its cause.
    while seen is not None and not isinstance(seen, UsamError):
        if isinstance(seen, httpx.TransportError):
            return f"does not answer any more ({seen!r}){again}"
        if isinstance(seen, PrefectHTTPStatusError):
            return f"refused a request ({words(seen)}); look at its log{again}"
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
            f"{', '.join(sorted(given))}: cannot be used ({words(error)}); expected addresses of "
            "proxies such as http://host:port or socks5://host:port, and files of certificates "
            "that exist; mend or unset them"
        ) from None


def _prefect_home() -> None:
    """Give Prefect a home of ours where the user's cannot be written; profiles stay the user's."""
    home = _users_home()
    if writable(home):
        return
    with contextlib.suppress(OSError):
        if (home / "profiles.toml").is_file():
            os.environ.setdefault("PREFECT_PROFILES_PATH", str(home / "profiles.toml"))
    os.environ["PREFECT_HOME"] = str(own_folder())


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
        raise wrong(f"does not answer ({words(error)})", TransientError) from None
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


def _is_url(url: str) -> bool:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def _without_secrets(url: str) -> str:
    """Return an address without the name and password that it may hold."""
    return str(httpx.URL(url).copy_with(userinfo=b"")) if _is_url(url) else repr(url)
