"""icrawler's crawler and its pools of threads, made quiet and answerable for their errors."""

import logging
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from icrawler import Crawler, Downloader, Parser, UrlListFeeder
from icrawler.storage import BaseStorage

from usam_core.sources.web.limits import CapReached
from usam_core.sources.web.session import PoliteSession

POLL_SECONDS = 0.02
"""How often waiting threads look whether there is more, or nothing more."""

_quiet = logging.getLogger("usam_core.icrawler")
_quiet.propagate = False
_quiet.addHandler(logging.NullHandler())


class QuietCrawler(Crawler):
    """Runs one feeder, one parser and one downloader to their end.

    icrawler's own crawler changes the program's logging, sends a browser's headers, and looks
    once a second whether the threads have ended.

    Args:
        session: what every request goes through.
        **kwargs: classes and arguments of the pools, as icrawler takes them.
    """

    def __init__(self, session: PoliteSession, **kwargs: Any) -> None:
        self._polite = session
        super().__init__(storage=BaseStorage(), **kwargs)
        for pool in (self.feeder, self.parser, self.downloader):
            pool.logger = _quiet

    def set_logger(self, log_level: int = logging.INFO) -> None:
        """Leave the program's logging as it is."""
        del log_level
        self.logger = _quiet

    def set_session(self, headers: dict[str, str] | None = None) -> None:
        """Take the polite session, whatever the headers."""
        del headers
        self.session = self._polite

    def crawl(
        self,
        feeder_kwargs: dict[str, Any] | None = None,
        parser_kwargs: dict[str, Any] | None = None,
        downloader_kwargs: dict[str, Any] | None = None,
        each_time: Callable[[], None] = lambda: None,
    ) -> None:
        """Run to the end; then raise what went wrong in a thread, if anything did.

        Args:
            feeder_kwargs: arguments of the feeder's `feed`.
            parser_kwargs: arguments of the parser's `parse`.
            downloader_kwargs: arguments of the downloader's `download`.
            each_time: called again and again from this thread.
        """
        pools = (self.feeder, self.parser, self.downloader)
        try:
            self.signal.reset()
            self.feeder.start(**feeder_kwargs or {})
            self.parser.start(queue_timeout=POLL_SECONDS, **parser_kwargs or {})
            self.downloader.start(max_num=0, queue_timeout=POLL_SECONDS, **downloader_kwargs or {})
            while any(pool.is_alive() for pool in pools):
                self.signal.set(feeder_exited=not self.feeder.is_alive())
                self.signal.set(parser_exited=not self.parser.is_alive())
                if self.signal.get("reach_max_num"):
                    # Whoever waits for room in a queue that nobody empties any more.
                    _empty(self.parser.in_queue)
                    _empty(self.downloader.in_queue)
                each_time()
                time.sleep(POLL_SECONDS)
        finally:
            self.signal.set(reach_max_num=True)
        for pool in pools:
            for error in getattr(pool, "errors", ()):
                raise error


def _empty(waiting: queue.Queue) -> None:
    with suppress(queue.Empty):
        while True:
            waiting.get_nowait()


class PageReader(Parser):
    """Hands each page's address to `read`, where icrawler would fetch and parse in one go.

    Args:
        *args: icrawler's own.
        **kwargs: icrawler's own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.errors: list[BaseException] = []

    def read(self, url: str, **kwargs: Any) -> None:
        """Fetch, parse and enter one page."""
        raise NotImplementedError

    def worker_exec(self, queue_timeout: float = POLL_SECONDS, **kwargs: Any) -> None:
        """Read pages until the feeder has ended and none is left."""
        while not self.signal.get("reach_max_num"):
            try:
                url = self.in_queue.get(timeout=queue_timeout)
            except queue.Empty:
                if self.signal.get("feeder_exited"):
                    return
                continue
            try:
                self.read(url, **kwargs)
            except BaseException as error:
                self.errors.append(error)
                self.signal.set(reach_max_num=True)


class NeededFeeder(UrlListFeeder):
    """Feeds the addresses that the result cannot do without, in order, as soon as that is known."""

    def feed(self, needed: Callable[[], str | None]) -> None:
        """Feed what `needed` returns, until it returns None."""
        while (url := needed()) is not None:
            self.output(url)


class PictureDownloader(Downloader):
    """Hands each picture's address to `take`, where icrawler would fetch and save in one go.

    Args:
        *args: icrawler's own.
        take: fetches, keeps and enters one picture.
    """

    def __init__(self, *args: Any, take: Callable[[str], None]) -> None:
        super().__init__(*args)
        self._take = take
        self.errors: list[BaseException] = []

    def download(
        self, task: dict[str, Any], default_ext: str, timeout: float = 0, **kwargs: Any
    ) -> None:
        """Take one picture; an error ends the crawl and is raised at its end."""
        del default_ext, timeout, kwargs
        try:
            self._take(task["file_url"])
        except CapReached:
            self.signal.set(reach_max_num=True)
        except BaseException as error:
            self.errors.append(error)
            self.signal.set(reach_max_num=True)
