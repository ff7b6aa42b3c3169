"""Export: the labels in the formats that other programs take (`outputs.formats`).

A person's edits are kept: a file for one image that is not as the last export wrote it stays, and
`show_edits` says what was changed.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from usam_core.config.project import Project
from usam_core.files.atomic import disk_errors
from usam_core.files.code import code_digest
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.fsspec_io import is_url
from usam_core.files.paths import remove
from usam_core.head.checkpoint import load_head
from usam_core.images.listing.content import mismatch
from usam_core.labels.label_map import LabelMap
from usam_core.lineage.document import RECORD
from usam_core.outputs.base import Target, Writer
from usam_core.outputs.formats import WRITERS, open_writer
from usam_core.outputs.ledger import Edit, Ledger, Written, compare, content_digest
from usam_core.progress import Progress
from usam_core.steps import annotate
from usam_core.steps.base import Inputs, StepResult, step_folder
from usam_core.steps.exporting import (
    INDEX,
    ROWS,
    Job,
    can_be_read,
    export_part,
    read_rows,
    remove_left_over,
    rows_file,
)
from usam_core.steps.label_images import head_path
from usam_core.steps.record import (
    digests,
    intact_record,
    labels_record,
    made_input,
    read_record,
)
from usam_core.store.layout import remove_folder

CALCULATIONS = ("usam_core.steps.exporting", "usam_core.outputs.formats")
"""Modules that decide the step's results."""

LEDGER = "ledger.sqlite"
CUT = "cannot be read as a file of its format"


def inputs(project: Project) -> Inputs:
    """What the exports depend on: the labels and the formats."""
    outputs = project.config.outputs
    names = _formats(project)
    if not names:
        return {"formats": []}
    return {
        "labels": made_input(project, labels_record(project)),
        "formats": names,
        "settings": _settings(project),
        "label_studio": outputs.label_studio,
        "ome_zarr_in_place": outputs.ome_zarr_in_place,
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Write what is not there yet, shard by shard, and the index files."""
    folder = step_folder(project, "export")
    writers = _writers(project, _formats(project))
    if not writers:
        nothing = {"images": 0, "shards": 0, "written": 0, "edited": {}, "notes": []}
        return StepResult("export", key, False, str(folder), nothing)
    record = read_record(folder)
    for name, sha256 in record.outputs.items() if record else ():
        if name.startswith(f"{ROWS}/") and mismatch(folder / name, sha256):
            remove_folder(folder / name)  # they are written again
    # Files are replaced from here on: what the last export recorded holds no longer.
    (folder / RECORD).unlink(missing_ok=True)
    labels = annotate.labels(project)
    parts = cast(Mapping[str, str], labels.files)
    with (
        disk_errors(folder),
        _open_ledger(project) as ledger,
        progress.bar("Exporting", len(parts)) as bar,
    ):
        fresh = 0
        for name, sha256 in parts.items():
            jobs = _jobs(project, writers, name, sha256, ledger)
            if jobs:
                some = replace(labels, files={name: sha256}).images(["instances"])
                export_part(Path(name).stem, some, jobs, ledger)
                fresh += 1
            bar.advance()
        stems = [Path(name).stem for name in parts]
        files = [file for writer in writers for file in _finish(writer, stems, ledger)]
        rows = [rows_file(folder, w.name, stem) for w in writers if w.indexed for stem in stems]
        edited = {w.name: sum(1 for _ in ledger.edits(w.name)) for w in writers}
        notes = [note for writer in writers for note in writer.notes]
        notes += ledger.refused.values()
        if sum(edited.values()):
            notes.append(
                f"{sum(edited.values())} files changed by hand are kept: `usam export "
                f"{project.file} --show-edits` says how, --overwrite-edited writes them anew"
            )
        other = sorted(set(ledger.formats()) - set(edited))
        if other:
            notes.append(f"of an earlier export and not renewed now: {', '.join(other)}")
    summary = {
        "images": labels_record(project).summary["images"],
        "shards": len(parts),
        "written": fresh,
        "edited": edited,
        "notes": notes,
        "ledger": file_digest(folder / LEDGER),
    }
    outputs = digests(folder, [*files, *rows])
    return StepResult("export", key, False, str(folder), summary, outputs)


def intact(project: Project, key: str) -> StepResult | None:
    """The record if its key holds, its index files do, and no image's file is gone."""
    folder = step_folder(project, "export")
    record = intact_record(folder, key)
    names = _formats(project)
    if record is None or not names:
        return record
    if not (folder / LEDGER).is_file():
        return None
    with _open_ledger(project) as ledger:
        if not all(ledger.whole(name) for name in names):
            return None
        edited = {name: sum(1 for _ in ledger.edits(name)) for name in names}
    return replace(record, summary={**record.summary, "written": 0, "edited": edited})


def forget(project: Project) -> None:
    """Forget which parts are exported, so that all are written again; edits stay."""
    if (step_folder(project, "export") / LEDGER).is_file():
        with _open_ledger(project) as ledger:
            for name in ledger.formats():
                ledger.forget(name)


def drop_edits(project: Project) -> int:
    """Remove the files that a person has changed, so that they are written again; how many."""
    folder = step_folder(project, "export")
    if not (folder / LEDGER).is_file():
        return 0
    count = 0
    with _open_ledger(project) as ledger:
        for name in _formats(project):
            for place, _ in list(ledger.edits(name)):
                remove(place.parent, place)
                count += 1
    return count


def differing(project: Project) -> Iterator[tuple[Path, str]]:
    """Yield each image's exported file that is not as we wrote it, and why; every byte is read.

    Why is empty for a person's edit: it can be read as a file of its format.
    """
    folder = step_folder(project, "export")
    if not (folder / LEDGER).is_file():
        return
    changed: dict[str, list[tuple[str, str]]] = {}
    with Ledger(folder / LEDGER) as ledger:
        for name, path, of_image, why in ledger.differing():
            if why:
                yield folder / path, why
            else:
                changed.setdefault(of_image, []).append((name, path))
    if not changed:
        return
    names = {name for files in changed.values() for name, _ in files if name in WRITERS}
    writers = {writer.name: writer for writer in _writers(project, names)}
    for image in annotate.labels(project).images(["instances"]):
        for name, path in changed.pop(image.path, ()):
            yield folder / path, "" if can_be_read(writers[name], image, folder / path) else CUT
    # Of images that are no longer labelled nothing is known: such a file may be a person's.
    yield from ((folder / path, "") for files in changed.values() for _, path in files)


def set_aside(place: Path) -> Path:
    """Rename a file that may be a person's edit, and return where it is kept."""
    kept = f"{place.stem}.edited-{content_digest(place)[:8]}{place.suffix}"
    return place.rename(place.with_name(kept))


def show_edits(project: Project) -> Iterator[Edit]:
    """Yield what a person has changed in the label PNGs and in what was exported, by image."""
    folder = step_folder(project, "export")
    yield from annotate.edits(project)
    if not (folder / LEDGER).is_file():
        return
    with _open_ledger(project) as ledger:
        changed: dict[str, list[tuple[Writer, Path]]] = {}
        for writer in _writers(project, [n for n in ledger.formats() if n in WRITERS]):
            for place, of_image in ledger.edits(writer.name):
                changed.setdefault(of_image, []).append((writer, place))
        for image in annotate.labels(project).images(["instances"]) if changed else ():
            for writer, place in changed.get(image.path, ()):
                yield compare(writer, image, place)


def _open_ledger(project: Project) -> Ledger:
    root = project.images.root
    images = None if is_url(root) else root
    return Ledger(step_folder(project, "export") / LEDGER, images)


def _formats(project: Project) -> list[str]:
    return sorted(set(project.config.outputs.formats))


def _settings(project: Project) -> dict[str, Any]:
    """What decides every format's files beside the labels."""
    config = project.config
    return {
        "names": config.label_names,
        "colours": {spec.name: spec.color for spec in config.classes},
        "images": config.images.path,
        "pixel_size": config.outputs.pixel_size,
        "polygon_tolerance": config.outputs.polygon_tolerance,
    }


def _writers(project: Project, names: Collection[str]) -> list[Writer]:
    if not names:
        return []
    config, folder = project.config, step_folder(project, "export")
    _, card = load_head(head_path(project))
    chosen = {spec.name: spec.color for spec in config.classes}
    label_map = LabelMap.of_names(card["classes"], chosen)
    return [
        open_writer(
            name,
            Target(
                folder=folder / name,
                label_map=label_map,
                run=labels_record(project).key,
                shapes=config.outputs.label_studio,
                in_place=config.outputs.ome_zarr_in_place,
                level=config.level,
                pixel_size=config.outputs.pixel_size,
                tolerance=config.outputs.polygon_tolerance,
            ),
        )
        for name in names
    ]


def _jobs(
    project: Project, writers: list[Writer], name: str, sha256: str, ledger: Ledger
) -> list[Job]:
    """The formats of a part that have to be written."""
    part = Path(name).stem
    jobs = []
    for writer in writers:
        module = type(writer).__module__
        own = {
            "shapes": writer.to.shapes if writer.name == "label_studio" else None,
            "in_place": writer.to.in_place if writer.name == "ome_zarr" else None,
        }
        code = code_digest("usam_core.steps.exporting", (module,))
        key = value_digest([sha256, code, _settings(project), own])
        there = not writer.indexed or rows_file(ledger.folder, writer.name, part).is_file()
        if not there or not ledger.done(writer.name, part, key):
            jobs.append(Job(writer, key))
    return jobs


def _finish(writer: Writer, parts: list[str], ledger: Ledger) -> list[Path]:
    """Write a format's index; files that no image has any more go, unless they were edited."""
    name = writer.name
    ledger.drop_parts(name, {*parts, INDEX})
    remove_left_over(writer, ledger)
    for path in ledger.of_part(name, INDEX):
        place = ledger.place(name, path)
        if place is not None and ledger.edited(name, path):
            aside = set_aside(place)
            writer.note(f"{name}: {path} was edited; the edit is kept as {aside.name}")
    sources = [rows_file(ledger.folder, name, part) for part in parts] if writer.indexed else []
    for old in set((ledger.folder / ROWS / name).glob("*.jsonl")).difference(sources):
        remove(ledger.folder, old)
    files = writer.finish(read_rows(sources))
    written = [Written(ledger.relative(file), "", content_digest(file)) for file in files]
    ledger.finish(name, INDEX, "", written, [])
    return files


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    if not s["edited"]:
        return "no formats asked for (outputs.formats)"
    text = f"{s['images']} images as {', '.join(s['edited'])}; {s['written']} shards written"
    edited = sum(s["edited"].values())
    return f"{text}, {edited} files edited by hand kept" if edited else text
