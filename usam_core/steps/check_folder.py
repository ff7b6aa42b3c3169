"""Compares the files of a step's folder, and of a store, with the digests recorded for them.

`usam check` does this for all steps, `usam lineage` for those that one output depends on. It needs
no settings of the project: records, documents and tables name all files.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from usam_core.errors import StoreError
from usam_core.files.digest import value_digest
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.parquet import read_frame
from usam_core.files.paths import inside, removable
from usam_core.images.listing.content import mismatch
from usam_core.labels.parts import PARTS, Parts
from usam_core.lineage.document import LINEAGE, RECORD, portable, read_document
from usam_core.progress import SILENT, Progress
from usam_core.sources.base import class_folder, manifest_path
from usam_core.steps import compose, export
from usam_core.steps.collect import FOUND
from usam_core.steps.exporting import ROWS
from usam_core.steps.record import made_digest, read_record
from usam_core.store.layout import (
    CACHE_FILE,
    CHECKED_FILE,
    FEATURES,
    GROUP_FILE,
    SHARDS,
    make_store,
    read_group,
    remove_folder,
)
from usam_core.store.store import EmbeddingStore

Kind = Literal["lineage", "outputs", "pictures", "scenes", "labels", "images"]
Remade = Literal["run", "repair", "no"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One file, or one folder, that is not as it was written.

    Attributes:
        path: from the project's folder, if it lies there.
        what: what is wrong, in words.
        step: which step made it; empty for what a person made.
        remade: `run`, the next run makes it again; `repair`, it does so after a repair; `no`,
            nothing can.
        advice: what to do, where that is more.
    """

    path: str
    what: str
    step: str
    remade: Remade
    advice: str = ""

    @property
    def sentence(self) -> str:
        """The damage in one line, with the fix."""
        again = f"run `usam {self.step}` again"
        fix = again if self.remade == "run" else f"`usam check --repair` drops it; then {again}"
        return f"{self.path}: {self.what}: {self.advice or fix}"


@dataclass(slots=True)
class Check:
    """A check of files: what it needs to know on its way, and its result.

    Attributes:
        root: the project's folder.
        repair: drop what is damaged and can be made again.
        damages: what is damaged.
        edits: files that a person has changed, which are kept.
        files: how many files were read.
        bytes: how many bytes.
        seconds: how long it took.
        stores: the spec of each store that results depend on, by its folder.
        images: what these stores must hold: the first 64 bits of digests.
    """

    root: Path
    repair: bool = False
    progress: Progress = SILENT
    damages: list[Damage] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    stores: dict[Path, dict[str, Any]] = field(default_factory=dict)
    images: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged, or only what a repair has dropped."""
        return not any(one.remade == "no" or not self.repair for one in self.damages)

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-like mapping."""
        return {
            "damages": [asdict(one) for one in self.damages],
            "edits": self.edits,
            "files": self.files,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "repaired": self.repair,
            "sound": self.sound,
        }

    def tell(
        self,
        path: Path | str,
        what: str,
        step: str,
        remade: Remade,
        mend: Callable[[], object] = lambda: None,
        advice: str = "",
    ) -> None:
        """Add a damage, and mend it if that is wanted and can be: nothing outside is touched."""
        name = portable(path, self.root) if isinstance(path, Path) else path
        if self.repair and remade != "no":
            try:
                mend()
            except StoreError as error:
                remade, advice = "no", str(error)
        self.damages.append(Damage(name, what, step, remade, advice))

    def count(self, path: Path | str) -> None:
        """Count what was read of a file; one that is not there, or a plane of one, is nothing."""
        with suppress(OSError):
            self.bytes += Path(path).stat().st_size
            self.files += 1

    def differs(self, path: Path | str, sha256: str) -> str:
        """How a file differs from its digest, "" if it does not; counts it."""
        what = mismatch(path, sha256)
        self.count(path)
        return what

    def need(self, shas: Iterable[str]) -> None:
        """Note that the stores must hold these images."""
        self.images.extend(_first_bits(shas))


def _first_bits(shas: Iterable[str]) -> "array[int]":
    return array("Q", (int(sha256[:16], 16) for sha256 in shas))


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
        """The images that the store must have, since there is this file."""
        if self.kind == "labels":
            return list(self.row.tiles or [self.row.sha256])
        return [self.sha256] if self.kind == "scenes" and self.sha256 == self.row["sha256"] else []


class FolderCheck:
    """Checks one step's folder.

    Attributes:
        document: the step's `lineage.json`; None if it cannot be read or is not to be believed.
        record: None if there is none as it was written.
        outputs: the step's files with their digests, as one of the two says.
        bad: what was found damaged so far.
    """

    def __init__(self, check: Check, folder: Path, step: str) -> None:
        self.all, self.folder, self.step = check, folder, step
        self.bad: set[Path | str] = set()
        self.record = read_record(folder)
        self.document: dict[str, Any] | None = None
        with suppress(StoreError, OSError):
            self.document = read_document(folder / LINEAGE)
        known = self.record.outputs if self.record else (self.document or {}).get("outputs", {})
        self.outputs: dict[str, str] = known

    @property
    def inputs(self) -> dict[str, Any]:
        """What the document says that the step read."""
        return (self.document or {}).get("inputs", {})

    def check_record(self) -> None:
        """Check that the step finished."""
        file = self.folder / RECORD
        if self.record is not None:
            self.all.count(file)
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
            # A table that was damaged before it was recorded may raise any of these.
            self.tell(self.folder, f"cannot be read: {error}", "run", self.drop)

    def check(self, claim: Claim) -> None:
        """Compare one file with what is said of it."""
        self.all.need(claim.stored)
        what = self.all.differs(claim.path, claim.sha256)
        if claim.kind == "lineage" and self.record and self.document and not what:
            same = value_digest(self.document["outputs"]) == made_digest(self.record)
            what = "" if same else f"names other outputs than {RECORD}"
        if what:
            self._tell_of(claim, what)

    def picture(self, name: str, named_by: Path) -> Path:
        """Where a training picture lies that the manifest names."""
        del named_by
        return Path(os.path.normpath(self.all.root / name))

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
        self.all.tell(path, what, self.step, remade, mend, advice)

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
        images = self.inputs.get("images", {}).get("path")
        for part in sorted(name for name in self.outputs if name.startswith(PARTS)):
            if not self._holds(self.folder / part):
                continue
            for row in Parts(self.folder, {part: None}).images(["tiles"]):
                yield Claim("labels", row.png_file, row.png_sha256, row)
                if images is not None:
                    image = join(images, row.path)
                    path = image if is_url(images) else self.all.root / image
                    yield Claim("images", path, row.sha256, row)

    def _holds(self, table: Path) -> bool:
        return table not in self.bad and table.is_file()

    def _tell_of(self, claim: Claim, what: str) -> None:
        then = "else the next `usam run`"
        if claim.kind == "images":
            advice = f"your image: put it back as it was; {then} labels what is there then"
            self.tell(claim.path, what, "no", advice=advice)
            return
        path = Path(claim.path)
        if claim.kind == "pictures" and not path.is_relative_to(self.folder):
            yours = f"a picture of {claim.row['class']} that you gave: put it back as it was"
            self.tell(path, what, "no", advice=f"{yours}; {then} learns from what is there then")
        elif claim.kind == "pictures":
            kept = self.folder / FOUND / f"{class_folder(claim.row['class'])}.json"
            self.tell(path, what, "repair", partial(self.drop, path, kept))
        elif claim.kind == "labels" and claim.row.is_edited():
            self.all.edits.append(portable(path, self.all.root))
        else:
            self.tell(path, what, "run", partial(self._drop_output, path))

    def _drop_output(self, file: Path) -> None:
        name = file.relative_to(self.folder).as_posix()
        if self.step == "export" and not name.startswith((ROWS, LINEAGE)) and file.exists():
            export.set_aside(self._own(file))  # a person may have edited an index
        self.drop(file)


def check_store(
    check: Check,
    path: Path,
    spec: dict[str, Any],
    images: set[str] | None = None,
    *,
    deep: bool = True,
) -> list[str]:
    """Check a store and its shards, and that it has all images that results depend on.

    Args:
        check: knows these images.
        path: the store's folder.
        spec: of its embeddings.
        images: check the shards of these alone.
        deep: see `EmbeddingStore.verify`.

    Returns:
        The shards that were checked.
    """
    shards = path / SHARDS
    if not shards.is_dir():
        check.tell(path, "missing", "embed", "run")
        return []
    make = partial(make_store, path.parent, spec)
    metadata: tuple[tuple[Path, Remade], ...] = ((path, "run"), (shards, "repair"))
    for folder, remade in metadata:
        try:
            read_group(folder)
        except StoreError as error:
            check.tell(folder / GROUP_FILE, str(error), "embed", remade, make)
    for file in (path / CACHE_FILE, path / CHECKED_FILE):
        if file.is_dir():
            mend = partial(remove_folder, file)
            check.tell(file, "a folder, not a file", "embed", "repair", mend)
    store = EmbeddingStore(path, spec)
    sound = all(one.step != "embed" for one in check.damages)
    names, needed = store.shards(), check.images
    if images is not None:
        index, needed = store.index(), _first_bits(images)
        names = sorted(index.loc[index["sha256"].isin(images), "shard"].unique())
    for bad in store.verify(only=names, deep=deep, progress=check.progress):
        if bad.block:
            folder = shards / bad.shard / FEATURES / bad.block
            mend = partial(store.drop_damaged_block, bad.shard, bad.block)
            check.tell(folder, bad.reason, "describe", "run", mend)
        else:
            drop = partial(store.drop_shard, bad.shard)
            check.tell(shards / bad.shard, bad.reason, "embed", "run", drop)
            sound = False
    held = array("Q")
    for name in names:
        for file in filter(Path.is_file, (shards / name).rglob("*")):
            check.count(file)
        held.extend(_first_bits(store.images_of(name)))
    missing = np.setdiff1d(np.array(needed, np.uint64), np.array(held, np.uint64))
    if len(missing) and sound:
        what = f"{len(missing)} images of the results are not in it, such as {missing[0]:016x}..."
        check.tell(path, what, "embed", "run")
    return names
