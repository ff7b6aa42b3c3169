"""One class's way through the engines: search, download what is needed, ask the next one."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from icrawler import Downloader
from icrawler.builtin import PseudoParser
from PIL import Image

from usam_core.config.schema import ClassSpec
from usam_core.config.training import WebConfig
from usam_core.errors import TransientError
from usam_core.files.atomic import scratch_file, whole_file
from usam_core.images.read import UnusableImage, check_image, read_image
from usam_core.sources.web.engines import ENGINES, MAX_RESULTS, at
from usam_core.sources.web.journal import Candidate, Journal, Page, Verdict
from usam_core.sources.web.limits import Budget, CapReached, FetchFailed
from usam_core.sources.web.pools import NeededFeeder, PictureDownloader, QuietCrawler
from usam_core.sources.web.session import Answer, PoliteSession
from usam_core.sources.web.sitecrawl import SiteCrawl
from usam_core.sources.web.tally import Tally

JPEG_QUALITY = 95

_PNG = b"\x89PNG\r\n\x1a\n"
_UNNAMED_TYPES = {"", "application/octet-stream", "binary/octet-stream", "application/binary"}

_one_at_a_time = threading.Lock()


def check_type(content_type: str) -> None:
    """Refuse an answer that calls itself something else than a picture.

    Its bytes could be one all the same, but such a server shows another thing to people than to
    programs, most often an error page.

    Raises:
        FetchFailed: the content type is given and is not that of a picture.
    """
    if not content_type.startswith("image/") and content_type not in _UNNAMED_TYPES:
        raise FetchFailed(
            "wrong_type", f"the server calls it {content_type!r}; expected a picture (image/...)"
        )


def keep(answer: Answer, folder: Path, max_megapixels: float) -> Verdict:
    """Write the picture that an answer holds as an RGB file of its own, named by content.

    Only pixels go over: metadata, and whatever else the bytes may also be, stay behind.

    Args:
        answer: what came.
        folder: where the file goes.
        max_megapixels: a larger picture is refused from its header.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The bytes as they came never have an ending that anything would open.
    with scratch_file(folder / "original") as original:
        original.write_bytes(answer.body)
        try:
            # One picture at a time: the memory for pixels does not grow with the threads.
            with _one_at_a_time:
                check_image(original, max_megapixels)
                picture = Image.fromarray(read_image(original, max_megapixels=max_megapixels).rgb)
        except UnusableImage as error:
            said = str(error).replace("images.max_megapixels", "training.web.max_megapixels")
            return Verdict(error.quarantined.code, said.replace(str(original), answer.url))
    content = io.BytesIO()
    if answer.body.startswith(_PNG):
        ending = "png"
        picture.save(content, format="PNG")
    else:
        ending = "jpg"
        picture.save(content, format="JPEG", quality=JPEG_QUALITY)
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    file = folder / f"{sha256[:16]}.{ending}"
    with whole_file(file) as path:
        path.write_bytes(content.getvalue())
    return Verdict(
        picture={
            "file": file.name,
            "sha256": sha256,
            "bytes": len(content.getvalue()),
            "final_url": answer.url,
            "content_type": answer.content_type or None,
            "original_sha256": hashlib.sha256(answer.body).hexdigest(),
            "original_bytes": len(answer.body),
        }
    )


MAX_LOST = 8
"""After so many addresses without a network, the others are not tried."""

LOST_RUNS = 3
"""A name that no name server answers for in so many runs is dead; until then it may be that this
machine has no network."""


class ClassRun:
    """Fetches what one class lacks.

    Args:
        spec: the class.
        config: the source's settings.
        sites: addresses where its crawl begins.
        listed: its candidates of the user's list.
        folder: where its pictures go.
        session: what fetches.
        journal: what is known already.
        budget: what the class may use of time and bytes.
        advance: called with the number of usable pictures, from the caller's thread.
    """

    def __init__(
        self,
        spec: ClassSpec,
        config: WebConfig,
        sites: list[str],
        listed: list[Candidate],
        folder: Path,
        session: PoliteSession,
        journal: Journal,
        budget: Budget,
        advance: Callable[[int], None],
    ) -> None:
        self._spec = spec
        self._config = config
        self._listed = listed
        self._folder = folder
        self._session = session
        self._journal = journal
        self._advance = advance
        self._budget = budget
        self._crawl = SiteCrawl(sites, config, session, journal, self._budget)
        self._lost: list[str] = []
        self._cap: CapReached | None = None
        self.tally = Tally(config.per_class, journal.verdicts())
        self.notes: list[str] = []
        self.complete = False

    def run(self) -> None:
        """Ask the engines in turn until there are enough pictures or nobody is left to ask.

        Raises:
            TransientError: there is no network, or no engine answers.
        """
        failures: dict[str, FetchFailed] = {}
        try:
            for engine, following in zip(
                self._config.engines, [*self._config.engines[1:], None], strict=True
            ):
                self._ask(engine, following, failures)
                if self.tally.enough:
                    break
            self.complete = self.tally.enough or not (failures or self._crawl.failed)
        except CapReached as cap:
            self.notes.append(
                f"{cap}; {self._spec.name!r} has {self.tally.usable} of "
                f"{self._config.per_class} pictures. Run again to go on"
            )
        finally:
            self.tally.stop()
            self._budget.stop()
        nothing = not self._budget.answered or not self.tally.usable
        if len(failures) == len(self._config.engines) and nothing and not self.tally.enough:
            said = "; ".join(f"{engine}: {failure}" for engine, failure in failures.items())
            raise TransientError(
                f"no engine could be asked for pictures of {self._spec.name!r} ({said}); check "
                "the network and run again"
            )

    def _ask(self, engine: str, following: str | None, failures: dict[str, FetchFailed]) -> None:
        """Ask one engine and note what it gave; a failure of it is kept in `failures`."""
        before, results = self.tally.usable, 0
        problem: str | None = None
        try:
            for batch in self._batches(engine):
                results += len(batch)
                self._download(batch)
                if self.tally.enough:
                    break
        except FetchFailed as failure:
            failures[engine] = failure
            problem = f"{engine} failed: {failure}"
        if engine == "sites":
            self.notes += self._crawl.notes()
        wanted = f"{self._spec.name!r}"
        if problem is None and not results:
            problem = f"{engine} returned 0 results for {wanted}"
            problem += " (its page may have changed)" if engine in ENGINES else ""
        if problem is None:
            gave = self.tally.usable - before
            problem = f"{engine} gave {gave} usable pictures of {results} results for {wanted}"
        asked = f"; asked {following} next" if following and not self.tally.enough else ""
        self.notes.append(problem + asked)

    def _batches(self, engine: str) -> Iterator[list[Candidate]]:
        """Yield an engine's candidates in order, a few at a time, reading on only when asked to."""
        if engine == "urls":
            yield self._listed
        elif engine == "sites":
            yield from self._crawl.batches()
        else:
            for query in self._spec.queries or [self._spec.name]:
                yield from self._search(engine, query)

    def _search(self, engine: str, query: str) -> Iterator[list[Candidate]]:
        asked = ENGINES[engine]
        seen: set[str] = set()
        for number in range(min(self._config.max_pages, MAX_RESULTS // asked.step)):
            page = self._journal.page(engine, query, str(number))
            if page is None:
                page = self._read_results(engine, query, number)
            if page.code is not None:
                self.notes.append(f"{engine} did not answer {query!r}: {page.reason}")
            fresh = [found for found in page.candidates if found.url not in seen]
            # Behind its last result an engine shows none, or the last ones again.
            if not fresh:
                return
            seen.update(found.url for found in fresh)
            yield fresh

    def _read_results(self, engine: str, query: str, number: int) -> Page:
        asked = ENGINES[engine]
        read: list[Page] = []

        def fetch(url: str):
            return self._session.fetch(at(url, self._config.engine_urls.get(engine)), self._budget)

        def enter(page: Page) -> None:
            self._journal.add_page(engine, query, str(number), page)
            read.append(page)

        crawler = QuietCrawler(
            self._session,
            feeder_cls=asked.feeder,
            parser_cls=asked.reader,
            downloader_cls=Downloader,
        )
        crawler.crawl(
            feeder_kwargs=asked.feed(query, number),
            parser_kwargs={"engine": engine, "query": query, "fetch": fetch, "enter": enter},
        )
        return read[0]

    def _download(self, batch: list[Candidate]) -> None:
        """Fetch what is needed of a batch."""
        self.tally.queue(batch)
        crawler = QuietCrawler(
            self._session,
            feeder_cls=NeededFeeder,
            parser_cls=PseudoParser,
            downloader_cls=PictureDownloader,
            downloader_threads=min(self._config.concurrency, len(batch) or 1),
            extra_downloader_args={"take": self._take},
        )
        crawler.crawl(
            feeder_kwargs={"needed": self.tally.next_needed},
            each_time=lambda: self._advance(self.tally.usable),
        )
        self._advance(self.tally.usable)
        if self._cap is not None:
            raise self._cap
        if self._lost:
            raise TransientError(
                f"{len(self._lost)} addresses of pictures of {self._spec.name!r} could not even be "
                f"looked up, such as {self._lost[0]}; check the network and run again"
            )

    def _take(self, url: str) -> None:
        """Fetch, keep and enter one picture."""
        verdict = None
        try:
            verdict = self._fetch_picture(url)
            if verdict is not None:
                self._journal.add_verdict(url, verdict)
        except BaseException as error:
            self.tally.stop()
            if isinstance(error, CapReached):
                self._cap = error
            raise
        finally:
            self.tally.settle(url, verdict)

    def _fetch_picture(self, url: str) -> Verdict | None:
        permit = self._crawl.permit if self.tally.candidate(url).engine == "sites" else None
        try:
            answer = self._session.fetch(url, self._budget, permit=permit, check_type=check_type)
        except FetchFailed as failure:
            if failure.lost and self._journal.count_lost(url) < LOST_RUNS:
                self._lost.append(url)
                if len(self._lost) >= MAX_LOST:
                    self.tally.stop()
                return None
            return Verdict(failure.code, failure.reason)
        verdict = keep(answer, self._folder, self._config.max_megapixels)
        if verdict.picture is not None:
            verdict.picture["fetched"] = datetime.now(UTC).isoformat(timespec="seconds")
        return verdict
