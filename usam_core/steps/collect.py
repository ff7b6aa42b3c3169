"""Collect: single-object pictures of each class, filtered, and where each came from."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.config.project import Project
from usam_core.config.schema import ClassSpec
from usam_core.errors import InputError, StoreError, UserError
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.parquet import read_frame
from usam_core.files.paths import check_links
from usam_core.lineage.document import portable
from usam_core.outputs.sheets import save_picture_sheet
from usam_core.progress import SILENT, Progress
from usam_core.sources.base import (
    Collected,
    Rejected,
    TrainingPicture,
    class_folder,
    manifest_path,
    to_frame,
)
from usam_core.sources.local import choose_source
from usam_core.steps.base import Input, Inputs
from usam_core.steps.class_pictures import forget_gathered, gather, gathered, looks_for_leaks
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import images_input, labelled_files
from usam_core.steps.record import (
    StepResult,
    digests,
    intact_record,
    needed_record,
    read_record,
    whole_output,
)

CALCULATIONS = ("usam_core.steps.class_pictures",)
"""Modules that decide the step's results."""

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
    filters = config.training.filters if source.filtered else None
    given = {
        "min_per_class": config.training.min_per_class,
        "classes": {spec.name: source.inputs(spec) for spec in config.collected},
        "filters": filters and filters.model_dump(mode="json"),
    }
    said = {"name": source.name, "sha256": value_digest(given)}
    read: Inputs = {"source": Input(said, lambda: said)}
    if looks_for_leaks(project):
        # Images that came since may be what a training picture shows.
        read["images"] = images_input(project, sorted(labelled_files(project)))
    return read


def intact(project: Project, key: str) -> StepResult | None:
    """Return the record if it still holds and no class waits for more pictures."""
    record = intact_record(step_folder(project, "collect"), key)
    return None if record is None or record.summary["incomplete"] else record


def collect_class(
    project: Project, name: str, *, refresh: bool = False, progress: Progress = SILENT
) -> dict[str, int]:
    """Get and filter the pictures of one class; `run` makes the manifest of all.

    Args:
        project: the project.
        name: the class.
        refresh: drop what was made or fetched for the class before, and begin anew.
        progress: told how it goes on.

    Returns:
        Counts by the keys `pictures` and `rejected`.
    """
    folder = step_folder(project, "collect")
    check_links(folder)
    source = choose_source(project, folder)
    found = gather(project, source, _spec(project, name), progress, refresh=refresh)
    return {"pictures": len(found.pictures), "rejected": len(found.rejected)}


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Get the pictures of every class that `collect_class` has not got; write the manifest.

    Raises:
        InputError: some classes have fewer pictures than `training.min_per_class`; the report
            and the sheets are written all the same.
    """
    folder = step_folder(project, "collect")
    source = choose_source(project, folder)
    specs = project.config.collected
    found = [
        gathered(project, source, spec) or gather(project, source, spec, progress) for spec in specs
    ]
    incomplete = [spec.name for spec, one in zip(specs, found, strict=True) if not one.complete]
    for spec in specs:
        if spec.name in incomplete:
            # This run has what it got; the next one asks again.
            forget_gathered(project, spec)
    pictures = [picture for one in found for picture in one.pictures]
    rejected = [line for one in found for line in one.rejected]
    report = _report(specs, found)
    files = [
        _write_table(manifest_path(folder), _relocatable(to_frame(pictures), project.root)),
        _write_table(folder / "rejected.parquet", _rejected_frame(rejected)),
        folder / "report.json",
    ]
    write_json(files[-1], report)
    shutil.rmtree(folder / "sheets", ignore_errors=True)
    for spec, one in zip(specs, found, strict=True):
        sheet = folder / "sheets" / f"{class_folder(spec.name)}.jpg"
        kept = [picture.path for picture in one.pictures]
        save_picture_sheet(sheet, spec.name, kept, [(r.origin, r.code) for r in one.rejected])
        files.append(sheet)
    _check_counts(project, report)
    return StepResult(
        step="collect",
        key=key,
        reused=False,
        path=str(manifest_path(folder)),
        summary={
            "pictures": len(pictures),
            "per_class": {name: entry["kept"] for name, entry in report.items()},
            "source": source.name,
            "rejected": dict(Counter(line.code for line in rejected).most_common()),
            "notes": [note for one in found for note in one.notes],
            "incomplete": incomplete,
            "provenance": _origins(pictures, manifest_path(folder)),
        },
        outputs=digests(folder, files),
    )


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
    """Return the training pictures that `collect` found, their paths absolute.

    Raises:
        MissingStepError: `collect` has not run.
        StoreError: its manifest is missing or damaged.
    """
    folder = step_folder(project, "collect")
    needed_record(folder, "training pictures", project.file)
    whole_output(folder, manifest_path(Path()).name)
    return read_table(project)


def read_table(project: Project) -> pd.DataFrame:
    """Return the manifest as it lies there, its paths absolute.

    Raises:
        StoreError: it cannot be read.
    """
    folder = step_folder(project, "collect")
    try:
        table = read_frame(manifest_path(folder))
        paths = table["path"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{manifest_path(folder)}: cannot be read ({error}); run `usam collect "
            f"{project.file}` again"
        ) from error
    named_by = manifest_path(folder)
    return table.assign(path=[str(project.picture(path, named_by)) for path in paths])


def pictures_digest(manifest: pd.DataFrame) -> str:
    """Return one digest of the pictures and their classes, wherever the files lie."""
    return value_digest(sorted(zip(manifest["class"], manifest["sha256"], strict=True)))


def training_provenance(project: Project) -> dict[str, Any]:
    """Return where the training pictures came from, in sum, for cards and lineage."""
    record = read_record(step_folder(project, "collect"))
    return {} if record is None else record.summary.get("provenance", {})


def _pictures(project: Project, provenance: dict[str, Any]) -> dict[str, Any]:
    table = read_table(project)
    return {
        "manifest": portable(manifest_path(step_folder(project, "collect")), project.root),
        "sha256": pictures_digest(table),
        "count": len(table),
        "per_class": {str(k): int(v) for k, v in table["class"].value_counts(sort=False).items()},
        "provenance": provenance,
    }


def _spec(project: Project, name: str) -> ClassSpec:
    for spec in project.config.collected:
        if spec.name == name:
            return spec
    names = [spec.name for spec in project.config.collected]
    raise UserError(f"--class: got {name!r}; expected one of {names}")


def _report(specs: list[ClassSpec], found: list[Collected]) -> dict[str, dict[str, Any]]:
    return {
        spec.name: {
            "kept": len(one.pictures),
            "rejected": dict(Counter(line.code for line in one.rejected).most_common()),
            "notes": one.notes,
        }
        for spec, one in zip(specs, found, strict=True)
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


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    with whole_file(path) as temporary:
        table.to_parquet(temporary, index=False)
    return path


def _rejected_frame(rejected: list[Rejected]) -> pd.DataFrame:
    rows = [(line.class_name, line.origin, line.code, line.reason) for line in rejected]
    return pd.DataFrame(rows, columns=["class", "origin", "code", "reason"], dtype="str")


def _relocatable(table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Pictures below the project's folder move with it."""
    paths = (Path(path) for path in table["path"])
    return table.assign(
        path=[p.relative_to(root).as_posix() if p.is_relative_to(root) else str(p) for p in paths]
    )


def _check_counts(project: Project, report: dict[str, dict[str, Any]]) -> None:
    training = project.config.training
    if training.source == "none":
        return
    short = {name: e for name, e in report.items() if e["kept"] < training.min_per_class}
    if not short:
        return
    listed = ", ".join(f"{name} ({_kept_and_dropped(entry)})" for name, entry in short.items())
    notes = "".join(f"\n  {note}" for entry in short.values() for note in entry["notes"])
    raise InputError(
        f"too few training pictures for {listed}; expected at least {training.min_per_class} "
        f"each (training.min_per_class). Try: {_HINTS[training.source]}; loosen "
        f"training.filters after a look at {step_folder(project, 'collect') / 'sheets'}; or lower "
        f"training.min_per_class{notes}"
    )


def _kept_and_dropped(entry: dict[str, Any]) -> str:
    dropped = [f"{count} {code}" for code, count in entry["rejected"].items()]
    return "; dropped: ".join([str(entry["kept"]), *([", ".join(dropped)] if dropped else [])])
