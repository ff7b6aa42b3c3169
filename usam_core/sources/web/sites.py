"""Crawling the sites that the user names: breadth first, on their own hosts, as robots.txt allows.

Some pages are read at a time, in an order that timing does not change.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from bs4 import BeautifulSoup
from protego import Protego

from usam_core.config.training import WebConfig
from usam_core.sources.web.guard import Budget, FetchFailed
from usam_core.sources.web.journal import Candidate, Journal, Page
from usam_core.sources.web.session import Answer, PoliteSession, on_threads

AGENT = "usam"
"""The name by which a robots.txt can speak of this crawler."""
KEPT_SECONDS = 24 * 3600.0
"""How long a robots.txt counts before it is fetched again (RFC 9309, section 2.4)."""
MAX_DELAY = 60.0
"""A site that asks for more seconds between requests is left alone."""

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
_PAGES = {"", ".html", ".htm", ".shtml", ".shtm", ".xhtml", ".php", ".jsp", ".asp", ".aspx"}
_PAGE_TYPES = {"", "text/html", "application/xhtml+xml"}


class Robots:
    """The rules of every host that one class's crawl meets, kept from one run to the next."""

    def __init__(self, session: PoliteSession, journal: Journal, budget: Budget) -> None:
        self._session = session
        self._journal = journal
        self._budget = budget
        self._rules: dict[str, Protego] = {}
        self._lock = threading.Lock()

    def permit(self, url: str) -> None:
        """Return if a page or a picture may be read; else, or if nobody can tell, `FetchFailed`."""
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


def _delay(rules: Protego) -> float:
    delay = float(rules.crawl_delay(AGENT) or 0)
    return delay if math.isfinite(delay) and delay > 0 else 0.0


class SiteCrawl:
    """Reads the pages of one class's sites as long as more pictures are asked for.

    The crawl begins at `starts`. `failed` holds pages that could not be read for reasons that may
    heal.
    """

    def __init__(
        self,
        starts: list[str],
        config: WebConfig,
        session: PoliteSession,
        journal: Journal,
        budget: Budget,
    ) -> None:
        self._starts = starts
        self._config = config
        self._journal = journal
        self._query = " ".join(starts)
        self._hosts = frozenset(urlsplit(url).netloc for url in starts)
        self._robots = Robots(session, journal, budget)
        self._known: dict[str, Page] = {}
        self.failed: dict[str, FetchFailed] = {}
        self._fetch = partial(
            session.fetch, budget=budget, permit=self.permit, check_type=check_page_type
        )

    def permit(self, url: str) -> None:
        """Return if an address is on the class's sites and its robots.txt does not forbid it.

        Holds for the pictures of these sites too; else raises `FetchFailed`.
        """
        host = urlsplit(url).netloc
        if host not in self._hosts:
            raise FetchFailed(
                "other_host",
                f"{url} is on {host}, outside the class's sites "
                f"({', '.join(sorted(self._hosts))}); "
                "add it to training.web.sites if it belongs to them",
            )
        self._robots.permit(url)

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the pictures of one page after the other, breadth first.

        Raises:
            FetchFailed: no page could be read, for reasons that may heal.
            CapReached: the budget is used up.
        """
        shown = 0
        while True:
            reached, unread = self._frontier()
            for url in reached[shown:]:
                page = self._page(url)
                if page is not None and page.candidates:
                    yield list(page.candidates)
            shown = len(reached)
            if not unread:
                break
            on_threads([partial(self._read, url) for url in unread])
        if self.failed and not any(page.code is None for page in self._known.values()):
            raise next(iter(self.failed.values()))

    def notes(self) -> list[str]:
        """What is to be said of pages that gave nothing."""
        codes = Counter(page.code for page in self._known.values() if page.code is not None)
        codes.update(failure.code for failure in self.failed.values())
        if not codes:
            return []
        counts = ", ".join(f"{code} ({count})" for code, count in codes.most_common())
        return [f"sites: pages that could not be read: {counts}"]

    def _frontier(self) -> tuple[list[str], list[str]]:
        """Return the pages up to the first unread one, and the next unread ones.

        The order is rebuilt from the journal each time: links of pages that were read meanwhile
        have joined it, at the place where their pages stand.
        """
        reached: list[str] = []
        unread: list[str] = []
        for url in breadth_first(self._starts, self._page, self._config.max_pages):
            if self._page(url) is None and url not in self.failed:
                unread.append(url)
                if len(unread) == self._config.concurrency:
                    break
            elif not unread:
                reached.append(url)
        return reached, unread

    def _page(self, url: str) -> Page | None:
        if url not in self._known and (page := self._journal.page("sites", self._query, url)):
            self._known[url] = page
        return self._known.get(url)

    def _read(self, url: str) -> None:
        """Fetch a page, and enter it with its pictures and links."""
        try:
            page = read_page(self._fetch(url), self._query, self._hosts)
        except FetchFailed as failure:
            if not failure.settled:
                self.failed[url] = failure
                return
            page = Page(code=failure.code, reason=failure.reason)
        self._journal.add_page("sites", self._query, url, page)


def address(site: str) -> str:
    """A site as the address of its first page.

    >>> address("www.example.org"), address("https://example.org/birds")
    ('http://www.example.org/', 'https://example.org/birds')
    """
    parts = urlsplit(site if "://" in site else f"http://{site}")
    return parts._replace(path=parts.path or "/").geturl()


def breadth_first(
    starts: list[str], known: Callable[[str], Page | None], max_pages: int
) -> Iterator[str]:
    """Yield the addresses of pages in the order of their discovery, each once.

    A page's links join the queue when it is its turn: the page after it is only asked for when
    `known`, which returns a page that was read, has been given a chance to have it. Of one host
    come at most `max_pages`.
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


def read_page(answer: Answer, query: str, hosts: frozenset[str]) -> Page:
    """Return the pictures that a page shows or links to, and its links on the hosts."""
    soup = BeautifulSoup(answer.body.decode("utf-8", "ignore"), "lxml")
    base = soup.find("base", href=True)
    base_url = urljoin(answer.url, str(base["href"])) if base else answer.url
    rights = soup.find(["a", "link"], rel="license", href=True)
    licence = urljoin(base_url, str(rights["href"])) if rights else None
    candidates: dict[str, Candidate] = {}
    links: dict[str, None] = {}
    for tag in soup.find_all(["img", "a"]):
        is_image = tag.name == "img"
        url = _joined(
            base_url, tag.get("src") or tag.get("data-src") if is_image else tag.get("href")
        )
        if url is None:
            continue
        ending = PurePosixPath(urlsplit(url).path).suffix.lower()
        if is_image or ending in _PICTURES:
            title = str(tag.get("alt") or "") or tag.get_text(strip=True) or None
            candidates.setdefault(url, Candidate("sites", query, url, answer.url, title, licence))
        elif ending in _PAGES and urlsplit(url).netloc in hosts:
            links.setdefault(url)
    return Page(tuple(candidates.values()), tuple(links))


def check_page_type(content_type: str) -> None:
    """Refuse what is no page: raise `FetchFailed`."""
    if content_type not in _PAGE_TYPES:
        raise FetchFailed("not_a_page", f"the server calls it {content_type!r}; expected a page")


def _joined(base: str, target: Any) -> str | None:
    if not isinstance(target, str) or not target or target.startswith(("#", "data:")):
        return None
    try:
        url = urldefrag(urljoin(base, target.strip())).url
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname else None
