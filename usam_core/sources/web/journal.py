"""What was asked and answered for one class, in one SQLite file that outlives a kill.

A result page is entered together with the results on it, a picture after its file is whole: what
stands here is done.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError

VERSION = 1

_TABLES = """
CREATE TABLE pages (
    engine TEXT, query TEXT, page TEXT, code TEXT, reason TEXT, links TEXT,
    PRIMARY KEY (engine, query, page));
CREATE TABLE candidates (
    engine TEXT, query TEXT, page TEXT, position INTEGER,
    url TEXT, page_url TEXT, title TEXT, licence TEXT,
    PRIMARY KEY (engine, query, page, position));
CREATE TABLE answers (url TEXT PRIMARY KEY, code TEXT, reason TEXT, picture TEXT);
CREATE TABLE lost (url TEXT PRIMARY KEY, runs INTEGER);
CREATE TABLE robots (origin TEXT PRIMARY KEY, body TEXT, fetched REAL);
CREATE TABLE finished (inputs TEXT PRIMARY KEY, candidates TEXT, notes TEXT);
CREATE TABLE limits (value TEXT);
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address that may lead to a picture: which engine gave it, asked what, the page that shows
    it, title and licence as engine or page say."""

    engine: str
    query: str
    url: str
    page_url: str | None = None
    title: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was read: the pictures and the pages it leads to, in its order.

    `code` and `reason` say why it gave nothing, as in `Rejected`; None where it was read.
    """

    candidates: tuple[Candidate, ...] = ()
    links: tuple[str, ...] = ()
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a candidate's address: why it is not usable, as in `Rejected`, or a picture.

    `picture` holds file, sha256, bytes and the provenance of the fetch.
    """

    code: str | None = None
    reason: str | None = None
    picture: dict[str, Any] | None = None


class Journal:
    """The journal of one class, made when missing; for several threads of one process at a time.

    Raises:
        StoreError: the file is damaged, of another version, or used by another process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=1, check_same_thread=False, isolation_level=None)
        try:
            with self._guarded() as db:
                # One process at a time: the lock is held until the journal is closed.
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("BEGIN IMMEDIATE")
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in _TABLES.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
                db.execute("COMMIT")
                (sound,) = db.execute("PRAGMA quick_check").fetchone()
            if sound != "ok" or version not in (0, VERSION):
                raise self._damaged(sound if sound != "ok" else f"it has version {version}")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Give the file back to other processes."""
        self._db.close()

    def page(self, engine: str, query: str, page: str) -> Page | None:
        """A page that was read, or None."""
        where = "WHERE (engine, query, page) = (?, ?, ?)"
        key = (engine, query, page)
        read = self._rows(f"SELECT links, code, reason FROM pages {where}", *key)
        if not read:
            return None
        rows = self._rows(
            "SELECT engine, query, url, page_url, title, licence FROM candidates "
            f"{where} ORDER BY position",
            *key,
        )
        links, code, reason = read[0]
        return Page(tuple(Candidate(*row) for row in rows), self._json(links), code, reason)

    def add_page(self, engine: str, query: str, page: str, read: Page) -> None:
        """Enter a page that was read and everything on it."""
        rows = [
            (engine, query, page, position, c.url, c.page_url, c.title, c.licence)
            for position, c in enumerate(read.candidates)
        ]
        entry = (engine, query, page, read.code, read.reason, json.dumps(read.links))
        with self._guarded() as db:
            db.execute("BEGIN")
            db.execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)", entry)
            db.executemany(
                "INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            db.execute("COMMIT")

    def verdicts(self) -> dict[str, Verdict]:
        """What came of every address that was answered."""
        rows = self._rows("SELECT url, code, reason, picture FROM answers")
        return {
            url: Verdict(code, reason, None if picture is None else self._json(picture))
            for url, code, reason, picture in rows
        }

    def add_verdict(self, url: str, verdict: Verdict) -> None:
        """Enter what came of an address."""
        picture = None if verdict.picture is None else json.dumps(verdict.picture)
        entry = (url, verdict.code, verdict.reason, picture)
        self._rows("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", *entry)

    def drop_verdict(self, url: str) -> None:
        """Take an entry back, so that the address is asked again."""
        self._rows("DELETE FROM answers WHERE url = ?", url)

    def count_lost(self, url: str) -> int:
        """Count a run in which there was no network for an address; return how many there were."""
        again = "ON CONFLICT (url) DO UPDATE SET runs = runs + 1"
        self._rows(f"INSERT INTO lost VALUES (?, 1) {again}", url)
        return self._rows("SELECT runs FROM lost WHERE url = ?", url)[0][0]

    def robots(self, origin: str) -> tuple[str, float] | None:
        """The robots.txt of a host and when it was fetched, or None."""
        return next(
            iter(self._rows("SELECT body, fetched FROM robots WHERE origin = ?", origin)), None
        )

    def add_robots(self, origin: str, body: str, fetched: float) -> None:
        """Enter the robots.txt of a host."""
        self._rows("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", origin, body, fetched)

    def finished(self, inputs: str) -> tuple[list[Candidate], list[str]] | None:
        """The candidates, in order, and the notes of a class that is complete, or None."""
        for order, notes in self._rows(
            "SELECT candidates, notes FROM finished WHERE inputs = ?", inputs
        ):
            return [Candidate(**fields) for fields in self._json(order)], self._json(notes)
        return None

    def finish(self, inputs: str, candidates: list[Candidate], notes: list[str]) -> None:
        """Enter that a class is complete."""
        order = json.dumps([asdict(candidate) for candidate in candidates])
        entry = (inputs, order, json.dumps(notes))
        self._rows("INSERT OR REPLACE INTO finished VALUES (?, ?, ?)", *entry)

    def use_limits(self, limits: str) -> None:
        """Forget what came of the addresses if that was found out under other limits."""
        if self._rows("SELECT value FROM limits") == [(limits,)]:
            return
        with self._guarded() as db:
            db.execute("BEGIN")
            for table in ("answers", "finished", "limits"):
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO limits VALUES (?)", (limits,))
            db.execute("COMMIT")

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._guarded() as db:
            return db.execute(statement, values).fetchall()

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._db
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise self._damaged(error) from error
            raise StoreError(
                f"{self._path}: another process fetches this class; let it end first"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> StoreError:
        return StoreError(
            f"{self._path}: the journal of fetched pictures is damaged or of another version "
            f"({why}); delete the folder {self._path.parent} to fetch the class anew"
        )
