"""Integrity check of everything that a project's results depend on; every byte is read again.

A step's folder is checked under the step's own lock, so that no run writes there meanwhile; the
store's shards are never changed, only added and dropped whole. A repair drops what is damaged and
can be made again, together with the step's record: the next run makes it. What a person made is
only reported.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.config.training import CLASSES, PARENTS
from usam_core.errors import MissingStepError, StoreError, UsamError
from usam_core.files.atomic import only_one
from usam_core.files.digest import read_sealed, write_sealed
from usam_core.files.fsspec_io import is_url
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import EARLIER, LINEAGE, RECORD, portable, read_document
from usam_core.progress import SILENT, Progress
from usam_core.report.runs import HISTORY, RUNS, damaged_kept, kept_runs, names_all, rewrite_history
from usam_core.steps import annotate, collect, export, gate
from usam_core.steps.base import step_folder
from usam_core.steps.check_folder import Check, FolderCheck, Remade, check_store
from usam_core.steps.read_settings import windows_file
from usam_core.steps.record import decisions_file
from usam_core.steps.review import PRECISION
from usam_core.store.layout import folder_name, remove_folder

_CACHES = ("images.parquet", "looks.parquet", "labelled_looks.parquet", annotate.CHECKED)


def check_project(project: Project, *, repair: bool = False, progress: Progress = SILENT) -> Check:
    """Read everything that a project's results depend on, at all class levels.

    Args:
        repair: drop what is damaged and can be made again. Decisions, images and exported files
            that a person has changed are never touched.

    Raises:
        MissingStepError: no step has run.
    """
    begun = time.monotonic()
    steps = [(level, step) for level in _levels(project) for step in _steps(level)]
    folders = [step_folder(level, step) for level, step in steps]
    if not any((folder / name).exists() for folder in folders for name in (RECORD, LINEAGE)):
        raise MissingStepError(
            f"{project.out}: nothing to check, no step has run yet; run `usam run {project.file}` "
            "first"
        )
    check = Check(project.root, repair, progress)
    for (level, step), folder in zip(steps, folders, strict=True):
        with ExitStack() as held:
            # A review holds its lock for hours, and only adds lines.
            if folder.is_dir() and folder.name != "review":
                with suppress(StoreError):  # nobody writes on a disk that cannot be written to
                    held.enter_context(only_one(folder / ".lock", str(folder)))
            _StepCheck(check, level, step).look()
    for path, spec in check.stores.items():
        check_store(check, path, spec)
    check.seconds = time.monotonic() - begun
    return check


def _levels(project: Project) -> Iterator[Project]:
    """Yield the project at each class level that has results."""
    names = [CLASSES]
    names += [PARENTS] if (project.out / PARENTS).is_dir() else []
    names += sorted(path.name for path in (project.out / "levels").glob("*") if path.is_dir())
    for name in names:
        yield replace(project, config=project.config.model_copy(update={"level": name}))


def _steps(project: Project) -> list[str]:
    from usam_core.steps import STEPS  # which imports this package's steps

    if project.config.level == CLASSES:
        return [*STEPS, "gate", "review"]
    return [step for step in (*STEPS, "gate") if step_folder(project, step).parent != project.out]


class _StepCheck(FolderCheck):
    """Checks one step's folder, and what the project's settings say of it."""

    def __init__(self, check: Check, project: Project, step: str) -> None:
        super().__init__(check, step_folder(project, step), step)
        self._project = project

    def look(self) -> None:
        """Check what the step made; each kind of thing after the other."""
        own = getattr(self, f"_check_{self.step}", lambda: None)
        if self.step in ("gate", "review"):
            own()
            return
        for cache in (self.folder / name for name in _CACHES):
            # What a cache holds is checked when it is read; a folder cannot be written over.
            if cache.is_dir():
                mend = partial(self.remove, cache)
                self.tell(cache, "a folder, not a file", "repair", mend)
        self.check_record()
        if not self.outputs and self.document is None:
            return  # it has not run, or has nothing to do
        if self.record is None:
            self.document = None  # not to be believed
        with self.all.progress.bar(f"Checking {self.step}", None) as bar:
            for claim in self.claims():
                # `usam lineage` on a label reads its image behind a URL.
                if not is_url(claim.path):
                    self.check(claim)
                bar.advance()
                if claim.kind == "lineage" and claim.path in self.bad:
                    self.document = None
        self._check_chain()
        store = self.inputs.get("store")
        if store and folder_name(store["spec"]) == Path(store["path"]).name:
            self.all.stores[self.all.root / store["path"]] = store["spec"]
        own()

    def picture(self, name: str, named_by: Path) -> Path:
        """Where a training picture lies; a `StoreError` if that is none of the project's."""
        return self._project.picture(name, named_by)

    def _check_chain(self) -> None:
        """Check the documents of earlier runs, and that none that this step's names is gone."""
        for file in sorted((self.folder / EARLIER).glob("*.json")):
            what = self.all.differs(file, file.stem)
            if what:
                self.tell(file, what, "repair", partial(self.remove, file))
        if self.document is None:
            return
        for link in read_chain(self.folder).links.values():
            if link.document is None and link.sha256 is not None:
                what = f"the document that {self.step} was made from is gone or changed"
                self.tell(self.all.root / link.path, what, "repair", self.drop)
                return

    def _check_collect(self) -> None:
        for file in sorted((self.folder / collect.FOUND).glob("*.json")):
            if _unreadable(file):
                self.tell(file, "not as it was written", "run", partial(self.remove, file))

    def _check_embed(self) -> None:
        pictures, images = self.inputs.get("pictures"), self._project.config.images
        with suppress(StoreError):
            manifest = collect.read_table(self._project)
            # Else pictures came since.
            if pictures and collect.pictures_digest(manifest) == pictures["sha256"]:
                self.all.need(manifest["sha256"])
        spec = self.inputs.get("store", {}).get("spec", {})
        of_all = "window" in spec and "colour" not in spec and images.window == "store"
        wanted = [windows_file(self._project)] if of_all else []
        for file in sorted({*self.folder.glob("windows-*.json"), *wanted}):
            if file.is_file() and not _unreadable(file):
                self.all.count(file)
                continue
            what = "not as it was written" if file.exists() else "missing"
            kept = {} if spec.get("window") == "percentile" else spec.get("window")
            mend = partial(_write_windows, file, kept if file in wanted else None)
            self.tell(file, what, "repair", mend, "a repair takes those of the embeddings")

    def _check_annotate(self) -> None:
        if self.bad:
            # Files that were skipped for their sizes and times are to be read again.
            self.remove(self.folder / annotate.CHECKED)

    def _check_export(self) -> None:
        ledger = self.folder / export.LEDGER
        known = self.record.summary.get("ledger") if self.record else None
        what = self.all.differs(ledger, known) if known else ""
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
                    self.all.edits.append(portable(file, self.all.root))
        except UsamError as error:
            # A ledger without a digest, or a head, which its own step reports.
            self.tell(ledger, str(error), "repair", partial(self.drop, ledger))

    def _check_report(self) -> None:
        now = {name.split("/")[1] for name in self.outputs if "/" in name} if self.record else set()
        for folder in kept_runs(self.folder):
            what = "" if folder.name in now else damaged_kept(folder)
            if what:
                advice = "an earlier run that reports compare with cannot be made again"
                self.tell(folder, what, "repair", partial(self.drop, folder), advice)
        if not names_all(self.folder):
            what = f"does not name the runs in {RUNS}"
            self.tell(self.folder / HISTORY, what, "repair", partial(rewrite_history, self.folder))

    def _check_gate(self) -> None:
        file = self.folder / gate.HISTORY
        bad = gate.unreadable_lines(file)
        if bad:
            what = f"lines {', '.join(map(str, bad))} are not as they were written"
            advice = "a repair leaves these earlier runs out; later ones are judged without them"
            self.tell(file, what, "repair", partial(gate.drop_unreadable, file), advice)
        elif file.is_file():
            self.all.count(file)

    def _check_review(self) -> None:
        log = decisions_file(self._project.out)
        what = next(filter(None, (self._log_damage(log, step) for step in ("fit", "annotate"))), "")
        if what:
            advice = "decisions are yours and are never touched: put the log back from a copy"
            self.tell(log, what, "no", advice=advice)
        elif log.is_file():
            self.all.count(log)
        file = self.folder / PRECISION
        if file.exists() and _unreadable(file):
            advice = f"then `usam review {self._project.file.name} --summary` writes it"
            self.tell(file, "not as it was written", "repair", partial(self.remove, file), advice)

    def _log_damage(self, log: Path, step: str) -> str:
        """How a log of decisions differs from what a step read; lines may have been added."""
        try:
            document = read_document(step_folder(self._project, step) / LINEAGE)
        except StoreError:
            return ""
        read = document["inputs"].get("decisions")
        if not read:
            return ""
        if "log_bytes" not in read:
            return "" if log.is_file() else "missing"
        try:
            with open(log, "rb") as file:
                begin = file.read(read["log_bytes"])
        except OSError as error:
            return error.strerror or repr(error)
        same = hashlib.sha256(begin).hexdigest() == read["log_sha256"]
        return "" if same else "decisions that were used are changed"


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
