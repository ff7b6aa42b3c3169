"""Collect: single-object pictures of each class, filtered, and where each came from.

A class's pictures are got and filtered under its own lock and kept; `run` lists those of all.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from usam_core.config.project import Project
from usam_core.config.training import ClassSpec
from usam_core.errors import InputError, StoreError, UserError
from usam_core.files.atomic import only_one, whole_file, write_json
from usam_core.files.digest import file_digest, read_sealed, value_digest, write_sealed
from usam_core.files.parquet import read_frame
from usam_core.files.paths import check_links
from usam_core.lineage.document import portable
from usam_core.outputs.sheets import save_picture_sheet
from usam_core.progress import SILENT, Progress
from usam_core.sources.base import (
    Collected,
    PictureSource,
    TrainingPicture,
    class_folder,
    manifest_path,
    to_frame,
)
from usam_core.sources.filters import filter_pictures, picture_looks
from usam_core.sources.local import choose_source
from usam_core.steps.base import Input, Inputs, StepResult, step_folder
from usam_core.steps.images_to_label import images_input, labelled_files
from usam_core.steps.record import (
    finished,
    intact_record,
    needed_record,
    summary_of,
    whole_output,
)

CALCULATIONS = (
    "usam_core.sources.base",
    "usam_core.sources.filters",
    "usam_core.steps.images_to_label",
)
"""Modules that decide the step's results."""

FOUND = "found"
"""Folder of what was got and filtered of each class."""

_ORIGINS = (
    "model",
    "revision",
    "weights_sha256",
    "prompt",
    "negative_prompt",
    "scheduler",
    "steps",
    "guidance",
    "engine",
    "query",
    "licence",
    "given_by",
)
"""Parts of the provenance that are counted for the head's card and the run's lineage."""

_HINTS = {
    "folder": "add pictures to their folders, or list more folder names under synonyms",
    "render": "raise training.render.per_class",
    "synthetic": "raise training.synthetic.per_class, or try other prompts for them",
    "web": "give them more queries, add engines or a list of URLs, or raise web.per_class",
}


def inputs(project: Project) -> Inputs:
    """What the manifest depends on: source, what it gives for each class, and filters."""
    config = project.config
    source = choose_source(project, step_folder(project, "collect"))
    given = {
        "min_per_class": config.training.min_per_class,
        "classes": {spec.name: source.inputs(spec) for spec in config.collected},
        "filters": _filters(project, source),
    }
    fact = {"name": source.name, "sha256": value_digest(given)}
    read: Inputs = {"source": Input(fact, lambda: fact)}
    if _looks_for_leaks(project):
        # Images that came since may be what a training picture shows.
        read["images"] = images_input(project, sorted(labelled_files(project)))
    return read


def intact(project: Project, key: str) -> StepResult | None:
    """The record if it still holds and no class waits for more pictures."""
    record = intact_record(step_folder(project, "collect"), key)
    return None if record is None or record.summary["incomplete"] else record


def collect_class(
    project: Project, name: str, *, refresh: bool = False, progress: Progress = SILENT
) -> dict[str, int]:
    """Get and filter the pictures of one class; `run` makes the manifest of all.

    Args:
        name: the class.
        refresh: drop what was made or fetched for the class before, and start over.

    Returns:
        Counts by the keys `pictures` and `rejected`.
    """
    folder, names = step_folder(project, "collect"), [s.name for s in project.config.collected]
    if name not in names:
        raise UserError(f"--class: got {name!r}; expected one of {names}")
    check_links(folder)
    spec = project.config.collected[names.index(name)]
    source = choose_source(project, folder)
    result = _ClassPictures(project, source, spec, progress).gather(refresh)
    return {"pictures": len(result.pictures), "rejected": len(result.rejected)}


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Get the pictures of every class that `collect_class` has not got; write the manifest.

    Raises:
        InputError: some classes have fewer pictures than `training.min_per_class`; the report
            and the sheets are written all the same.
    """
    folder = step_folder(project, "collect")
    source = choose_source(project, folder)
    by_class, incomplete = dict[str, Collected](), []
    for spec in project.config.collected:
        of_class = _ClassPictures(project, source, spec, progress)
        by_class[spec.name] = of_class.kept() or of_class.gather()
        if not by_class[spec.name].complete:
            # This run has what it got; the next one asks again.
            of_class.file.unlink(missing_ok=True)
            incomplete.append(spec.name)
    pictures = [picture for one in by_class.values() for picture in one.pictures]
    rejected = [line for one in by_class.values() for line in one.rejected]
    report = {
        name: {
            "kept": len(one.pictures),
            "rejected": dict(Counter(line.code for line in one.rejected).most_common()),
            "notes": one.notes,
        }
        for name, one in by_class.items()
    }
    manifest = manifest_path(folder)
    files = [manifest, folder / "rejected.parquet", folder / "report.json"]
    table = to_frame(pictures)
    # Pictures below the project's folder move with it.
    table = table.assign(path=[portable(Path(path), project.root) for path in table["path"]])
    dropped = pd.DataFrame(
        [(line.class_name, line.origin, line.code, line.reason) for line in rejected],
        columns=["class", "origin", "code", "reason"],
        dtype="str",
    )
    for file, frame in ((files[0], table), (files[1], dropped)):
        with whole_file(file) as temporary:
            frame.to_parquet(temporary, index=False)
    write_json(files[2], report)
    shutil.rmtree(folder / "sheets", ignore_errors=True)
    for name, one in by_class.items():
        sheet = folder / "sheets" / f"{class_folder(name)}.jpg"
        kept = [picture.path for picture in one.pictures]
        save_picture_sheet(sheet, name, kept, [(r.origin, r.code) for r in one.rejected])
        files.append(sheet)
    _check_counts(project, report)
    summary = {
        "pictures": len(pictures),
        "per_class": {name: entry["kept"] for name, entry in report.items()},
        "source": source.name,
        "rejected": dict(Counter(line.code for line in rejected).most_common()),
        "notes": [note for one in by_class.values() for note in one.notes],
        "incomplete": incomplete,
        "provenance": _origins(pictures, manifest),
    }
    return finished("collect", key, manifest, summary, files)


def facts(project: Project, result: StepResult) -> dict[str, Any]:
    """The pictures, for the lineage: the manifest lies there, though it is not recorded yet."""
    return {"pictures": _pictures(project, result.summary["provenance"])}


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    dropped = ", ".join(f"{count} {code}" for code, count in s["rejected"].items())
    text = f"{s['pictures']} training pictures of {len(s['per_class'])} classes ({s['source']})"
    text = f"{text}; dropped: {dropped}" if dropped else text
    waiting = ", ".join(s["incomplete"])
    return f"{text}; run again for more of {waiting}" if waiting else text


def pictures_input(project: Project, identity: Any) -> Input:
    """The training pictures as an input of a step; `identity` is what of them decides."""
    return Input(identity, lambda: _pictures(project, training_provenance(project)), "collect")


def read_manifest(project: Project) -> pd.DataFrame:
    """The training pictures that `collect` found, their paths absolute.

    Raises:
        MissingStepError: `collect` has not run.
        StoreError: its manifest is missing or damaged.
    """
    folder = step_folder(project, "collect")
    needed_record(folder, "training pictures", project.file)
    whole_output(folder, manifest_path(Path()).name)
    return read_table(project)


def read_table(project: Project) -> pd.DataFrame:
    """The manifest as it lies there, recorded or not, its paths absolute.

    Raises:
        StoreError: it cannot be read.
    """
    file = manifest_path(step_folder(project, "collect"))
    try:
        table = read_frame(file)
        paths = table["path"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{file}: cannot be read ({error}); run `usam collect {project.file}` again"
        ) from error
    return table.assign(path=[str(project.picture(path, file)) for path in paths])


def pictures_digest(manifest: pd.DataFrame) -> str:
    """One digest of the pictures and their classes, wherever the files lie."""
    return value_digest(sorted(zip(manifest["class"], manifest["sha256"], strict=True)))


def training_provenance(project: Project) -> dict[str, Any]:
    """Where the training pictures came from, in sum, for cards and lineage."""
    return summary_of(project, "collect").get("provenance", {})


def _pictures(project: Project, provenance: dict[str, Any]) -> dict[str, Any]:
    table = read_table(project)
    return {
        "manifest": portable(manifest_path(step_folder(project, "collect")), project.root),
        "sha256": pictures_digest(table),
        "count": len(table),
        "per_class": {str(k): int(v) for k, v in table["class"].value_counts(sort=False).items()},
        "provenance": provenance,
    }


def _origins(pictures: list[TrainingPicture], manifest: Path) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for picture in pictures:
        for part in _ORIGINS:
            value = picture.provenance.get(part)
            if value is not None:
                counts.setdefault(part, Counter())[str(value)] += 1
    return {
        "manifest_sha256": file_digest(manifest),
        "sources": dict(Counter(picture.source for picture in pictures)),
        **{part: dict(counter) for part, counter in counts.items()},
    }


def _check_counts(project: Project, report: dict[str, dict[str, Any]]) -> None:
    training = project.config.training
    short = {name: e for name, e in report.items() if e["kept"] < training.min_per_class}
    if training.source == "none" or not short:
        return
    listed = []
    for name, entry in short.items():
        dropped = ", ".join(f"{count} {code}" for code, count in entry["rejected"].items())
        listed.append(f"{name} ({entry['kept']}{'; dropped: ' * bool(dropped)}{dropped})")
    notes = "".join(f"\n  {note}" for entry in short.values() for note in entry["notes"])
    raise InputError(
        f"too few training pictures for {', '.join(listed)}; expected at least "
        f"{training.min_per_class} each (training.min_per_class). Try: {_HINTS[training.source]}; "
        f"loosen training.filters after a look at {step_folder(project, 'collect') / 'sheets'}; or "
        f"lower training.min_per_class{notes}"
    )


def _looks_for_leaks(project: Project) -> bool:
    """Whether training pictures are compared with the images to be labelled."""
    training = project.config.training
    return training.source in ("folder", "web") and training.filters.leak_bits is not None


def _filters(project: Project, source: PictureSource) -> dict[str, Any] | None:
    filters = project.config.training.filters
    return filters.model_dump(mode="json") if source.filtered else None


class _ClassPictures:
    """The pictures of one class: got from the source, filtered, topped up, and listed in a file."""

    def __init__(
        self, project: Project, source: PictureSource, spec: ClassSpec, progress: Progress
    ) -> None:
        self._project, self._source, self._spec, self._progress = project, source, spec, progress
        self._folder = step_folder(project, "collect")
        self.file = self._folder / FOUND / f"{class_folder(spec.name)}.json"

    def key(self) -> str:
        """Digest of what decides them."""
        project, source = self._project, self._source
        labelled = sorted(labelled_files(project)) if _looks_for_leaks(project) else None
        parts = [source.name, source.inputs(self._spec), _filters(project, source), labelled]
        return value_digest(parts)

    def gather(self, refresh: bool = False) -> Collected:
        """Get and filter them, and keep the list for the manifest."""
        name, project = self._spec.name, self._project
        with only_one(self._folder / "locks" / class_folder(name), f"the pictures of {name!r}"):
            if refresh:
                self._source.forget(self._spec)
            result = self._get()
            value = result.to_json()
            for picture in value["pictures"]:
                # Pictures below the project's folder move with it.
                picture["path"] = portable(Path(picture["path"]), project.root)
            write_sealed(self.file, {"key": self.key(), **value})
        return result

    def kept(self) -> Collected | None:
        """What `gather` kept, if it still holds and the pictures are there."""
        try:
            value = read_sealed(self.file)
            for picture in value["pictures"]:
                picture["path"] = str(self._project.picture(picture["path"], self.file))
            result = Collected.from_json(value)
            there = all(Path(p.path).stat().st_size == p.bytes for p in result.pictures)
            return result if there and value["key"] == self.key() else None
        except (OSError, ValueError, KeyError, TypeError, StoreError):
            return None

    def _get(self) -> Collected:
        """Get pictures, and as many more as the filters drop.

        Until the class has enough, the source has no more, or twice the number was filtered.
        """
        source, result = self._source, self._source.collect(self._spec, self._progress)
        if not source.filtered:
            return result
        hashes = self._labelled_hashes()
        looked_at, spare = -1, 0
        while True:
            count = len(result.pictures)
            kept = self._filter(result, hashes)
            short = 0 if source.wanted is None else source.wanted - len(kept.pictures)
            if short <= 0 or count <= looked_at or spare >= (source.wanted or 0):
                break
            looked_at, spare = count, min(spare + short, source.wanted or 0)
            result = source.collect(self._spec, self._progress, spare)
        kept.pictures = kept.pictures[: source.wanted]
        return kept

    def _filter(self, collected: Collected, hashes: np.ndarray) -> Collected:
        config, pictures = self._project.config, collected.pictures
        looks = picture_looks(
            {picture.sha256: picture.path for picture in pictures},
            config.images,
            self._folder / "looks.parquet",
            self._progress,
            features=config.training.filters.outlier_deviations is not None,
        ).set_index("sha256", drop=False)
        rows = looks.loc[[picture.sha256 for picture in pictures]].reset_index(drop=True)
        kept, dropped = filter_pictures(pictures, rows, config.training.filters, hashes)
        return Collected(kept, [*collected.rejected, *dropped], collected.notes, collected.complete)

    def _labelled_hashes(self) -> np.ndarray:
        if not _looks_for_leaks(self._project):
            return np.empty(0, np.uint64)
        files, images = labelled_files(self._project, self._progress), self._project.config.images
        cache = self._folder / "labelled_looks.parquet"
        looks = picture_looks(files, images, cache, self._progress, features=False)
        return looks.loc[looks["code"] == "", "phash"].to_numpy(np.uint64)
