"""What an export has written, so that a person's edits are told from our own files.

A table in SQLite, because a million images must not be held, and a shard's lines must be there
all or none. A file may be replaced only after its new digest was written down (`plan`): whenever
the process dies, every file of ours has one of the digests that are known.
"""

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from usam_core.errors import StoreError
from usam_core.files.atomic import fault_point
from usam_core.files.digest import files_digest, folder_stamp
from usam_core.files.paths import inside, way_to
from usam_core.labels.image import LabelledImage, count_labels
from usam_core.labels.label_map import LabelMap
from usam_core.outputs.base import Writer

_TABLES = """
CREATE TABLE IF NOT EXISTS file (
    format TEXT, path TEXT, image TEXT, part TEXT, sha256 TEXT, planned TEXT, stamp TEXT,
    PRIMARY KEY (format, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS part (
    format TEXT, part TEXT, key TEXT, PRIMARY KEY (format, part)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS file_part ON file (format, part);
"""
_COLUMNS = {
    "file": ["format", "path", "image", "part", "sha256", "planned", "stamp"],
    "part": ["format", "part", "key"],
}
_MAX_LEFT_OVER = 1000
_OURS = re.compile(r"usam(_.+)?")
"""What labels within an image are called (`outputs.ome_zarr`)."""


class Written(NamedTuple):
    """One file that was put in place, or that a person's edit kept from being put there.

    Attributes:
        path: relative to the ledger's folder.
        image: path of the image, as listed.
        sha256: digest of what we made.
    """

    path: str
    image: str
    sha256: str


class Ledger:
    """The table of one export folder; only one process may have it open.

    Args:
        file: the SQLite file.
        images: folder of images that may hold labels themselves, as OME-Zarr do; a URL holds none.

    Attributes:
        refused: paths of the table where no export writes, each with a sentence that says so.
    """

    def __init__(self, file: Path, images: str | None = None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.folder, self._file, self._images = file.parent, file, images
        self.refused: dict[str, str] = {}
        try:
            self._db = sqlite3.connect(file)
            self._db.executescript(_TABLES)
            for table, columns in _COLUMNS.items():
                present = [row[1] for row in self._db.execute(f"PRAGMA table_info({table})")]
                if present != columns:
                    raise sqlite3.DatabaseError(f"{table} has the columns {present}")
        except sqlite3.Error as error:
            raise StoreError(
                f"{file}: the list of what was exported is damaged ({error}); `usam check "
                "--repair` drops it, and the next export writes it anew: edited files stay"
            ) from error

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(
                f"{self.folder}: what was exported cannot be written down: {error}. Free space or "
                "allow writing there, or move a damaged ledger away, and run again: what was done "
                "is kept"
            ) from error

    def relative(self, path: Path) -> str:
        """A path as the table has it: a project that is moved finds its files."""
        return way_to(path, self.folder)

    def check(self, format_: str, path: str) -> Path:
        """The place of a file of a format: below the folder, or among an image's labels.

        Raises:
            StoreError: elsewhere, where no export writes.
        """
        if format_ == "ome_zarr" and self._images is not None and isinstance(path, str):
            labels = PurePosixPath(path)
            way = way_to(self.folder / path, self._images)
            ours = labels.parts[-2:-1] == ("labels",) and _OURS.fullmatch(labels.name)
            if ours and not way.startswith(os.pardir):
                return inside(self._images, way, self._file)
        return inside(self.folder, path, self._file)

    def place(self, format_: str, path: str) -> Path | None:
        """The same of a file of the table; None elsewhere, and `refused` says so."""
        try:
            return self.check(format_, path)
        except StoreError as error:
            self.refused[path] = str(error)
            return None

    def done(self, format_: str, part: str, key: str) -> bool:
        """Whether a part was exported under this key and all its files are there."""
        keys = self._column("SELECT key FROM part WHERE format = ? AND part = ?", format_, part)
        return keys == [key] and self._are_there(self.of_part(format_, part))

    def plan(self, format_: str, files: Iterable[Written]) -> None:
        """Write down the files to come; parts that had these files are no longer done."""
        files = list(files)
        if not files:
            return
        with self._db:
            self._disown(format_, files)
            self._db.executemany(
                "INSERT INTO file VALUES (?, ?, ?, NULL, NULL, ?, NULL) "
                "ON CONFLICT DO UPDATE SET planned = excluded.planned, image = excluded.image",
                [(format_, file.path, file.image, file.sha256) for file in files],
            )
            fault_point("half", self._file)

    def finish(
        self, format_: str, part: str, key: str, placed: list[Written], kept: list[Written]
    ) -> None:
        """Write down that a part is done; `kept` are files whose edits stay."""
        stamps = [*(stamp_of(self.folder / file.path) for file in placed), *[None] * len(kept)]
        with self._db:
            self._disown(format_, kept)
            # What the part had before and has no more is nobody's, until another part takes it.
            self._db.execute(
                "UPDATE file SET part = NULL WHERE format = ? AND part = ?", (format_, part)
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, NULL, ?)",
                [
                    (format_, file.path, file.image, part, file.sha256, stamp)
                    for file, stamp in zip([*placed, *kept], stamps, strict=True)
                ],
            )
            self._db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?)", (format_, part, key))
            fault_point("half", self._file)

    def _disown(self, format_: str, files: list[Written]) -> None:
        self._db.executemany(
            "DELETE FROM part WHERE format = ? AND part IN "
            "(SELECT part FROM file WHERE format = ? AND path = ?)",
            [(format_, format_, file.path) for file in files],
        )

    def edited(self, format_: str, path: str) -> bool:
        """Whether a file is there and not as we wrote it, or not ours at all."""
        row = self._db.execute(
            "SELECT sha256, planned, stamp FROM file WHERE format = ? AND path = ?",
            (format_, path),
        ).fetchone()
        place = self.place(format_, path)
        return place is not None and _differs(place, *(row or (None, None, None)))

    def edits(self, format_: str) -> Iterator[tuple[Path, str]]:
        """Yield place and image of each file of a format that is no longer as we wrote it."""
        rows = self._db.execute(
            "SELECT path, image, sha256, planned, stamp FROM file WHERE format = ? ORDER BY path",
            (format_,),
        )
        for path, image, *known in rows:
            place = self.place(format_, path)
            if place is not None and _differs(place, *known):
                yield place, image

    def differing(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield format, path and image of each image's file that is not as we wrote it, and why.

        Every byte is read. Why is empty where a person may have changed it: another size or time.
        """
        rows = self._db.execute(
            "SELECT format, path, image, sha256, planned, stamp FROM file "
            "WHERE part IS NOT NULL AND image != '' ORDER BY format, path"
        )
        for format_, path, image, sha256, planned, stamp in rows:
            place = self.place(format_, path)
            if place is None:
                continue  # no export writes there: `refused` says so
            if not os.path.lexists(place):
                yield format_, path, image, "missing"
            elif content_digest(place) not in (sha256, planned):
                same = stamp is not None and stamp_of(place) == stamp
                yield format_, path, image, "the bytes are not the ones written" if same else ""

    def whole(self, format_: str) -> bool:
        """Whether all files of a format are there."""
        return self._are_there(self._column("SELECT path FROM file WHERE format = ?", format_))

    def formats(self) -> list[str]:
        """The formats that were ever exported."""
        return self._column("SELECT DISTINCT format FROM part")

    def forget(self, format_: str) -> None:
        """Do all parts of a format again; whose files are whose stays known."""
        with self._db:
            self._db.execute("DELETE FROM part WHERE format = ?", (format_,))

    def drop_parts(self, format_: str, kept: set[str]) -> None:
        """Forget parts that are no more; their files are nobody's."""
        owners = self._column(
            "SELECT part FROM part WHERE format = ?1 "
            "UNION SELECT part FROM file WHERE format = ?1 AND part IS NOT NULL",
            format_,
        )
        stale = [(format_, part) for part in owners if part not in kept]
        with self._db:
            self._db.executemany("DELETE FROM part WHERE format = ? AND part = ?", stale)
            self._db.executemany("UPDATE file SET part = NULL WHERE format = ? AND part = ?", stale)

    def left_over(self, format_: str) -> list[str]:
        """Some of the files that no part has; none when there are none."""
        sql = "SELECT path FROM file WHERE format = ? AND part IS NULL LIMIT ?"
        return self._column(sql, format_, _MAX_LEFT_OVER)

    def of_part(self, format_: str, part: str) -> list[str]:
        """The files of a part."""
        return self._column("SELECT path FROM file WHERE format = ? AND part = ?", format_, part)

    def drop_files(self, format_: str, paths: list[str]) -> None:
        """Forget files."""
        with self._db:
            self._db.executemany(
                "DELETE FROM file WHERE format = ? AND path = ?", [(format_, p) for p in paths]
            )

    def _column(self, sql: str, *values: object) -> list[Any]:
        return [value for (value,) in self._db.execute(sql, values)]

    def _are_there(self, paths: Iterable[object]) -> bool:
        return all(os.path.lexists(self.folder / str(path)) for path in paths)


def content_digest(path: Path) -> str:
    """Digest of a file, or of a folder's files with their names."""
    return files_digest(path)


def stamp_of(path: Path) -> str | None:
    """Size and time of a file, or the stamp of a folder; None if there is no telling."""
    if path.is_dir():
        stamp = folder_stamp(path)
        return stamp.digest if stamp else None
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _differs(path: Path, sha256: str | None, planned: str | None, stamp: str | None) -> bool:
    """Whether the file at a path is neither what we wrote nor what we meant to write."""
    if not os.path.lexists(path):
        return False
    if stamp is not None and stamp_of(path) == stamp:
        return False
    return content_digest(path) not in (sha256, planned)


@dataclass(frozen=True, slots=True)
class Edit:
    """The difference between a file as it was written and as it is.

    Attributes:
        format: of the file.
        image: path of the image.
        path: of the file.
        pixels: number of pixels with another class; None where only the counts are known.
        by_class: for each class that differs, pixels before and now.
        objects: for each class that differs, objects before and now.
        unreadable: why the file cannot be read, where it cannot.
    """

    format: str
    image: str
    path: str
    pixels: int | None
    by_class: dict[str, tuple[int, int]]
    objects: dict[str, tuple[int, int]]
    unreadable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-like mapping."""
        return asdict(self)

    def sentence(self) -> str:
        """The difference in words."""
        if self.unreadable is not None:
            return f"unreadable: {self.unreadable}"
        words = [] if self.pixels is None else [f"{self.pixels} pixels have another class"]
        words += [f"{n} {a} -> {b} pixels" for n, (a, b) in self.by_class.items()]
        words += [f"{n} {a} -> {b} objects" for n, (a, b) in self.objects.items()]
        return "; ".join(words) or "saved again, nothing changed"


def compare(writer: Writer, image: LabelledImage, path: Path) -> Edit:
    """Compare a file as it is now with what its format's writer makes of the same image."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / path.name
        writer.write(image, fresh)
        before = writer.read(image, fresh)
    names = (writer.name, image.path, str(path))
    try:
        now = writer.read(image, path)
    except Exception as error:  # readers raise anything on damaged bytes
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Edit(*names, None, {}, {}, why)
    by_class = count_labels(before.classes), count_labels(now.classes)
    return Edit(
        *names,
        int((before.classes != now.classes).sum()),
        changed_counts(*by_class, image.label_map),
        changed_counts(before.objects, now.objects, image.label_map),
    )


def changed_counts(
    before: Mapping[int, int], now: Mapping[int, int], label_map: LabelMap
) -> dict[str, tuple[int, int]]:
    """The counts that differ, by the labels' names: `unknown` for labels that are not ours."""
    changed: dict[str, tuple[int, int]] = {}
    for label in sorted({*before, *now}):
        old, new = before.get(label, 0), now.get(label, 0)
        if old != new:
            name = label_map.name_of(label)
            earlier = changed.get(name, (0, 0))
            changed[name] = (earlier[0] + old, earlier[1] + new)
    return changed
