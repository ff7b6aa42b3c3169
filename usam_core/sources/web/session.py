"""The session of every request of the web source, polite, capped, guarded; jobs on threads."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urldefrag, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from usam_core.config.training import WebConfig
from usam_core.sources.web.guard import (
    Budget,
    CapReached,
    FetchFailed,
    Guard,
    GuardedAdapter,
    Lifeline,
    Pace,
    Permit,
)

MAX_HOPS = 10
"""Redirects followed for one address."""
FIRST_WAIT = 1.0
"""Seconds before the first further try, more or less; each next wait is twice as long."""
MAX_WAIT = 120.0
"""Longest wait before a further try, also when a server asks for more."""
CHUNK = 16 * 1024

_POLL_SECONDS = 0.02
_REDIRECTS = {301, 302, 303, 307, 308}
_MEGABYTE = 1e6

CheckType = Callable[[str], None]
"""Looks at a content type before the body is read; raises `FetchFailed` to refuse it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its address after redirects, its type in lower case without parameters."""

    url: str
    content_type: str
    body: bytes


class PoliteSession(requests.Session):
    """A session with limits, and without proxies, cookies and passwords of the user's."""

    def __init__(self, config: WebConfig) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers["User-Agent"] = f"usam/{_release()} (+{config.contact})"
        # Uncompressed: a small answer cannot unfold into a large one.
        self.headers["Accept-Encoding"] = "identity"
        adapter = GuardedAdapter(Guard(config.allow_hosts), config.concurrency)
        self.adapters.clear()
        self.mount("http://", adapter)
        self.mount("https://", adapter)
        self.pace = Pace(config.requests_per_second)
        self._timeout = config.timeout
        self._tries = 1 + config.retries
        self._max_bytes = int(config.max_file_mb * _MEGABYTE)

    def fetch(
        self,
        url: str,
        budget: Budget,
        *,
        permit: Permit | None = None,
        check_type: CheckType | None = None,
    ) -> Answer:
        """Return the whole answer of an address, following redirects.

        `permit` looks at each address before it is asked, `check_type` at the content type before
        the body is read.

        Raises:
            FetchFailed: there is no answer of use.
            CapReached: the budget is used up.
        """
        seen: list[str] = []
        while True:
            url = urldefrag(url).url
            _check_address(url)
            if permit is not None:
                permit(url)
            if url in seen or len(seen) > MAX_HOPS:
                raise FetchFailed(
                    "redirect_loop", f"{seen[0]} redirects in a circle or too often, last to {url}"
                )
            seen.append(url)
            answer = self._with_retries(url, budget, check_type)
            if isinstance(answer, Answer):
                return answer
            url = answer

    def _with_retries(self, url: str, budget: Budget, check_type: CheckType | None) -> Answer | str:
        """Return the answer, or the address that it redirects to."""
        host = urlsplit(url).hostname or ""
        tried = 0
        while True:
            self.pace.wait(host, budget)
            tried += 1
            try:
                return self._once(url, budget, check_type)
            except FetchFailed as failure:
                if not failure.again or tried == self._tries:
                    raise
                wait = FIRST_WAIT * 2 ** (tried - 1) * random.uniform(0.5, 1.5)
                if failure.wait is not None:
                    wait = max(failure.wait, wait)
                    self.pace.pause(host, min(failure.wait, MAX_WAIT))
                budget.sleep(min(wait, MAX_WAIT))

    def _once(self, url: str, budget: Budget, check_type: CheckType | None) -> Answer | str:
        seconds = min(self._timeout, budget.left())
        with Lifeline(seconds) as lifeline:
            try:
                with self.get(url, stream=True, allow_redirects=False, timeout=seconds) as response:
                    answer = self._read(url, response, budget, check_type)
            except (FetchFailed, CapReached):
                if lifeline.expired:
                    raise self._too_slow(url, budget) from None
                raise
            except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as e:
                if lifeline.expired or isinstance(e, requests.Timeout):
                    raise self._too_slow(url, budget) from e
                raise _broken(url, e) from e
            # A connection that was cut can look like the end of a body without a length.
            if lifeline.expired:
                raise self._too_slow(url, budget)
            return answer

    def _read(
        self, url: str, response: requests.Response, budget: Budget, check_type: CheckType | None
    ) -> Answer | str:
        budget.answered = True
        status = response.status_code
        target = response.headers.get("Location")
        if status in _REDIRECTS and target:
            # Headers are read as Latin-1; what they hold beyond ASCII is UTF-8.
            return urljoin(url, target.encode("latin-1", "ignore").decode("utf-8", "replace"))
        if status != 200:
            raise FetchFailed(
                f"http_{status}",
                f"{url} answered {status} {response.reason}",
                again=status == 429 or status >= 500,
                wait=_asked_wait(response.headers.get("Retry-After")),
            )
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if check_type is not None:
            check_type(content_type)
        length = response.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length) > self._max_bytes:
            raise self._too_many_bytes(url, f"says to be of {int(length) / _MEGABYTE:.1f} MB")
        body = bytearray()
        for chunk in response.iter_content(CHUNK):
            budget.spend(len(chunk))
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_many_bytes(url, "did not end")
        return Answer(url, content_type, bytes(body))

    def _too_many_bytes(self, url: str, what: str) -> FetchFailed:
        allowed = f"training.web.max_file_mb allows {self._max_bytes / _MEGABYTE:g} MB"
        return FetchFailed("too_many_bytes", f"{url} {what}; {allowed}")

    def _too_slow(self, url: str, budget: Budget) -> FetchFailed:
        budget.left()  # where the class's time is over, that is the reason
        return FetchFailed(
            "timeout",
            f"{url} had not answered whole after {self._timeout:g} seconds (training.web.timeout)",
        )


def on_threads(
    jobs: Sequence[Callable[[], None]], each_time: Callable[[], None] = lambda: None
) -> None:
    """Do every job on a thread of its own; then raise the first error, a reached cap last.

    The threads are daemons: those of an executor would hold an interrupted process until the
    slowest host has answered. `each_time` is called again and again from the caller's thread.
    """
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            each_time()
            thread.join(_POLL_SECONDS)
    if errors:
        # A cap that another thread has reached must not hide what went wrong.
        raise next((e for e in errors if not isinstance(e, CapReached)), errors[0])


def _release() -> str:
    try:
        return version("usam")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "@" in parts.netloc:
        raise FetchFailed(
            "bad_url", f"{url!r} is no http or https address, or one with a name and password in it"
        )


def _asked_wait(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(date.timestamp() - time.time(), 0.0)


def _broken(url: str, error: Exception) -> FetchFailed:
    if isinstance(error, requests.exceptions.SSLError):
        return FetchFailed("tls", f"{url} has no valid certificate: {error}")
    if isinstance(error, ValueError):
        return FetchFailed("bad_url", f"{url!r} cannot be asked for: {error}")
    return FetchFailed("broken", f"{url}: the connection broke: {error}", again=True)
