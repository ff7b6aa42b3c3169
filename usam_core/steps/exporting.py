"""Exports the images of one shard to several formats: what is done at once, or again after a kill.

Files are written beside their places and digested, the digests written down, and only then are the
files renamed: a file of ours is never taken for a person's edit, nor an edit for ours.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from usam_core.files.atomic import (
    LONGEST_NAME,
    TEMPORARY_PREFIX,
    fault_point,
    put_in_place,
    sync_path,
    sync_tree,
    whole_file,
)
from usam_core.files.digest import value_digest
from usam_core.files.paths import remove
from usam_core.labels.image import LabelledImage
from usam_core.outputs.base import Writer
from usam_core.outputs.ledger import Ledger, Written, content_digest

ROWS = "rows"
INDEX = "index"
"""The part of a format's index, which no shard can be called."""
_SYNCS = 16


class Job(NamedTuple):
    """One format of one part that is to be written.

    Attributes:
        writer: of the format.
        key: digest of all that its files depend on.
    """

    writer: Writer
    key: str


class _Staged(NamedTuple):
    image: LabelledImage
    file: Written
    made: Path
    place: Path


def export_part(
    part: str, images: Iterable[LabelledImage], jobs: list[Job], ledger: Ledger
) -> None:
    """Write the files and the rows of one part's images, all formats in one pass.

    Args:
        jobs: the formats to write.
        ledger: knows what was written before.
    """
    staged: dict[str, list[_Staged]] = {job.writer.name: [] for job in jobs}
    kept: dict[str, list[Written]] = {job.writer.name: [] for job in jobs}
    with ExitStack() as open_files:
        rows = {}
        for job in (job for job in jobs if job.writer.indexed):
            file = rows_file(ledger.folder, job.writer.name, part)
            temporary = open_files.enter_context(whole_file(file))
            rows[job.writer.name] = open_files.enter_context(open(temporary, "w", encoding="utf-8"))
        for image in images:
            for job in jobs:
                name = job.writer.name
                for row in job.writer.rows(image):
                    rows[name].write(json.dumps(row, ensure_ascii=False) + "\n")
                made = _stage(image, job.writer, ledger)
                if made is None:
                    continue
                if _keep(image, job.writer, made, ledger):
                    remove(made.made.parent, made.made)
                    kept[name].append(made.file)
                else:
                    staged[name].append(made)
    # The disk keeps many at a time, because it waits once for all.
    with ThreadPoolExecutor(_SYNCS) as threads:
        list(threads.map(sync_tree, [one.made for ready in staged.values() for one in ready]))
    for job in jobs:
        ready = staged[job.writer.name]
        ledger.plan(job.writer.name, [one.file for one in ready])
        for one in ready:
            fault_point("rename", one.place)
            _place(one.made, one.place)
            fault_point("renamed", one.place)
            job.writer.placed(one.image)
        # The names too: the ledger is not to know files that a power cut takes back.
        for folder in {one.place.parent for one in ready}:
            sync_path(folder)
        placed = [one.file for one in ready]
        ledger.finish(job.writer.name, part, job.key, placed, kept[job.writer.name])


def remove_left_over(writer: Writer, ledger: Ledger) -> None:
    """Remove the files of a format that no image has any more; those that were edited stay.

    Their images are gone, or have files of other names now.
    """
    while paths := ledger.left_over(writer.name):
        for path in paths:
            place = ledger.place(writer.name, path)
            if place is None:
                continue  # no file of ours: the table alone forgets it
            if ledger.edited(writer.name, path):
                writer.note(
                    f"{writer.name}: {path} was edited and is kept, though its image is gone or "
                    "has a file of another name now"
                )
                continue
            _take_away(place)
            writer.removed(place)
        ledger.drop_files(writer.name, paths)


def rows_file(folder: Path, format_: str, part: str) -> Path:
    """Where the rows of one part lie."""
    return folder / ROWS / format_ / f"{part}.jsonl"


def read_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the rows of several parts, one in memory at a time."""
    for file in files:
        with open(file, encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _stage(image: LabelledImage, writer: Writer, ledger: Ledger) -> _Staged | None:
    place = writer.target(image)
    if place is None:
        return None
    path = ledger.relative(place)
    ledger.check(writer.name, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    # One name for each place: what a killed run left is written over, not left lying.
    made, old = _beside(place), _beside(place, "old-")
    for left in (made, old):
        remove(place.parent, left)
    writer.write(image, made)
    fault_point("half", place, made)
    file = Written(path, image.path, content_digest(made))
    # Without masks, and without what the writers have decoded of them.
    return _Staged(replace(image, instances=()), file, made, place)


def _keep(image: LabelledImage, writer: Writer, made: _Staged, ledger: Ledger) -> bool:
    """Whether a person's edit lies where a file is to go."""
    if not ledger.edited(writer.name, made.file.path):
        return False
    if content_digest(made.place) == made.file.sha256:
        return False
    if can_be_read(writer, image, made.place):
        return True
    writer.note(f"{writer.name}: {made.file.path} was damaged and is written again")
    return False


def can_be_read(writer: Writer, image: LabelledImage, file: Path) -> bool:
    """Whether a file of an image can be read as one of the writer's format."""
    try:
        writer.read(image, file)
    except Exception:  # readers raise anything on damaged bytes
        return False
    return True


def _place(made: Path, place: Path) -> None:
    # A folder cannot be renamed over another; without either, the next run writes it again.
    if place.is_dir():
        _take_away(place)
    put_in_place(made, place)


def _take_away(place: Path) -> None:
    """Remove a file, or a folder at once: half of one would pass for a person's edit."""
    old = _beside(place, "old-")
    remove(place.parent, old)
    if place.is_dir() and not place.is_symlink():
        os.rename(place, old)
        fault_point("rename", old)
        remove(place.parent, old)
    else:
        place.unlink(missing_ok=True)


def _beside(place: Path, mark: str = "") -> Path:
    made = place.parent / f"{TEMPORARY_PREFIX}{mark}{place.name}"
    if len(os.fsencode(made.name)) <= LONGEST_NAME:
        return made
    return made.with_name(f"{TEMPORARY_PREFIX}{mark}{value_digest(place.name)[:16]}")
