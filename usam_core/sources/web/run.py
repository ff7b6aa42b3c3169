"""One class's way through the engines: search, download what is needed, ask the next one."""

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from usam_core.config.training import ClassSpec, WebConfig
from usam_core.errors import TransientError
from usam_core.files.atomic import scratch_file, whole_file
from usam_core.images.read import UnusableImage, check_image, read_image
from usam_core.sources.web.engines import ENGINES, MAX_RESULTS, at, candidates
from usam_core.sources.web.guard import Budget, CapReached, FetchFailed
from usam_core.sources.web.journal import Candidate, Journal, Page, Verdict
from usam_core.sources.web.session import Answer, PoliteSession, on_threads
from usam_core.sources.web.sites import SiteCrawl

JPEG_QUALITY = 95
MAX_LOST = 8
"""After so many addresses without a network, the others are not tried."""
LOST_RUNS = 3
"""A name that no name server answers for in so many runs is dead; until then it may be that this
machine has no network."""
ONLY_FOR_SITES = frozenset({"robots", "other_host"})
"""Verdicts that speak of how a crawl found an address, not of the address."""

_PNG = b"\x89PNG\r\n\x1a\n"
_UNNAMED_TYPES = {"", "application/octet-stream", "binary/octet-stream", "application/binary"}

_one_at_a_time = threading.Lock()


def check_type(content_type: str) -> None:
    """Refuse an answer that calls itself something else than a picture: raise `FetchFailed`.

    Its bytes could be one all the same, but such a server shows another thing to people than to
    programs, most often an error page.
    """
    if not content_type.startswith("image/") and content_type not in _UNNAMED_TYPES:
        raise FetchFailed(
            "wrong_type", f"the server calls it {content_type!r}; expected a picture (image/...)"
        )


def keep(answer: Answer, folder: Path, max_megapixels: float) -> Verdict:
    """Write the picture that an answer holds as an RGB file of its own, named by content.

    Only pixels go over: metadata, and whatever else the bytes may also be, stay behind. A picture
    above `max_megapixels` is refused from its header.
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
            reason = str(error).replace("images.max_megapixels", "training.web.max_megapixels")
            return Verdict(error.quarantined.code, reason.replace(str(original), answer.url))
    content = io.BytesIO()
    ending = "png" if answer.body.startswith(_PNG) else "jpg"
    if ending == "png":
        picture.save(content, format="PNG")
    else:
        picture.save(content, format="JPEG", quality=JPEG_QUALITY)
    kept = content.getvalue()
    sha256 = hashlib.sha256(kept).hexdigest()
    file = folder / f"{sha256[:16]}.{ending}"
    with whole_file(file) as path:
        path.write_bytes(kept)
    return Verdict(
        picture={
            "file": file.name,
            "sha256": sha256,
            "bytes": len(kept),
            "final_url": answer.url,
            "content_type": answer.content_type or None,
            "original_sha256": hashlib.sha256(answer.body).hexdigest(),
            "original_bytes": len(answer.body),
        }
    )


class Tally:
    """Counts usable pictures in the order of the candidates, whatever the order of the answers.

    A candidate is fetched when even if all that are being fetched turn out usable, one more is
    needed: nothing is fetched in vain, and which addresses are does not depend on timing. What
    came of addresses in earlier runs counts.
    """

    def __init__(self, wanted: int, verdicts: dict[str, Verdict]) -> None:
        self.order: list[Candidate] = []
        self.verdicts = verdicts
        self._wanted = wanted
        self._usable: set[str] = set()
        self._known: set[str] = set()
        self._waiting: deque[Candidate] = deque()
        self._in_flight = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def usable(self) -> int:
        """How many different usable pictures there are."""
        return len(self._usable)

    @property
    def enough(self) -> bool:
        """Whether the class has what it needs."""
        return len(self._usable) >= self._wanted

    def queue(self, batch: Iterable[Candidate]) -> None:
        """Add candidates behind those that there are; an address counts where it came first."""
        for candidate in batch:
            if candidate.url not in self._known:
                self._known.add(candidate.url)
                self._waiting.append(candidate)

    def next_needed(self) -> Candidate | None:
        """Wait until one more candidate is surely needed and return it; None when none is."""
        with self._changed:
            while True:
                if self._stopped or self.enough or not self._waiting:
                    return None
                if len(self._usable) + self._in_flight >= self._wanted:
                    self._changed.wait()
                    continue
                candidate = self._waiting.popleft()
                self.order.append(candidate)
                verdict = self.verdicts.get(candidate.url)
                if verdict and verdict.code in ONLY_FOR_SITES and candidate.engine != "sites":
                    verdict = None
                if verdict is None:
                    self._in_flight += 1
                    return candidate
                self._count(verdict)

    def settle(self, url: str, verdict: Verdict | None) -> None:
        """Take what came of an address; None: nothing that counts."""
        with self._changed:
            self._in_flight -= 1
            if verdict is not None:
                self.verdicts[url] = verdict
                self._count(verdict)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let `next_needed` return None from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _count(self, verdict: Verdict) -> None:
        if verdict.picture is not None:
            self._usable.add(verdict.picture["sha256"])


class ClassRun:
    """Fetches what one class lacks.

    `notes` are sentences for the report; `complete`: asking again would give the same.

    Args:
        sites: addresses where its crawl begins.
        listed: its candidates of the user's list.
        folder: where its pictures go.
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
        self._crawl = SiteCrawl(sites, config, session, journal, budget)
        self._lost: list[str] = []
        self.tally = Tally(config.per_class, journal.verdicts())
        self.notes: list[str] = []
        self.complete = False

    def run(self) -> None:
        """Ask the engines in turn until there are enough pictures or nobody is left to ask.

        Raises:
            TransientError: there is no network, or no engine answers.
        """
        engines = self._config.engines
        failures: dict[str, FetchFailed] = {}
        try:
            for engine, following in zip(engines, [*engines[1:], None], strict=True):
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
        if len(failures) == len(engines) and nothing and not self.tally.enough:
            reasons = "; ".join(f"{engine}: {failure}" for engine, failure in failures.items())
            raise TransientError(
                f"no engine could be asked for pictures of {self._spec.name!r} ({reasons}); check "
                "the network and run again"
            )

    def _ask(self, engine: str, following: str | None, failures: dict[str, FetchFailed]) -> None:
        """Ask one engine and note what it gave; a failure of it is kept in `failures`."""
        before, results = self.tally.usable, 0
        name, note = repr(self._spec.name), ""
        try:
            for batch in self._batches(engine):
                results += len(batch)
                self._download(batch)
                if self.tally.enough:
                    break
        except FetchFailed as failure:
            failures[engine] = failure
            note = f"{engine} failed: {failure}"
        if engine == "sites":
            self.notes += self._crawl.notes()
        if not note and results:
            gave = self.tally.usable - before
            note = f"{engine} gave {gave} usable pictures of {results} results for {name}"
        elif not note:
            changed = " (its page may have changed)" if engine in ENGINES else ""
            note = f"{engine} returned 0 results for {name}{changed}"
        asked = f"; asked {following} next" if following and not self.tally.enough else ""
        self.notes.append(note + asked)

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
        seen: set[str] = set()
        for number in range(min(self._config.max_pages, MAX_RESULTS // ENGINES[engine].step)):
            page = self._journal.page(engine, query, str(number))
            if page is None:
                page = self._read_results(engine, query, number)
            if page.code is not None:
                self.notes.append(f"{engine} did not answer {query!r}: {page.reason}")
            fresh = [result for result in page.candidates if result.url not in seen]
            # Behind its last result an engine shows none, or the last ones again.
            if not fresh:
                return
            seen.update(result.url for result in fresh)
            yield fresh

    def _read_results(self, engine: str, query: str, number: int) -> Page:
        """Fetch a result page, and enter it with its results."""
        instead = {str(name): url for name, url in self._config.engine_urls.items()}.get(engine)
        try:
            url = at(ENGINES[engine].address(query, number), instead)
            body = self._session.fetch(url, self._budget).body
            page = Page(candidates(engine, query, body))
        except FetchFailed as failure:
            if not failure.settled:
                raise
            page = Page(code=failure.code, reason=failure.reason)
        self._journal.add_page(engine, query, str(number), page)
        return page

    def _download(self, batch: list[Candidate]) -> None:
        """Fetch what is needed of a batch."""
        self.tally.queue(batch)
        threads = min(self._config.concurrency, len(batch))
        on_threads([self._take_needed] * threads, lambda: self._advance(self.tally.usable))
        self._advance(self.tally.usable)
        if self._lost:
            raise TransientError(
                f"{len(self._lost)} addresses of pictures of {self._spec.name!r} could not even be "
                f"looked up, such as {self._lost[0]}; check the network and run again"
            )

    def _take_needed(self) -> None:
        """Fetch, keep and enter pictures for as long as one more is needed."""
        while (candidate := self.tally.next_needed()) is not None:
            verdict = None
            try:
                verdict = self._fetch_picture(candidate)
                if verdict is not None:
                    self._journal.add_verdict(candidate.url, verdict)
            except BaseException:
                self.tally.stop()
                raise
            finally:
                self.tally.settle(candidate.url, verdict)

    def _fetch_picture(self, candidate: Candidate) -> Verdict | None:
        url = candidate.url
        permit = self._crawl.permit if candidate.engine == "sites" else None
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
