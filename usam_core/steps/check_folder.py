"""What a step's folder says of files, by their digests, and whether it is so.

`usam check` asks this of all steps, `usam lineage` of those that one output stands on. It needs no
settings of the project: records, documents and tables say it all.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from usam_core.errors import StoreError
from usam_core.files.digest import value_digest
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.parquet import read_frame
from usam_core.files.paths import inside, removable
from usam_core.labels.parts import PARTS, Parts
from usam_core.lineage.document import LINEAGE, portable, read_document
from usam_core.sources.base import class_folder, manifest_path
from usam_core.steps import compose, export
from usam_core.steps.class_pictures import FOUND
from usam_core.steps.damage import Remade, Walk
from usam_core.steps.record import RECORD, made_digest, read_record
from usam_core.store.layout import remove_folder

Kind = Literal["lineage", "outputs", "pictures", "scenes", "labels", "images"]


class Claim(NamedTuple):
    """One file, as a step says that it wrote or read it.

    Attributes:
        kind: what it is.
        path: a path, or the URL of an image.
        sha256: its content key.
        row: what the manifest or the table of scenes says of it; the labelled image.
    """

    kind: Kind
    path: Path | str
    sha256: str
    row: Any = None

    @property
    def stored(self) -> list[str]:
        """Return which images the store must have, since there is this file."""
        if self.kind == "labels":
            return list(self.row.tiles or [self.row.sha256])
        return [self.sha256] if self.kind == "scenes" and self.sha256 == self.row["sha256"] else []


class FolderCheck:
    """Looks at one step's folder.

    Attributes:
        document: the step's `lineage.json`; None if it cannot be read or is not to be believed.
        record: None if there is none as it was written.
        outputs: the step's files with their digests, as one of the two says.
        bad: what was found damaged so far.
    """

    def __init__(self, walk: Walk, folder: Path, step: str) -> None:
        self.walk, self.folder, self.step = walk, folder, step
        self.bad: set[Path | str] = set()
        self.record = read_record(folder)
        self.document: dict[str, Any] | None = None
        with suppress(StoreError, OSError):
            self.document = read_document(folder / LINEAGE)
        known = self.record.outputs if self.record else (self.document or {}).get("outputs", {})
        self.outputs: dict[str, str] = known

    def check_record(self) -> None:
        """Check that the step finished."""
        file = self.folder / RECORD
        if self.record is not None:
            self.walk.count(file)
        elif file.exists() or self.document is not None:
            what = "not as it was written" if file.exists() else "missing"
            self.tell(file, what, "run", partial(self.remove, file))

    def claims(self) -> Iterator[Claim]:
        """Yield what the step says of its files, first of its outputs.

        Check each before the next: what a damaged table lists is left out.
        """
        listed = {"collect": self._pictures, "compose": self._scenes, "annotate": self._labels}
        try:
            for name, sha256 in self.outputs.items():
                kind: Kind = "lineage" if name == LINEAGE else "outputs"
                yield Claim(kind, inside(self.folder, name, self.folder / LINEAGE), sha256)
            if self.step in listed:
                yield from listed[self.step]()
        except (StoreError, OSError, ValueError, KeyError, TypeError) as error:
            # Whatever a table makes of itself that was damaged before it was recorded.
            self.tell(self.folder, f"cannot be read: {error}", "run", self.drop)

    def check(self, claim: Claim) -> None:
        """Compare one file with what is said of it."""
        self.walk.need(claim.stored)
        what = self.walk.differs(claim.path, claim.sha256)
        both = claim.kind == "lineage" and self.record and self.document
        if not what and both and value_digest(self.document["outputs"]) != made_digest(self.record):
            what = f"names other outputs than {RECORD}"
        if what:
            self._tell_of(claim, what)

    def picture(self, name: str, named_by: Path) -> Path:
        """Return where a training picture lies that the manifest names."""
        del named_by
        return Path(os.path.normpath(self.walk.root / name))

    def drop(self, *files: Path) -> None:
        """Remove files, and first of all the record: the step has not happened any more.

        Raises:
            StoreError: one does not lie in the step's folder; nothing was removed.
        """
        for file in [self._own(file) for file in (self.folder / RECORD, *files)]:
            remove_folder(file)

    def remove(self, file: Path) -> None:
        """Remove a file, or a folder in its place.

        Raises:
            StoreError: it does not lie in the step's folder.
        """
        remove_folder(self._own(file))

    def _own(self, file: Path) -> Path:
        return removable(self.folder.parent, removable(self.folder, file))

    def tell(
        self,
        path: Path | str,
        what: str,
        remade: Remade,
        mend: Callable[[], object] = lambda: None,
        advice: str = "",
    ) -> None:
        """Add a damage of this step."""
        self.bad.add(path)
        if remade == "run" and os.path.isdir(path):
            remade = "repair"  # a file cannot be renamed over a folder
        self.walk.tell(path, what, self.step, remade, mend, advice)

    def _pictures(self) -> Iterator[Claim]:
        manifest = manifest_path(self.folder)
        if self._holds(manifest):
            table = read_frame(manifest, ["class", "path", "sha256"])
            for row in table.to_dict("records"):
                path = self.picture(row["path"], manifest)
                yield Claim("pictures", path, row["sha256"], row)

    def _scenes(self) -> Iterator[Claim]:
        table = self.folder / compose.SCENES
        if self._holds(table):
            for row in read_frame(table).to_dict("records"):
                yield Claim("scenes", inside(self.folder, row["path"], table), row["sha256"], row)
                truth = inside(self.folder, row["truth"], table)
                yield Claim("scenes", truth, row["truth_sha256"], row)

    def _labels(self) -> Iterator[Claim]:
        for part in sorted(name for name in self.outputs if name.startswith(PARTS)):
            if not self._holds(self.folder / part):
                continue
            images = (self.document or {}).get("inputs", {}).get("images", {}).get("path")
            for row in Parts(self.folder, {part: None}).images(["tiles"]):
                yield Claim("labels", row.png_file, row.png_sha256, row)
                if images is not None:
                    image = join(images, row.path)
                    path = image if is_url(images) else self.walk.root / image
                    yield Claim("images", path, row.sha256, row)

    def _holds(self, table: Path) -> bool:
        return table not in self.bad and table.is_file()

    def _tell_of(self, claim: Claim, what: str) -> None:
        path, then = claim.path, "else the next `usam run`"
        if claim.kind == "images":
            advice = f"your image: put it back as it was; {then} labels what is there then"
            self.tell(path, what, "no", advice=advice)
        elif claim.kind == "pictures" and not path.is_relative_to(self.folder):
            said = f"a picture of {claim.row['class']} that you gave: put it back as it was"
            self.tell(path, what, "no", advice=f"{said}; {then} learns from what is there then")
        elif claim.kind == "pictures":
            found = self.folder / FOUND / f"{class_folder(claim.row['class'])}.json"
            self.tell(path, what, "repair", partial(self.drop, path, found))
        elif claim.kind == "labels" and claim.row.is_edited():
            self.walk.found.edits.append(portable(path, self.walk.root))
        else:
            self.tell(path, what, "run", partial(self._drop_output, path))

    def _drop_output(self, file: Path) -> None:
        name = file.relative_to(self.folder).as_posix()
        if self.step == "export" and not name.startswith((export.ROWS, LINEAGE)) and file.exists():
            export.set_aside(self._own(file))  # a person may have edited an index
        self.drop(file)
