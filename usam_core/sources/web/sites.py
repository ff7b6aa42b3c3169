"""Crawling the sites that the user names, breadth first, on their own hosts."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from urllib.parse import urldefrag, urljoin, urlsplit

from bs4 import BeautifulSoup
from icrawler.builtin import GreedyParser
from protego import Protego

from usam_core.sources.web.journal import Candidate, Journal, Page
from usam_core.sources.web.limits import Budget, FetchFailed, Permit
from usam_core.sources.web.pools import PageReader
from usam_core.sources.web.session import Answer, PoliteSession

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


_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
_PAGES = {"", ".html", ".htm", ".shtml", ".shtm", ".xhtml", ".php", ".jsp", ".asp", ".aspx"}
_PAGE_TYPES = {"", "text/html", "application/xhtml+xml"}


def address(site: str) -> str:
    """Return a site as the address of its first page.

    >>> address("www.example.org"), address("https://example.org/birds")
    ('http://www.example.org/', 'https://example.org/birds')
    """
    parts = urlsplit(site if "://" in site else f"http://{site}")
    return parts._replace(path=parts.path or "/").geturl()


def stay_on(hosts: frozenset[str], robots: Permit) -> Permit:
    """Return what permits addresses on these hosts that their robots.txt does not forbid."""

    def permit(url: str) -> None:
        host = urlsplit(url).netloc
        if host not in hosts:
            raise FetchFailed(
                "other_host",
                f"{url} is on {host}, outside the class's sites ({', '.join(sorted(hosts))}); "
                "add it to training.web.sites if it belongs to them",
            )
        robots(url)

    return permit


def breadth_first(
    starts: list[str], known: Callable[[str], Page | None], max_pages: int
) -> Iterator[str]:
    """Yield the addresses of pages in the order of their discovery, each once.

    A page's links join the queue when it is its turn: the page after it is only asked for when
    `known` has been given a chance to have it.

    Args:
        starts: where the crawl begins.
        known: returns a page that was read, or None.
        max_pages: most pages of one host.
    """
    order = list(dict.fromkeys(starts))
    seen = set(order)
    pages: Counter[str] = Counter()
    for url in order:
        host = urlsplit(url).netloc
        if pages[host] == max_pages:
            continue
        pages[host] += 1
        yield url
        page = known(url)
        for link in page.links if page else ():
            if link not in seen:
                seen.add(link)
                order.append(link)


class SiteReader(PageReader, GreedyParser):
    """Reads one page of a site."""

    def read(
        self,
        url: str,
        *,
        query: str,
        hosts: frozenset[str],
        fetch: Callable[[str], Answer],
        enter: Callable[[str, Page], None],
        failed: Callable[[str, FetchFailed], None],
    ) -> None:
        """Fetch a page, and enter it with its pictures and links."""
        try:
            answer = fetch(url)
        except FetchFailed as failure:
            if failure.settled:
                enter(url, Page(code=failure.code, reason=failure.reason))
            else:
                failed(url, failure)
            return
        enter(url, self.parse(answer, query, hosts))

    def parse(self, answer: Answer, query: str, hosts: frozenset[str]) -> Page:
        """Return the pictures that a page shows or links to, and its links on the hosts."""
        soup = BeautifulSoup(answer.body.decode("utf-8", "ignore"), "lxml")
        base = soup.find("base", href=True)
        base_url = urljoin(answer.url, base["href"]) if base else answer.url
        rights = soup.find(["a", "link"], rel="license", href=True)
        licence = urljoin(base_url, rights["href"]) if rights else None
        candidates: dict[str, Candidate] = {}
        links: dict[str, None] = {}
        for tag in soup.find_all(["img", "a"]):
            target = tag.get("src") or tag.get("data-src") if tag.name == "img" else tag.get("href")
            url = _joined(base_url, target)
            if url is None:
                continue
            ending = PurePosixPath(urlsplit(url).path).suffix.lower()
            if tag.name == "img" or ending in _PICTURES:
                title = tag.get("alt") or tag.get_text(strip=True) or None
                found = Candidate("sites", query, url, answer.url, title, licence)
                candidates.setdefault(url, found)
            elif ending in _PAGES and self.is_in_domain(url, hosts):
                links.setdefault(url)
        return Page(tuple(candidates.values()), tuple(links))

    def is_in_domain(self, url: str, domains: frozenset[str]) -> bool:
        """Return whether a page is on one of the hosts; icrawler looks for them anywhere in it."""
        return urlsplit(url).netloc in domains


def check_page_type(content_type: str) -> None:
    """Refuse what is no page.

    Raises:
        FetchFailed: the content type is not one of pages.
    """
    if content_type not in _PAGE_TYPES:
        raise FetchFailed("not_a_page", f"the server calls it {content_type!r}; expected a page")


def _joined(base: str, target: str | None) -> str | None:
    if not target or target.startswith(("#", "data:")):
        return None
    try:
        url = urldefrag(urljoin(base, target.strip())).url
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname else None
