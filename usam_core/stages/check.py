"""Is everything whole that a project's results stand on? Every byte is read again.

A step's folder is looked at under the step's own lock, so that no run writes there meanwhile; the
store's shards are never changed, only put there and dropped whole. What is damaged and can be made
again is dropped by a repair, with the record of the step that made it: the next run makes it.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from usam_core.config import CLASSES, PARENTS
from usam_core.errors import MissingStepError, StoreError, UsamError
from usam_core.imagestores.content import mismatch
from usam_core.imagestores.opener import is_url
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import EARLIER, LINEAGE, portable, read_document
from usam_core.lineage.subject import SCENES, read_parts
from usam_core.locks import only_one
from usam_core.progress import SILENT, Progress
from usam_core.project import Project
from usam_core.report.history import HISTORY, RUNS, kept_runs, names_all, rewrite_history
from usam_core.report.runs import damaged_kept
from usam_core.sealed import read_sealed, write_sealed
from usam_core.sources.base import manifest_path
from usam_core.stages import annotate, collect, compose, export, gate
from usam_core.stages.decided import decisions_file
from usam_core.stages.folders import step_folder
from usam_core.stages.gather import FOUND
from usam_core.stages.reading import windows_file
from usam_core.stages.record import RECORD, StepResult, read_record
from usam_core.stages.review import PRECISION
from usam_core.store.commit import remove_folder
from usam_core.store.folder import make_store
from usam_core.store.layout import CACHE_FILE, CHECKED_FILE, FEATURES, SHARDS, read_group
from usam_core.store.store import EmbeddingStore

_CACHES = ("images.parquet", "looks.parquet", "labelled_looks.parquet", annotate.CHECKED)

Remade = Literal["run", "repair", "no"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One file, or one folder, that is not as it was written.

    Attributes:
        path: from the project's folder, if it lies there.
        what: what is wrong, in words.
        step: which step made it; empty for what a person made.
        remade: `run`, the next run makes it anew by itself; `repair`, it does so after a repair;
            `no`, nobody can.
        advice: what to do, where that is more.
    """

    path: str
    what: str
    step: str
    remade: Remade
    advice: str = ""


@dataclass(slots=True)
class Checked:
    """What a check found.

    Attributes:
        damages: what is damaged.
        edits: files that a person has changed, which are kept.
        files: how many files were read.
        bytes: how many bytes.
        seconds: how long it took.
        repaired: what can be made again was dropped.
    """

    damages: list[Damage] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    repaired: bool = False

    @property
    def sound(self) -> bool:
        """Return whether nothing is damaged, or only what a repair has dropped."""
        return not any(one.remade == "no" or not self.repaired for one in self.damages)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-like mapping."""
        return {**asdict(self), "sound": self.sound}


def check_project(
    project: Project, *, repair: bool = False, progress: Progress = SILENT
) -> Checked:
    """Read everything that a project's results stand on, at all class levels.

    Args:
        project: the project.
        repair: drop what is damaged and can be made again. Decisions, images and exported files
            that a person has changed are never touched.
        progress: told of files and shards.

    Raises:
        MissingStepError: no step has run.
    """
    begun = time.monotonic()
    found = Checked(repaired=repair)
    levels = list(_levels(project))
    if not any((step_folder(one, step) / name).exists() for one, step, name in _finished(levels)):
        raise MissingStepError(
            f"{project.out}: nothing to check, no step has run yet; run `usam run {project.file}` "
            "first"
        )
    stores: dict[Path, dict[str, Any]] = {}
    shas: list[np.ndarray] = []
    for of_level in levels:
        for step in _steps(of_level):
            folder = step_folder(of_level, step)
            look = _Look(of_level, step, folder, found, repair, progress, stores, shas)
            with _locked(folder):
                look.at_everything()
    for path, spec in stores.items():
        _check_store(project, path, spec, found, repair, progress, shas)
    found.seconds = time.monotonic() - begun
    return found


def _levels(project: Project) -> Iterator[Project]:
    """Yield the project at each class level that has results."""
    names = [CLASSES]
    names += [PARENTS] if (project.out / PARENTS).is_dir() else []
    names += sorted(path.name for path in (project.out / "levels").glob("*") if path.is_dir())
    for name in names:
        yield replace(project, config=project.config.model_copy(update={"level": name}))


def _steps(project: Project) -> list[str]:
    from usam_core.stages import STEPS  # which imports this package's steps

    if project.config.level == CLASSES:
        return [*STEPS, "gate", "review"]
    return [step for step in (*STEPS, "gate") if step_folder(project, step).parent != project.out]


def _finished(levels: list[Project]) -> Iterator[tuple[Project, str, str]]:
    for project in levels:
        for step in _steps(project):
            yield from ((project, step, name) for name in (RECORD, LINEAGE))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with ExitStack() as held:
        # A review holds its lock for hours, and only adds lines.
        if folder.is_dir() and folder.name != "review":
            with suppress(StoreError):  # nobody writes on a disk that cannot be written to
                held.enter_context(only_one(folder / ".lock", str(folder)))
        yield


class _Look:
    """Looks at one step's folder."""

    def __init__(
        self,
        project: Project,
        step: str,
        folder: Path,
        found: Checked,
        repair: bool,
        progress: Progress,
        stores: dict[Path, dict[str, Any]],
        shas: list[np.ndarray],
    ) -> None:
        self._project, self._step, self._folder = project, step, folder
        self._found, self._repair, self._progress = found, repair, progress
        self._stores, self._shas = stores, shas

    def at_everything(self) -> None:
        """Check what the step made; each kind of thing after the other."""
        if self._step in ("gate", "review"):
            self._check_gate() if self._step == "gate" else self._check_review()
            return
        for name in _CACHES:
            # What a cache holds is checked when it is read; a folder cannot be written over.
            if (self._folder / name).is_dir():
                mend = partial(remove_folder, self._folder / name)
                self.tell(self._folder / name, "a folder, not a file", "repair", mend)
        document = self._document()
        record = self._record(document)
        outputs = record.outputs if record else (document or {}).get("outputs", {})
        if not outputs and document is None:
            return  # it has not run, or has nothing to do
        bad = self._check_files(outputs, self._drop_output)
        self._check_chain(document)
        own = getattr(self, f"_check_{self._step}", None)
        if own is not None:
            own(record, document or {}, bad)

    def tell(
        self, path: Path, what: str, remade: Remade, mend: Callable[[], None], advice: str = ""
    ) -> None:
        """Add a damage, and mend it if that is wanted and can be."""
        shown = portable(path, self._project.root)
        if remade == "run" and path.is_dir():
            remade = "repair"  # a file cannot be renamed over a folder
        self._found.damages.append(Damage(shown, what, self._step, remade, advice))
        if self._repair and remade != "no":
            mend()

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
            self.tell(file, what, "run", partial(remove_folder, file))
        elif record is not None:
            self._count(file)
        return record

    def _count(self, path: Path) -> None:
        self._found.files += 1
        self._found.bytes += path.stat().st_size

    def _differs(self, path: Path | str, sha256: str) -> str:
        """Return how a file differs from its digest; what was read is counted."""
        what = mismatch(path, sha256)
        with suppress(OSError):  # it is not there, or is a plane of a file
            self._count(Path(path))
        return what

    def _check_files(
        self, files: dict[str, str], mend: Callable[[str], None], remade: Remade = "run"
    ) -> set[str]:
        """Compare files of the step's folder with their digests; return the names of bad ones."""
        bad = set()
        with self._progress.bar(f"Checking {self._step}", len(files)) as bar:
            for name, sha256 in files.items():
                what = self._differs(self._folder / name, sha256)
                if what:
                    bad.add(name)
                    self.tell(self._folder / name, what, remade, partial(mend, name))
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
            what = self._differs(file, file.stem)
            if what:
                self.tell(file, what, "repair", partial(remove_folder, file))
        if document is None:
            return
        for link in read_chain(self._folder).links.values():
            if link.document is None and link.sha256 is not None:
                what = f"the document that {self._step} was made from is gone or changed"
                self.tell(self._project.root / link.path, what, "repair", self._drop)
                return

    def _check_collect(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        for file in sorted((self._folder / FOUND).glob("*.json")):
            if _unreadable(file):
                self.tell(file, "not as it was written", "run", partial(remove_folder, file))
        manifest = manifest_path(self._folder)
        if manifest.name in bad or not manifest.is_file():
            return
        table = collect.read_table(self._project)
        rows = list(zip(table["class"], table["path"], table["sha256"], strict=True))
        with self._progress.bar("Checking training pictures", len(rows)) as bar:
            for name, path, sha256 in rows:
                what = self._differs(path, sha256)
                bar.advance()
                if not what:
                    continue
                picture = Path(path)
                if picture.is_relative_to(self._project.out):
                    again = [picture, self._folder / FOUND]
                    self.tell(picture, what, "repair", partial(self._drop, *again))
                    continue
                said = f"a picture of {name} that you gave: put it back as it was; else the next "
                advice = f"{said}`usam run` learns from what is there then"
                self.tell(picture, what, "no", lambda: None, advice)

    def _check_embed(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        self._take_store(document)
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
                self._count(file)
                continue
            what = "not as it was written" if file.exists() else "missing"
            kept = {} if spec.get("window") == "percentile" else spec.get("window")
            mend = partial(_write_windows, file, kept if file in wanted else None)
            self.tell(file, what, "repair", mend, "a repair takes those of the embeddings")

    def _take_store(self, document: dict[str, Any]) -> None:
        store = document.get("inputs", {}).get("store")
        if store:
            self._stores[self._project.root / store["path"]] = store["spec"]

    def _check_describe(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        self._take_store(document)

    def _check_compose(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        if compose.SCENES in bad or not (self._folder / compose.SCENES).is_file():
            return
        made = compose.made(self._folder)
        self._add(sha256 for name, sha256 in made.items() if name.startswith(SCENES))
        self._check_files(made, self._drop_output)

    def _check_annotate(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        before = len(self._found.damages)
        names = [name for name in (record.outputs if record else {}) if name not in bad]
        parts = [name for name in names if name.startswith(f"{annotate.PARTS}/")]
        images = document.get("inputs", {}).get("images", {}).get("path")
        with self._progress.bar("Checking labels and images", len(parts)) as bar:
            for part in parts:
                entries = list(read_parts(self._folder, [part]))
                self._add(key for one in entries for key in one.get("tiles", [one["sha256"]]))
                for entry in entries:
                    self._check_label(entry)
                    if images is not None and not is_url(images):
                        self._check_image(images, entry)
                bar.advance()
        if len(self._found.damages) > before or bad:
            # What was found whole by sizes and times shall be looked through again.
            remove_folder(self._folder / annotate.CHECKED)

    def _check_label(self, entry: dict[str, Any]) -> None:
        png = self._folder / entry["png"]
        what = self._differs(png, entry["png_sha256"])
        if what and annotate.is_edited(self._folder, entry):
            self._found.edits.append(portable(png, self._project.root))
        elif what:
            self.tell(png, what, "run", partial(self._drop, png))

    def _check_image(self, images: str, entry: dict[str, Any]) -> None:
        image = self._project.root / images / entry["file_name"]
        what = self._differs(image, entry["sha256"])
        if what:
            advice = "your image: put it back as it was; else the next `usam run` labels what is "
            self.tell(image, what, "no", lambda: None, f"{advice}there then")

    def _check_export(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        ledger = self._folder / export.LEDGER
        known = record.summary.get("ledger") if record else None
        what = self._differs(ledger, known) if known else ""
        if what:
            advice = "what a person changed is kept, and told by its content from now on"
            self.tell(ledger, what, "repair", partial(self._drop, ledger), advice)
            return
        try:
            for file, why in export.differing(self._project):
                if why:
                    remade: Remade = "run" if why == "missing" else "repair"
                    self.tell(file, why, remade, partial(self._drop, file))
                else:
                    self._found.edits.append(portable(file, self._project.root))
        except UsamError as error:
            # A ledger without a digest, or a head that is told of by its own step.
            self.tell(ledger, str(error), "repair", partial(self._drop, ledger))

    def _check_report(self, record: Any, document: dict[str, Any], bad: set[str]) -> None:
        now = {name.split("/")[1] for name in record.outputs if "/" in name} if record else set()
        runs = kept_runs(self._folder)
        for folder in runs:
            what = "" if folder.name in now else damaged_kept(folder)
            if what:
                advice = "an earlier run that reports compare with cannot be made again"
                self.tell(folder, what, "repair", partial(self._drop, folder), advice)
        file = self._folder / HISTORY
        if not names_all(self._folder):
            what = f"does not name the runs in {RUNS}"
            self.tell(file, what, "repair", partial(rewrite_history, self._folder))

    def _check_gate(self) -> None:
        file = self._folder / gate.HISTORY
        bad = gate.unreadable_lines(file)
        if bad:
            what = f"lines {', '.join(map(str, bad))} are not as they were written"
            advice = "a repair leaves these earlier runs out; later ones are judged without them"
            self.tell(file, what, "repair", partial(gate.drop_unreadable, file), advice)
        elif file.is_file():
            self._count(file)

    def _check_review(self) -> None:
        log = decisions_file(self._project)
        used = [self._decisions(step) for step in ("fit", "annotate")]
        what = next((what for said in used if said and (what := _not_the_log(log, said))), "")
        if what:
            advice = "decisions are yours and are never touched: put the log back from a copy"
            self.tell(log, what, "no", lambda: None, advice)
        elif log.is_file():
            self._count(log)
        file = self._folder / PRECISION
        if file.exists() and _unreadable(file):
            advice = f"then `usam review {self._project.file.name} --summary` writes it"
            self.tell(file, "not as it was written", "repair", partial(remove_folder, file), advice)

    def _decisions(self, step: str) -> dict[str, Any] | None:
        try:
            document = read_document(step_folder(self._project, step) / LINEAGE)
        except StoreError:
            return None
        return document["inputs"].get("decisions")

    def _add(self, shas: Iterable[str]) -> None:
        """Remember which images the store must have, eight bytes for each."""
        self._shas.append(_numbers(shas))


def _check_store(
    project: Project,
    path: Path,
    spec: dict[str, Any],
    found: Checked,
    repair: bool,
    progress: Progress,
    shas: list[np.ndarray],
) -> None:
    """Check a store, every shard of it, and that it has all images that results stand on."""
    for folder in (path, path / SHARDS):
        try:
            read_group(folder)
        except StoreError as error:
            shown = portable(folder / "zarr.json", project.root)
            remade: Remade = "run" if folder == path else "repair"
            found.damages.append(Damage(shown, str(error), "embed", remade))
            if repair:
                make_store(path.parent, spec)
    if not (path / SHARDS).is_dir():
        found.damages.append(Damage(portable(path, project.root), "missing", "embed", "run"))
        return
    for name in (CACHE_FILE, CHECKED_FILE):
        if (path / name).is_dir():
            shown = portable(path / name, project.root)
            found.damages.append(Damage(shown, "a folder, not a file", "embed", "repair"))
            if repair:
                remove_folder(path / name)
    store = EmbeddingStore(path, spec)
    for bad in store.verify(progress=progress):
        folder = path / SHARDS / bad.shard
        step = "describe" if bad.block else "embed"
        folder = folder / FEATURES / bad.block if bad.block else folder
        found.damages.append(Damage(portable(folder, project.root), bad.reason, step, "run"))
        if repair and bad.block:
            store.drop_damaged_block(bad.shard, bad.block)
        elif repair:
            store.drop_shard(bad.shard)
    held = [np.empty(0, np.uint64)]
    for name in store.shards():
        for file in (path / SHARDS / name).rglob("*"):
            if file.is_file():
                found.files += 1
                found.bytes += file.stat().st_size
        held.append(_numbers(store.images_of(name)))
    missing = np.setdiff1d(np.concatenate([held[0], *shas]), np.concatenate(held))
    if len(missing) and not any(one.step == "embed" for one in found.damages):
        what = f"{len(missing)} images of the results are not stored, such as {missing[0]:016x}..."
        found.damages.append(Damage(portable(path, project.root), what, "embed", "run"))


def _numbers(shas: Iterable[str]) -> np.ndarray:
    """Return the first 64 bits of digests."""
    return np.array([int(sha256[:16], 16) for sha256 in shas], np.uint64)


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
