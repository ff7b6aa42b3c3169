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
    """An address that may lead to a picture, and what is known of it.

    Attributes:
        engine, query: which engine gave it, and what that was asked.
        url: the picture's address.
        page_url: the page that shows it.
        title, licence: as the engine or the page says.
    """

    engine: str
    query: str
    url: str
    page_url: str | None = None
    title: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was read.

    Attributes:
        candidates: the pictures it leads to, in its order.
        links: the pages it leads to, in its order.
        code: why it gave nothing, as in `Rejected.code`; None where it was read.
        reason: the same in a sentence.
    """

    candidates: tuple[Candidate, ...] = ()
    links: tuple[str, ...] = ()
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a candidate's address.

    Attributes:
        code: why it is not usable, as in `Rejected.code`; None for a usable picture.
        reason: the same in a sentence.
        picture: of a usable picture: file, sha256, bytes and the provenance of the fetch.
    """

    code: str | None = None
    reason: str | None = None
    picture: dict[str, Any] | None = None


class Journal:
    """The journal of one class; used by several threads of one process at a time.

    Args:
        path: the file; made when missing.

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
                (found,) = db.execute("PRAGMA user_version").fetchone()
                if found == 0:
                    for statement in _TABLES.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
                db.execute("COMMIT")
                (sound,) = db.execute("PRAGMA quick_check").fetchone()
            if sound != "ok" or found not in (0, VERSION):
                raise self._damaged(sound if sound != "ok" else f"it has version {found}")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Give the file back to other processes."""
        self._db.close()

    def page(self, engine: str, query: str, page: str) -> Page | None:
        """Return a page that was read, or None."""
        key = (engine, query, page)
        with self._guarded() as db:
            row = db.execute(
                "SELECT code, reason, links FROM pages WHERE (engine, query, page) = (?, ?, ?)", key
            ).fetchone()
            if row is None:
                return None
            found = db.execute(
                "SELECT engine, query, url, page_url, title, licence FROM candidates "
                "WHERE (engine, query, page) = (?, ?, ?) ORDER BY position",
                key,
            ).fetchall()
        code, reason, links = row
        return Page(tuple(Candidate(*fields) for fields in found), self._json(links), code, reason)

    def add_page(self, engine: str, query: str, page: str, read: Page) -> None:
        """Enter a page that was read and everything on it."""
        rows = [
            (engine, query, page, position, c.url, c.page_url, c.title, c.licence)
            for position, c in enumerate(read.candidates)
        ]
        with self._guarded() as db:
            db.execute("BEGIN")
            db.execute(
                "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)",
                (engine, query, page, read.code, read.reason, json.dumps(read.links)),
            )
            db.executemany(
                "INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            db.execute("COMMIT")

    def verdicts(self) -> dict[str, Verdict]:
        """Return what came of every address that was answered."""
        with self._guarded() as db:
            rows = db.execute("SELECT url, code, reason, picture FROM answers").fetchall()
        return {
            url: Verdict(code, reason, None if picture is None else self._json(picture))
            for url, code, reason, picture in rows
        }

    def add_verdict(self, url: str, verdict: Verdict) -> None:
        """Enter what came of an address."""
        picture = None if verdict.picture is None else json.dumps(verdict.picture)
        with self._guarded() as db:
            db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
                (url, verdict.code, verdict.reason, picture),
            )

    def drop_verdict(self, url: str) -> None:
        """Take an entry back, so that the address is asked again."""
        with self._guarded() as db:
            db.execute("DELETE FROM answers WHERE url = ?", (url,))

    def count_lost(self, url: str) -> int:
        """Count a run in which there was no network for an address; return how many there were."""
        with self._guarded() as db:
            db.execute(
                "INSERT INTO lost VALUES (?, 1) ON CONFLICT (url) DO UPDATE SET runs = runs + 1",
                (url,),
            )
            return db.execute("SELECT runs FROM lost WHERE url = ?", (url,)).fetchone()[0]

    def robots(self, origin: str) -> tuple[str, float] | None:
        """Return the robots.txt of a host and when it was fetched, or None."""
        with self._guarded() as db:
            return db.execute(
                "SELECT body, fetched FROM robots WHERE origin = ?", (origin,)
            ).fetchone()

    def add_robots(self, origin: str, body: str, fetched: float) -> None:
        """Enter the robots.txt of a host."""
        with self._guarded() as db:
            db.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", (origin, body, fetched))

    def finished(self, inputs: str) -> tuple[list[Candidate], list[str]] | None:
        """Return the candidates, in order, and the notes of a class that is complete, or None."""
        with self._guarded() as db:
            row = db.execute(
                "SELECT candidates, notes FROM finished WHERE inputs = ?", (inputs,)
            ).fetchone()
        if row is None:
            return None
        return [Candidate(**fields) for fields in self._json(row[0])], self._json(row[1])

    def finish(self, inputs: str, candidates: list[Candidate], notes: list[str]) -> None:
        """Enter that a class is complete."""
        order = json.dumps([asdict(candidate) for candidate in candidates])
        with self._guarded() as db:
            db.execute(
                "INSERT OR REPLACE INTO finished VALUES (?, ?, ?)",
                (inputs, order, json.dumps(notes)),
            )

    def use_limits(self, limits: str) -> None:
        """Forget what came of the addresses if that was found out under other limits."""
        with self._guarded() as db:
            row = db.execute("SELECT value FROM limits").fetchone()
            if row == (limits,):
                return
            db.execute("BEGIN")
            for table in ("answers", "finished", "limits"):
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO limits VALUES (?)", (limits,))
            db.execute("COMMIT")

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
