"""Looks through the folder of one step: every byte of what the step made, and of what it read.

What is damaged and can be made again is dropped by a repair together with the step's record: the
next run makes it. What a person made is only told of.
"""

import hashlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import StoreError, UsamError
from usam_core.files.digest import read_sealed, write_sealed
from usam_core.files.fsspec_io import is_url
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import EARLIER, LINEAGE, portable, read_document
from usam_core.report.runs import HISTORY, RUNS, damaged_kept, kept_runs, names_all, rewrite_history
from usam_core.steps import annotate, collect, export, gate
from usam_core.steps.check_folder import FolderCheck
from usam_core.steps.class_pictures import FOUND
from usam_core.steps.damage import Remade, Walk
from usam_core.steps.folders import step_folder
from usam_core.steps.read_settings import windows_file
from usam_core.steps.review import PRECISION
from usam_core.steps.review_log import decisions_file
from usam_core.store.layout import folder_name, remove_folder

_CACHES = ("images.parquet", "looks.parquet", "labelled_looks.parquet", annotate.CHECKED)


class StepCheck(FolderCheck):
    """Looks at one step's folder, and at what the project's settings say of it."""

    def __init__(self, walk: Walk, project: Project, step: str) -> None:
        super().__init__(walk, step_folder(project, step), step)
        self._project = project

    def look(self) -> None:
        """Check what the step made; each kind of thing after the other."""
        if self.step in ("gate", "review"):
            self._check_gate() if self.step == "gate" else self._check_review()
            return
        for name in _CACHES:
            # What a cache holds is checked when it is read; a folder cannot be written over.
            if (self.folder / name).is_dir():
                mend = partial(self.remove, self.folder / name)
                self.tell(self.folder / name, "a folder, not a file", "repair", mend)
        self.check_record()
        if not self.outputs and self.document is None:
            return  # it has not run, or has nothing to do
        if self.record is None:
            self.document = None  # not to be believed
        with self.walk.progress.bar(f"Checking {self.step}", None) as bar:
            for claim in self.claims():
                # `usam lineage` on a label reads its image behind a URL.
                if not is_url(claim.path):
                    self.check(claim)
                bar.advance()
                if claim.kind == "lineage" and claim.path in self.bad:
                    self.document = None
        self._check_chain()
        self._take_store()
        own = getattr(self, f"_check_{self.step}", None)
        if own is not None:
            own()

    def picture(self, name: str, named_by: Path) -> Path:
        """Return where a training picture lies; a `StoreError` if that is none of the project's."""
        return self._project.picture(name, named_by)

    def _check_chain(self) -> None:
        """Check the documents of earlier runs, and that none that this step's names is gone."""
        for file in sorted((self.folder / EARLIER).glob("*.json")):
            what = self.walk.differs(file, file.stem)
            if what:
                self.tell(file, what, "repair", partial(self.remove, file))
        if self.document is None:
            return
        for link in read_chain(self.folder).links.values():
            if link.document is None and link.sha256 is not None:
                what = f"the document that {self.step} was made from is gone or changed"
                self.tell(self.walk.root / link.path, what, "repair", self.drop)
                return

    def _check_collect(self) -> None:
        for file in sorted((self.folder / FOUND).glob("*.json")):
            if _unreadable(file):
                self.tell(file, "not as it was written", "run", partial(self.remove, file))

    def _check_embed(self) -> None:
        read = self._inputs()
        pictures, manifest = read.get("pictures"), None
        with suppress(StoreError):
            manifest = collect.read_table(self._project)
        known = pictures and manifest is not None and collect.pictures_digest(manifest)
        if known and known == pictures["sha256"]:  # else pictures came since
            self.walk.need(manifest["sha256"])
        spec = read.get("store", {}).get("spec", {})
        now, of_all = (
            windows_file(self._project.config.images, self.folder),
            "window" in spec and "colour" not in spec,
        )
        wanted = [now] if of_all and self._project.config.images.window == "store" else []
        for file in sorted({*self.folder.glob("windows-*.json"), *wanted}):
            if file.is_file() and not _unreadable(file):
                self.walk.count(file)
                continue
            what = "not as it was written" if file.exists() else "missing"
            kept = {} if spec.get("window") == "percentile" else spec.get("window")
            mend = partial(_write_windows, file, kept if file in wanted else None)
            self.tell(file, what, "repair", mend, "a repair takes those of the embeddings")

    def _inputs(self) -> dict[str, Any]:
        return (self.document or {}).get("inputs", {})

    def _take_store(self) -> None:
        store = self._inputs().get("store")
        if store and folder_name(store["spec"]) == Path(store["path"]).name:
            self.walk.stores[self.walk.root / store["path"]] = store["spec"]

    def _check_annotate(self) -> None:
        if self.bad:
            # What was found whole by sizes and times shall be looked through again.
            self.remove(self.folder / annotate.CHECKED)

    def _check_export(self) -> None:
        ledger = self.folder / export.LEDGER
        known = self.record.summary.get("ledger") if self.record else None
        what = self.walk.differs(ledger, known) if known else ""
        if what:
            advice = "what a person changed is kept, and told by its content from now on"
            self.tell(ledger, what, "repair", partial(self.drop, ledger), advice)
            return
        try:
            for file, why in export.differing(self._project):
                if why:
                    remade: Remade = "run" if why == "missing" else "repair"
                    self.tell(file, why, remade, partial(self.drop, file))
                else:
                    self.walk.found.edits.append(portable(file, self.walk.root))
        except UsamError as error:
            # A ledger without a digest, or a head that is told of by its own step.
            self.tell(ledger, str(error), "repair", partial(self.drop, ledger))

    def _check_report(self) -> None:
        now = {name.split("/")[1] for name in self.outputs if "/" in name} if self.record else set()
        runs = kept_runs(self.folder)
        for folder in runs:
            what = "" if folder.name in now else damaged_kept(folder)
            if what:
                advice = "an earlier run that reports compare with cannot be made again"
                self.tell(folder, what, "repair", partial(self.drop, folder), advice)
        file = self.folder / HISTORY
        if not names_all(self.folder):
            what = f"does not name the runs in {RUNS}"
            self.tell(file, what, "repair", partial(rewrite_history, self.folder))

    def _check_gate(self) -> None:
        file = self.folder / gate.HISTORY
        bad = gate.unreadable_lines(file)
        if bad:
            what = f"lines {', '.join(map(str, bad))} are not as they were written"
            advice = "a repair leaves these earlier runs out; later ones are judged without them"
            self.tell(file, what, "repair", partial(gate.drop_unreadable, file), advice)
        elif file.is_file():
            self.walk.count(file)

    def _check_review(self) -> None:
        log = decisions_file(self._project.out)
        used = [self._decisions(step) for step in ("fit", "annotate")]
        what = next((what for said in used if said and (what := _not_the_log(log, said))), "")
        if what:
            advice = "decisions are yours and are never touched: put the log back from a copy"
            self.tell(log, what, "no", advice=advice)
        elif log.is_file():
            self.walk.count(log)
        file = self.folder / PRECISION
        if file.exists() and _unreadable(file):
            advice = f"then `usam review {self._project.file.name} --summary` writes it"
            self.tell(file, "not as it was written", "repair", partial(self.remove, file), advice)

    def _decisions(self, step: str) -> dict[str, Any] | None:
        try:
            document = read_document(step_folder(self._project, step) / LINEAGE)
        except StoreError:
            return None
        return document["inputs"].get("decisions")


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
