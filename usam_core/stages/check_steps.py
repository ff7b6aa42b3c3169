"""Looks through the folder of one step: every byte of what the step made, and of what it read.

What is damaged and can be made again is dropped by a repair together with the step's record: the
next run makes it. What a person made is only told of.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from usam_core.errors import StoreError, UsamError
from usam_core.imagestores.opener import is_url
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import EARLIER, LINEAGE, portable, read_document
from usam_core.lineage.subject import SCENES, read_parts
from usam_core.project import Project
from usam_core.report.history import HISTORY, RUNS, kept_runs, names_all, rewrite_history
from usam_core.report.runs import damaged_kept
from usam_core.sealed import read_sealed, write_sealed
from usam_core.sources.base import class_folder, manifest_path
from usam_core.stages import annotate, collect, compose, export, gate
from usam_core.stages.damage import Remade, Walk, first_bits
from usam_core.stages.decided import decisions_file
from usam_core.stages.folders import step_folder
from usam_core.stages.gather import FOUND
from usam_core.stages.reading import windows_file
from usam_core.stages.record import RECORD, StepResult, read_record
from usam_core.stages.review import PRECISION
from usam_core.store.commit import remove_folder
from usam_core.store.layout import (
    folder_name,
)

_CACHES = ("images.parquet", "looks.parquet", "labelled_looks.parquet", annotate.CHECKED)


class StepCheck:
    """Looks at one step's folder."""

    def __init__(self, walk: Walk, project: Project, step: str) -> None:
        self._walk, self._project, self._step = walk, project, step
        self._folder = step_folder(project, step)

    def look(self) -> None:
        """Check what the step made; each kind of thing after the other."""
        if self._step in ("gate", "review"):
            self._check_gate() if self._step == "gate" else self._check_review()
            return
        for name in _CACHES:
            # What a cache holds is checked when it is read; a folder cannot be written over.
            if (self._folder / name).is_dir():
                mend = partial(remove_folder, self._folder / name)
                self._tell(self._folder / name, "a folder, not a file", "repair", mend)
        document = self._document()
        record = self._record(document)
        outputs = record.outputs if record else (document or {}).get("outputs", {})
        if not outputs and document is None:
            return  # it has not run, or has nothing to do
        bad = self._check_files(outputs, self._drop_output)
        if LINEAGE in bad or record is None:
            document = None  # not to be believed
        self._check_chain(document)
        self._take_store(document or {})
        own = getattr(self, f"_check_{self._step}", None)
        if own is not None:
            own(record, document or {}, bad)

    def _tell(
        self,
        path: Path,
        what: str,
        remade: Remade,
        mend: Callable[[], object] = lambda: None,
        advice: str = "",
    ) -> None:
        if remade == "run" and path.is_dir():
            remade = "repair"  # a file cannot be renamed over a folder
        self._walk.tell(path, what, self._step, remade, mend, advice)

    def _document(self) -> dict[str, Any] | None:
        try:
            return read_document(self._folder / LINEAGE)
        except (StoreError, OSError):
            return None

    def _record(self, document: dict[str, Any] | None) -> StepResult | None:
        file = self._folder / RECORD
        record = read_record(self._folder)
        if record is None and (file.exists() or document is not None):
            what = "not as it was written" if file.exists() else "missing"
            self._tell(file, what, "run", partial(remove_folder, file))
        elif record is not None:
            self._walk.count(file)
        return record

    def _check_files(
        self, files: dict[str, str], mend: Callable[[str], None], remade: Remade = "run"
    ) -> set[str]:
        """Compare files of the step's folder with their digests; return the names of bad ones."""
        bad = set()
        with self._walk.progress.bar(f"Checking {self._step}", len(files)) as bar:
            for name, sha256 in files.items():
                what = self._walk.differs(self._folder / name, sha256)
                if what:
                    bad.add(name)
                    self._tell(self._folder / name, what, remade, partial(mend, name))
                bar.advance()
        return bad

    def _drop(self, *files: Path) -> None:
        """Remove files, and first of all the record: the step has not happened any more."""
        for file in (self._folder / RECORD, *files):
            remove_folder(file)

    def _drop_output(self, name: str) -> None:
        file = self._folder / name
        if self._step == "export" and not name.startswith((export.ROWS, LINEAGE)) and file.exists():
            export.set_aside(file)  # a person may have edited an index
        self._drop(file)

    def _check_chain(self, document: dict[str, Any] | None) -> None:
        """Check the documents of earlier runs, and that none that this step's names is gone."""
        for file in sorted((self._folder / EARLIER).glob("*.json")):
            what = self._walk.differs(file, file.stem)
            if what:
                self._tell(file, what, "repair", partial(remove_folder, file))
        if document is None:
            return
        for link in read_chain(self._folder).links.values():
            if link.document is None and link.sha256 is not None:
                what = f"the document that {self._step} was made from is gone or changed"
                self._tell(self._walk.root / link.path, what, "repair", self._drop)
                return

    def _check_collect(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        for file in sorted((self._folder / FOUND).glob("*.json")):
            if _unreadable(file):
                self._tell(file, "not as it was written", "run", partial(remove_folder, file))
        manifest = manifest_path(self._folder)
        if manifest.name in bad or not manifest.is_file():
            return
        table = collect.read_table(self._project)
        rows = list(zip(table["class"], table["path"], table["sha256"], strict=True))
        with self._walk.progress.bar("Checking training pictures", len(rows)) as bar:
            for name, path, sha256 in rows:
                what = self._walk.differs(path, sha256)
                bar.advance()
                if not what:
                    continue
                picture = Path(path)
                if picture.is_relative_to(self._project.out):
                    again = [picture, self._folder / FOUND / f"{class_folder(name)}.json"]
                    self._tell(picture, what, "repair", partial(self._drop, *again))
                    continue
                said = f"a picture of {name} that you gave: put it back as it was; else the next "
                advice = f"{said}`usam run` learns from what is there then"
                self._tell(picture, what, "no", advice=advice)

    def _check_embed(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        pictures, manifest = document.get("inputs", {}).get("pictures"), None
        with suppress(StoreError):
            manifest = collect.read_table(self._project)
        known = pictures and manifest is not None and collect.pictures_digest(manifest)
        if known and known == pictures["sha256"]:  # else pictures came since
            self._add(manifest["sha256"])
        spec = document.get("inputs", {}).get("store", {}).get("spec", {})
        now, of_all = windows_file(self._project), "window" in spec and "colour" not in spec
        wanted = [now] if of_all and self._project.config.images.window == "store" else []
        for file in sorted({*self._folder.glob("windows-*.json"), *wanted}):
            if file.is_file() and not _unreadable(file):
                self._walk.count(file)
                continue
            what = "not as it was written" if file.exists() else "missing"
            kept = {} if spec.get("window") == "percentile" else spec.get("window")
            mend = partial(_write_windows, file, kept if file in wanted else None)
            self._tell(file, what, "repair", mend, "a repair takes those of the embeddings")

    def _take_store(self, document: dict[str, Any]) -> None:
        store = document.get("inputs", {}).get("store")
        if store and folder_name(store["spec"]) == Path(store["path"]).name:
            self._walk.stores[self._walk.root / store["path"]] = store["spec"]

    def _check_compose(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        if compose.SCENES in bad or not (self._folder / compose.SCENES).is_file():
            return
        made = compose.made(self._folder)
        self._add(sha256 for name, sha256 in made.items() if name.startswith(SCENES))
        self._check_files(made, self._drop_output)

    def _check_annotate(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        before = len(self._walk.found.damages)
        names = [name for name in (record.outputs if record else {}) if name not in bad]
        parts = [name for name in names if name.startswith(f"{annotate.PARTS}/")]
        images = document.get("inputs", {}).get("images", {}).get("path")
        with self._walk.progress.bar("Checking labels and images", len(parts)) as bar:
            for part in parts:
                entries = list(read_parts(self._folder, [part]))
                self._add(key for one in entries for key in one.get("tiles", [one["sha256"]]))
                for entry in entries:
                    self._check_label(entry)
                    if images is not None and not is_url(images):
                        self._check_image(images, entry)
                bar.advance()
        if len(self._walk.found.damages) > before or bad:
            # What was found whole by sizes and times shall be looked through again.
            remove_folder(self._folder / annotate.CHECKED)

    def _check_label(self, entry: dict[str, Any]) -> None:
        png = self._folder / entry["png"]
        what = self._walk.differs(png, entry["png_sha256"])
        if what and annotate.is_edited(self._folder, entry):
            self._walk.found.edits.append(portable(png, self._walk.root))
        elif what:
            self._tell(png, what, "run", partial(self._drop, png))

    def _check_image(self, images: str, entry: dict[str, Any]) -> None:
        image = self._walk.root / images / entry["file_name"]
        what = self._walk.differs(image, entry["sha256"])
        if what:
            advice = "your image: put it back as it was; else the next `usam run` labels what is "
            self._tell(image, what, "no", advice=f"{advice}there then")

    def _check_export(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        ledger = self._folder / export.LEDGER
        known = record.summary.get("ledger") if record else None
        what = self._walk.differs(ledger, known) if known else ""
        if what:
            advice = "what a person changed is kept, and told by its content from now on"
            self._tell(ledger, what, "repair", partial(self._drop, ledger), advice)
            return
        try:
            for file, why in export.differing(self._project):
                if why:
                    remade: Remade = "run" if why == "missing" else "repair"
                    self._tell(file, why, remade, partial(self._drop, file))
                else:
                    self._walk.found.edits.append(portable(file, self._walk.root))
        except UsamError as error:
            # A ledger without a digest, or a head that is told of by its own step.
            self._tell(ledger, str(error), "repair", partial(self._drop, ledger))

    def _check_report(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        now = {name.split("/")[1] for name in record.outputs if "/" in name} if record else set()
        runs = kept_runs(self._folder)
        for folder in runs:
            what = "" if folder.name in now else damaged_kept(folder)
            if what:
                advice = "an earlier run that reports compare with cannot be made again"
                self._tell(folder, what, "repair", partial(self._drop, folder), advice)
        file = self._folder / HISTORY
        if not names_all(self._folder):
            what = f"does not name the runs in {RUNS}"
            self._tell(file, what, "repair", partial(rewrite_history, self._folder))

    def _check_gate(self) -> None:
        file = self._folder / gate.HISTORY
        bad = gate.unreadable_lines(file)
        if bad:
            what = f"lines {', '.join(map(str, bad))} are not as they were written"
            advice = "a repair leaves these earlier runs out; later ones are judged without them"
            self._tell(file, what, "repair", partial(gate.drop_unreadable, file), advice)
        elif file.is_file():
            self._walk.count(file)

    def _check_review(self) -> None:
        log = decisions_file(self._project)
        used = [self._decisions(step) for step in ("fit", "annotate")]
        what = next((what for said in used if said and (what := _not_the_log(log, said))), "")
        if what:
            advice = "decisions are yours and are never touched: put the log back from a copy"
            self._tell(log, what, "no", advice=advice)
        elif log.is_file():
            self._walk.count(log)
        file = self._folder / PRECISION
        if file.exists() and _unreadable(file):
            advice = f"then `usam review {self._project.file.name} --summary` writes it"
            self._tell(
                file, "not as it was written", "repair", partial(remove_folder, file), advice
            )

    def _decisions(self, step: str) -> dict[str, Any] | None:
        try:
            document = read_document(step_folder(self._project, step) / LINEAGE)
        except StoreError:
            return None
        return document["inputs"].get("decisions")

    def _add(self, shas: Iterable[str]) -> None:
        """Remember which images the store must have."""
        self._walk.images.append(first_bits(shas))


def _unreadable(file: Path) -> bool:
    try:
        read_sealed(file)
    except (OSError, ValueError):
        return True
    return False


def _write_windows(file: Path, windows: dict[str, Any] | None) -> None:
    """Write windows as they are part of the embeddings' identity; drop those of other settings."""
    remove_folder(file)
    if windows is not None:
        write_sealed(file, {"windows": windows})


def _not_the_log(log: Path, said: dict[str, Any]) -> str:
    """Return how a log of decisions differs from what a step read; lines may have been added."""
    if "log_bytes" not in said:
        return "" if log.is_file() else "missing"
    try:
        with open(log, "rb") as file:
            begin = file.read(said["log_bytes"])
    except OSError as error:
        return error.strerror or repr(error)
    return (
        ""
        if hashlib.sha256(begin).hexdigest() == said["log_sha256"]
        else "decisions that were used are changed"
    )
