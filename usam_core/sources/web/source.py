"""Training pictures from the web: search engines, a list of addresses, or whole sites."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from usam_core.config.training import ClassSpec, WebConfig
from usam_core.errors import (
    ConfigError,
    InputError,
    StoreError,
    all_without_secrets,
    without_secrets,
)
from usam_core.files.atomic import only_one, sweep
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.paths import inside
from usam_core.files.spreadsheet import read_separated
from usam_core.files.text import normalize_name
from usam_core.progress import Bar, Progress
from usam_core.sam.load import cache_folder
from usam_core.sources.base import Collected, Rejected, TrainingPicture, class_folder
from usam_core.sources.web.guard import Budget
from usam_core.sources.web.journal import Candidate, Journal, Verdict
from usam_core.sources.web.run import ClassRun
from usam_core.sources.web.session import PoliteSession
from usam_core.sources.web.sites import address

WEB_REVISION = 1
"""Raised when the same settings lead to other pictures than before."""
JOURNAL = "journal.sqlite"
CRAWL_LOCK = "crawl.lock"
"""In the user's cache folder: two crawls at once would ask hosts twice as fast as allowed."""
FILE_KEYS = ("file", "sha256", "bytes")
"""What a verdict's picture holds beside the provenance."""


def read_url_list(path: Path, spec: ClassSpec) -> list[Candidate]:
    """Rows of one class, by its name or a synonym, in any case.

    Raises:
        InputError: the file is missing, unreadable, lacks a column or all rows, or a row of it
            holds no http address.
    """
    try:
        table = read_separated(path.read_bytes(), ("class", "url"))
    except FileNotFoundError as error:
        raise InputError(
            f"training.web.urls: {path}: no such file; expected a CSV file with the columns class "
            "and url. Correct the path, or take 'urls' out of training.web.engines"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"training.web.urls: {path} cannot be read as CSV: {error}; save it as CSV in UTF-8"
        ) from error
    columns = list(table.columns)
    missing = [name for name in ("class", "url") if name not in columns]
    if missing:
        raise InputError(
            f"training.web.urls: {path}, line 1: the columns are {columns}; {missing} are "
            "missing. Name the columns class and url (and, where known, licence and page_url)"
        )
    if table.empty:
        raise InputError(f"training.web.urls: {path} has no rows below its header; add some")
    names = {normalize_name(word) for word in (spec.name, *spec.synonyms)}
    rows = []
    for line, row in zip(table.index, table.to_dict("records"), strict=True):
        url = row["url"]
        if not url.lower().startswith(("http://", "https://")):
            raise InputError(
                f"training.web.urls: {path}, line {line}: url is {url!r}; expected an address that "
                "begins with http:// or https://"
            )
        if normalize_name(row["class"]) in names:
            page, licence = row.get("page_url") or None, row.get("licence") or None
            rows.append(Candidate("urls", path.name, url, page, None, licence))
    return rows


class WebSource:
    """Fetches pictures into `<folder>/<class>/`, beside a journal of what was asked and answered.

    `root` is the folder of the project file, from which `config.urls` counts.
    """

    name = "web"
    filtered = True

    def __init__(self, folder: Path, config: WebConfig, root: Path) -> None:
        self._folder = folder
        self._config = config
        self._root = root
        self._session = PoliteSession(config)
        self._used: dict[str, tuple[float, int]] = {}

    def inputs(self, spec: ClassSpec) -> Any:
        """What decides the pictures: what is asked, of whom, and the limits of size."""
        config = self._config
        return {
            "revision": WEB_REVISION,
            "queries": spec.queries or [spec.name],
            "engines": config.engines,
            "engine_urls": config.engine_urls,
            "per_class": config.per_class,
            "most_pages": config.max_pages,
            "sites": self._sites(spec),
            "urls": value_digest([astuple(row) for row in self._listed(spec)]),
            "max_file_mb": config.max_file_mb,
            "max_megapixels": config.max_megapixels,
            "max_total_mb": config.max_total_mb,
        }

    @property
    def wanted(self) -> int:
        """How many pictures a class shall have."""
        return self._config.per_class

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Fetch what is missing; return the class's pictures.

        One class is crawled at a time on this machine, whoever asks; what a class may use of
        time and bytes counts over all calls of one source.

        Raises:
            InputError: the list of addresses is not usable.
            ConfigError: an engine lacks the setting that it needs.
            StoreError: the class's journal is damaged.
            TransientError: there is no network, or no engine answers.
        """
        with only_one(cache_folder() / CRAWL_LOCK, f"the crawl for {spec.name!r}"):
            config = self._config.model_copy(update={"per_class": self.wanted + spare})
            inputs = value_digest([self.inputs(spec), spare])
            journal = Journal(self._folder / class_folder(spec.name) / JOURNAL)
            try:
                with progress.bar(f"Fetching {spec.name}", config.per_class) as bar:
                    return self._collect(spec, config, inputs, journal, bar)
            finally:
                journal.close()

    def _collect(
        self, spec: ClassSpec, config: WebConfig, inputs: str, journal: Journal, bar: Bar
    ) -> Collected:
        folder = self._folder / class_folder(spec.name)
        shown = 0

        def advance(usable: int) -> None:
            nonlocal shown
            bar.advance(max(usable - shown, 0))
            shown = max(usable, shown)

        # Hosts that are allowed now may have been refused before.
        limits = [config.max_file_mb, config.max_megapixels, sorted(config.allow_hosts)]
        journal.use_limits(json.dumps(limits))
        finished = journal.finished(inputs) if _tidy(folder, journal) else None
        complete = finished is not None
        if finished is None:
            budget = Budget(
                config.max_minutes * 60,
                int(config.max_total_mb * 1e6),
                self._used.get(spec.name, (0.0, 0)),
            )
            run = ClassRun(
                spec,
                config,
                self._sites(spec),
                self._listed(spec),
                folder,
                self._session,
                journal,
                budget,
                advance,
            )
            try:
                run.run()
            finally:
                self._used[spec.name] = budget.used
            finished, complete = (run.tally.order, run.notes), run.complete
            if complete:
                journal.finish(inputs, *finished)
        order, notes = finished
        pictures, rejected = sort_out(order, journal.verdicts(), config.per_class, spec, folder)
        advance(len(pictures))
        return Collected(pictures, rejected, all_without_secrets(notes), complete)

    def forget(self, spec: ClassSpec) -> None:
        """Drop the class's pictures and its journal."""
        shutil.rmtree(self._folder / class_folder(spec.name), ignore_errors=True)

    def _sites(self, spec: ClassSpec) -> list[str]:
        if "sites" not in self._config.engines:
            return []
        sites = [address(site) for site in self._config.sites.get(spec.name, [])]
        if not sites and self._config.engines == ["sites"]:
            raise ConfigError(
                f"training.web.sites names no site for the class {spec.name!r}, and 'sites' is the "
                f"only engine; found sites for {sorted(self._config.sites)}. Add some, or add an "
                "engine to training.web.engines"
            )
        return sites

    def _listed(self, spec: ClassSpec) -> list[Candidate]:
        if "urls" not in self._config.engines:
            return []
        if self._config.urls is None:
            raise ConfigError(
                "training.web.urls is missing, but 'urls' is one of training.web.engines; expected "
                "a CSV file with the columns class and url"
            )
        path = self._root / self._config.urls
        rows = read_url_list(path, spec)
        if not rows and self._config.engines == ["urls"]:
            raise InputError(
                f"training.web.urls: {path} has no row for the class {spec.name!r} (nor a "
                "synonym), and 'urls' is the only engine; add rows, or correct the column class"
            )
        return rows


def sort_out(
    order: Iterable[Candidate],
    verdicts: dict[str, Verdict],
    wanted: int,
    spec: ClassSpec,
    folder: Path,
) -> tuple[list[TrainingPicture], list[Rejected]]:
    """Return the first `wanted` usable pictures in the order of the candidates, and the others.

    Candidates without a verdict are left out; `folder` is where the files are.
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
        provenance = {
            "engine": candidate.engine,
            "query": candidate.query,
            "image_url": candidate.url,
            "page_url": candidate.page_url,
            "title": candidate.title,
            "licence": candidate.licence,
            **{key: value for key, value in verdict.picture.items() if key not in FILE_KEYS},
        }
        origin = all_without_secrets(provenance)
        pictures.append(
            TrainingPicture(spec.name, str(folder / file), sha256, count, "web", origin)
        )
    return pictures, rejected


def _tidy(folder: Path, journal: Journal) -> bool:
    """Remove what a kill left half done; return whether every entered picture is still there."""
    sweep(folder, deep=False)
    damaged = [
        url
        for url, verdict in journal.verdicts().items()
        if verdict.picture is not None and not _is_whole(folder, verdict.picture)
    ]
    for url in damaged:
        journal.drop_verdict(url)
    return not damaged


def _is_whole(folder: Path, picture: dict[str, Any]) -> bool:
    try:
        file = inside(folder, picture["file"])
        return file.is_file() and file_digest(file) == picture["sha256"]
    except (StoreError, KeyError, TypeError):
        return False
