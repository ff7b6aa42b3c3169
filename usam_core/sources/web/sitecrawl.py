"""The crawl of one class's sites: some pages at a time, in an order that timing does not change."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from icrawler import Downloader, UrlListFeeder

from usam_core.config.training import WebConfig
from usam_core.sources.web.journal import Candidate, Journal, Page
from usam_core.sources.web.limits import Budget, FetchFailed
from usam_core.sources.web.pools import QuietCrawler
from usam_core.sources.web.session import PoliteSession
from usam_core.sources.web.sites import Robots, SiteReader, breadth_first, check_page_type, stay_on


class SiteCrawl:
    """Reads the pages of sites as long as more pictures are asked for.

    Attributes:
        permit: what permits the addresses of these sites, for their pictures too.
        failed: pages that could not be read for reasons that may heal.

    Args:
        starts: addresses of the first pages.
        config: the source's settings.
        session: what fetches.
        journal: what is known already.
        budget: what the class may still use.
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
        self._session = session
        self._journal = journal
        self._query = " ".join(starts)
        self._hosts = frozenset(urlsplit(url).netloc for url in starts)
        self._known: dict[str, Page] = {}
        self.failed: dict[str, FetchFailed] = {}
        self.permit = stay_on(self._hosts, Robots(session, journal, budget).permit)
        self._fetch = partial(
            session.fetch, budget=budget, permit=self.permit, check_type=check_page_type
        )

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the pictures of one page after the other, breadth first.

        Raises:
            FetchFailed: no page could be read, for reasons that may heal.
            CapReached: the budget is used up.
        """
        given = 0
        while True:
            reached, unread = self._frontier()
            for url in reached[given:]:
                page = self._page(url)
                if page is not None and page.candidates:
                    yield list(page.candidates)
            given = len(reached)
            if not unread:
                break
            self._read(unread)
        if self.failed and not any(page.code is None for page in self._known.values()):
            raise next(iter(self.failed.values()))

    def notes(self) -> list[str]:
        """Return what is to be said of pages that gave nothing."""
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
        if url not in self._known:
            page = self._journal.page("sites", self._query, url)
            if page is None:
                return None
            self._known[url] = page
        return self._known[url]

    def _read(self, unread: list[str]) -> None:
        crawler = QuietCrawler(
            self._session,
            feeder_cls=UrlListFeeder,
            parser_cls=SiteReader,
            downloader_cls=Downloader,
            parser_threads=len(unread),
        )
        crawler.crawl(
            feeder_kwargs={"url_list": unread},
            parser_kwargs={
                "query": self._query,
                "hosts": self._hosts,
                "fetch": self._fetch,
                "enter": partial(self._journal.add_page, "sites", self._query),
                "failed": self.failed.__setitem__,
            },
        )
