"""What the owners of a site let programs read (RFC 9309)."""

import math
import threading
import time
from urllib.parse import urlsplit

from protego import Protego

from usam_core.sources.web.failures import FetchFailed
from usam_core.sources.web.journal import Journal
from usam_core.sources.web.limits import Budget
from usam_core.sources.web.session import PoliteSession

AGENT = "usam"
"""The name by which a robots.txt can speak of this crawler."""

KEPT_SECONDS = 24 * 3600.0
"""How long a robots.txt counts before it is fetched again (RFC 9309, section 2.4)."""


MAX_DELAY = 60.0
"""A site that asks for more seconds between requests is left alone."""


def _delay(rules: Protego) -> float:
    delay = float(rules.crawl_delay(AGENT) or 0)
    return delay if math.isfinite(delay) and delay > 0 else 0.0


class Robots:
    """The rules of every host that one class's crawl meets.

    Args:
        session: what fetches.
        journal: what keeps the files from one run to the next.
        budget: what the class may still use.
    """

    def __init__(self, session: PoliteSession, journal: Journal, budget: Budget) -> None:
        self._session = session
        self._journal = journal
        self._budget = budget
        self._rules: dict[str, Protego] = {}
        self._lock = threading.Lock()

    def permit(self, url: str) -> None:
        """Return if a page or a picture may be read.

        Raises:
            FetchFailed: it may not, or nobody can tell.
            CapReached: the budget is used up.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            rules = self._rules.get(origin)
            if rules is None:
                rules = self._rules[origin] = Protego.parse(self._text(origin))
                delay = _delay(rules)
                if delay <= MAX_DELAY:
                    self._session.pace.slow_down(parts.hostname or "", delay)
        if _delay(rules) > MAX_DELAY:
            raise FetchFailed(
                "robots",
                f"{origin}/robots.txt asks for {_delay(rules):g} s between requests; at most "
                f"{MAX_DELAY:g} are waited",
            )
        if not rules.can_fetch(url, AGENT):
            raise FetchFailed("robots", f"{origin}/robots.txt asks programs not to read {url}")

    def _text(self, origin: str) -> str:
        known = self._journal.robots(origin)
        now = time.time()
        if known is not None and 0 <= now - known[1] < KEPT_SECONDS:
            return known[0]
        try:
            answer = self._session.fetch(f"{origin}/robots.txt", self._budget)
            text = answer.body.decode("utf-8", "replace")
        except FetchFailed as failure:
            # No such file is a yes to everything; a server in trouble is a no, for now.
            if not failure.code.startswith("http_4") or failure.again:
                raise
            text = ""
        self._journal.add_robots(origin, text, now)
        return text
