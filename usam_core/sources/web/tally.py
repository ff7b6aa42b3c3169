"""Which candidates the result still needs, and what the result is."""

import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from usam_core.config.schema import ClassSpec
from usam_core.errors import all_without_secrets, without_secrets
from usam_core.sources.base import Rejected, TrainingPicture
from usam_core.sources.web.journal import Candidate, Verdict

FILE_KEYS = ("file", "sha256", "bytes")
"""What a verdict's picture holds beside the provenance."""

ONLY_FOR_SITES = frozenset({"robots", "other_host"})
"""Verdicts that speak of how a crawl found an address, not of the address."""


class Tally:
    """Counts usable pictures in the order of the candidates, whatever the order of the answers.

    A candidate is fetched when even if all that are being fetched turn out usable, one more is
    needed: nothing is fetched in vain, and which addresses are does not depend on timing.

    Args:
        wanted: how many usable pictures the class needs.
        verdicts: what came of addresses in earlier runs.
    """

    def __init__(self, wanted: int, verdicts: dict[str, Verdict]) -> None:
        self.order: list[Candidate] = []
        self.verdicts = verdicts
        self._wanted = wanted
        self._usable: set[str] = set()
        self._candidates: dict[str, Candidate] = {}
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

    def queue(self, candidates: Iterable[Candidate]) -> None:
        """Add candidates behind those that there are; an address counts where it came first."""
        for candidate in candidates:
            if candidate.url not in self._candidates:
                self._candidates[candidate.url] = candidate
                self._waiting.append(candidate)

    def candidate(self, url: str) -> Candidate:
        """Return the candidate that an address is fetched for."""
        return self._candidates[url]

    def next_needed(self) -> str | None:
        """Wait until one more address is surely needed and return it; None when none is."""
        with self._changed:
            while True:
                if self._stopped or self.enough or not self._waiting:
                    return None
                if len(self._usable) + self._in_flight >= self._wanted:
                    self._changed.wait()
                    continue
                candidate = self._waiting.popleft()
                self.order.append(candidate)
                verdict = self._verdict(candidate)
                if verdict is None:
                    self._in_flight += 1
                    return candidate.url
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

    def _verdict(self, candidate: Candidate) -> Verdict | None:
        verdict = self.verdicts.get(candidate.url)
        if verdict and verdict.code in ONLY_FOR_SITES and candidate.engine != "sites":
            return None
        return verdict


def sort_out(
    order: Iterable[Candidate],
    verdicts: dict[str, Verdict],
    wanted: int,
    spec: ClassSpec,
    folder: Path,
) -> tuple[list[TrainingPicture], list[Rejected]]:
    """Return the first `wanted` usable pictures in the order of the candidates, and the others.

    Args:
        order: the candidates.
        verdicts: what came of their addresses; those without one are left out.
        wanted: how many pictures the class needs.
        spec: the class.
        folder: where the files are.
    """
    pictures: list[TrainingPicture] = []
    rejected: list[Rejected] = []
    first: dict[str, str] = {}
    for candidate in order:
        verdict = verdicts.get(candidate.url)
        if verdict is None or len(pictures) == wanted:
            continue
        url = without_secrets(candidate.url)
        if verdict.picture is None:
            rejected.append(Rejected(spec.name, url, verdict.code or "", verdict.reason or ""))
            continue
        file, sha256, count = (verdict.picture[key] for key in FILE_KEYS)
        if sha256 in first:
            reason = f"the same picture as {first[sha256]}"
            rejected.append(Rejected(spec.name, url, "duplicate", reason))
            continue
        first[sha256] = url
        about = {key: value for key, value in verdict.picture.items() if key not in FILE_KEYS}
        provenance = {
            "engine": candidate.engine,
            "query": candidate.query,
            "image_url": candidate.url,
            "page_url": candidate.page_url,
            "title": candidate.title,
            "licence": candidate.licence,
            **about,
        }
        origin = all_without_secrets(provenance)
        pictures.append(
            TrainingPicture(spec.name, str(folder / file), sha256, count, "web", origin)
        )
    return pictures, rejected
