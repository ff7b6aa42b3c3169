"""Annotate: label every image from its stored masks; COCO, palette PNGs, overlays."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import MissingStepError, StoreError
from usam_core.files.code import code_digest
from usam_core.files.digest import CheckedFolders, file_digest, value_digest, values_digest
from usam_core.files.paths import remove
from usam_core.head.checkpoint import card_path, load_head
from usam_core.images.listing.content import mismatch
from usam_core.labels.image import count_labels
from usam_core.labels.label_map import LabelMap
from usam_core.labels.parts import PARTS, SUFFIX, Parts
from usam_core.lineage.document import write_run
from usam_core.masks.label_png import edited_png, read_label_png
from usam_core.metrics.gate import covers_too_much
from usam_core.outputs.label_files import output_names
from usam_core.outputs.ledger import Edit, changed_counts
from usam_core.outputs.lists import write_coco
from usam_core.parallel.workers import Piece, run_pieces
from usam_core.progress import Progress
from usam_core.steps import embed
from usam_core.steps.annotate_notes import (
    Tally,
    notes_on_edits,
    notes_on_settings,
)
from usam_core.steps.base import Inputs, StepResult, identities
from usam_core.steps.blocks import block_inputs, head_blocks
from usam_core.steps.calibrated import calibration_file, calibration_input, head_input
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import images_input, listed_pairs, tiled_images
from usam_core.steps.label_shard import Part, label_part, part_holds
from usam_core.steps.label_targets import labellable
from usam_core.steps.label_tiled import LargePart, label_large
from usam_core.steps.record import (
    digests,
    intact_record,
    labels_record,
    read_record,
)
from usam_core.steps.render import draw_overlays
from usam_core.steps.review_log import (
    decided,
    decision_inputs,
    decisions_digest,
    notes_on_decisions,
)

_LABELLING = ("usam_core.steps.label_shard", "usam_core.steps.label_tiled")
"""Modules that decide an image's labels."""

CALCULATIONS = (
    *_LABELLING,
    "usam_core.outputs.lists",
    "usam_core.labels.overlay",
    "usam_core.lineage.document",
)
"""Modules that decide the step's results."""

COCO = "coco.json"
RUN = "run.json"
MASKS = "masks"
OVERLAYS = "overlays"
CHECKED = ".checked.json"


def inputs(project: Project) -> Inputs:
    """What the labels depend on: the head, the settings, and the images by content."""
    return {
        **_read_by_all(project),
        **decision_inputs(project.out, project.root),
        "card": file_digest(card_path(head_path(project))),
        "overlays": project.config.outputs.overlays,
        "colours": [spec.color for spec in project.config.classes],
        "images": images_input(project, values_digest(listed_pairs(project))),
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Label the images shard by shard; parts of an earlier run that still hold are kept.

    Raises:
        MissingStepError: `embed` or `fit` has not run.
    """
    folder = step_folder(project, "annotate")
    store = embed.open_store(project)
    head_file = head_path(project)
    _, card = load_head(head_file)
    found = labellable(project, store)
    contents = found.contents()
    labelling = value_digest(_labelling(project))
    names = {path: f"{name}.png" for path, name in output_names(contents).items()}
    _drop_damaged(folder)
    written = _written(folder)
    blocks = head_blocks(project)
    said = decided(project.out)
    pieces, done = [], []
    for shard, group in found.whole.groupby("shard", sort=True):
        rows = sorted(zip(group["path"], group["sha256"], strict=True))
        here = {sha256: said[sha256] for _, sha256 in rows if sha256 in said}
        # An image that comes may take another's name, which is called otherwise from then on.
        pngs = [f"{MASKS}/{names[path]}" for path, _ in rows]
        made_of = [labelling, shard, rows, pngs]
        if here:
            made_of.append(decisions_digest(d for of_image in here.values() for d in of_image))
        done.append(folder / PARTS / f"{value_digest(made_of)[:24]}{SUFFIX}")
        before = {png: written[png] for png in pngs if png in written}
        part = Part(done[-1], shard, rows, pngs, before, blocks, here)
        name = f"labelling {len(rows)} images from {rows[0][0]} on"
        pieces.append(Piece(name, len(rows), (project, store.path, head_file, part)))
    large = []
    for image, shards in found.tiled:
        png = f"{MASKS}/{names[image.path]}"
        made_of = [labelling, image.path, image.sha256, image.keys, shards, png]
        done.append(folder / PARTS / f"{value_digest(made_of)[:24]}{SUFFIX}")
        of_image = LargePart(done[-1], image, shards, png, written.get(png), blocks)
        name = f"labelling {len(shards)} tiles of {image.path}"
        large.append(Piece(name, len(shards), (project, store.path, head_file, of_image)))
    config = project.config
    fresh = sum(run_pieces(label_part, pieces, "Labelling", config.compute, "cpu", progress))
    fresh += sum(run_pieces(label_large, large, "Tiles", config.compute, "cpu", progress))
    _sweep(folder, done, set(names.values()), written)
    label_map = LabelMap.of(config)
    tally = Tally(label_map)
    made = Parts(folder, {f"{PARTS}{part.name}": None for part in done}, label_map)
    images = tally.watch(made.images(["instances", "rejected", "pixels"]))
    header = {"info": {"description": "usam"}, "categories": label_map.categories()}
    write_coco(folder / COCO, header, (image.to_coco() for image in images))
    first = list(contents)[: config.outputs.overlays]
    shown = {p: (folder / MASKS / names[p], names[p].removesuffix(".png")) for p in first}
    overlays = draw_overlays(project, folder / OVERLAYS, shown, card["classes"], progress)
    write_run(folder / RUN, project, card, contents, embed.how_to_read(project))
    return StepResult(
        step="annotate",
        key=key,
        reused=False,
        path=str(folder / COCO),
        summary={
            "images": len(contents),
            "labelled": fresh,
            "reused": len(contents) - fresh,
            "instances": sum(tally.instances.values()),
            "per_class": tally.instances,
            "edited": tally.edited,
            "covered": dict(tally.covered),
            "notes": _notes(project, tally.edited, tally.covered, len(contents)),
            **tally.reviewed(sum(map(len, said.values()))),
        },
        outputs=digests(folder, [folder / COCO, folder / RUN, *done, *overlays]),
    )


def forget(project: Project) -> None:
    """Remove what says which images are labelled already, so that all are labelled again."""
    shutil.rmtree(step_folder(project, "annotate") / PARTS, ignore_errors=True)


def intact(project: Project, key: str) -> StepResult | None:
    """Return the record if its key holds and every file it speaks of is there, label PNGs too."""
    folder = step_folder(project, "annotate")
    record = read_record(folder)
    if record is None or record.key != key:
        return None
    # Against the outputs' digests: a record of the same key may be of other outputs.
    checked = CheckedFolders(folder / CHECKED, value_digest(record.outputs))
    changed = 0
    if not checked.holds(folder):
        if intact_record(folder, key) is None:
            return None
        if not all(part_holds(folder, folder / name) for name in _parts(folder)):
            return None
        changed = len(edited_images(project))
        if not changed:
            checked.add(folder)
            checked.save([folder.name])
    summary = {**record.summary, "labelled": 0, "reused": record.summary["images"]}
    covered = summary.get("covered", {})
    notes = _notes(project, changed, covered, summary["images"])
    summary |= {"edited": changed, "notes": notes}
    return replace(record, reused=True, summary=summary)


def labels(project: Project) -> Parts:
    """What was labelled, to be read part by part.

    Raises:
        MissingStepError: `annotate` has not run.
    """
    labels_record(project)
    folder = step_folder(project, "annotate")
    return Parts(folder, _parts(folder), LabelMap.of(project.config), project.images.root)


def edits(project: Project) -> Iterator[Edit]:
    """Yield what a person has changed in the label PNGs; of ours only the counts are known."""
    for image in labels(project).images(["pixels"]):
        if image.is_edited():
            now = count_labels(read_label_png(image.png_file))
            changed = changed_counts(image.pixels, now, image.label_map)
            yield Edit("annotate", image.path, str(image.png_file), None, changed, {})


def edited_images(project: Project) -> list[str]:
    """Return the images whose label PNGs a person has changed, sorted; see `intact`."""
    folder = step_folder(project, "annotate")
    if CheckedFolders(folder / CHECKED, value_digest(labels_record(project).outputs)).holds(folder):
        return []
    return sorted(image.path for image in labels(project).images([]) if image.is_edited())


def head_path(project: Project) -> Path:
    """Return the head that labels: of `fit`, the one that `inference.head` names.

    Raises:
        MissingStepError: `fit` has not run.
    """
    folder = step_folder(project, "fit")
    record = read_record(folder)
    chosen = f"{project.config.inference.head}.safetensors"
    # Without distillation there is the teacher only.
    names = [] if record is None else [chosen, Path(record.path).name]
    head = next((folder / name for name in names if name in record.outputs), None)
    if head is None or not head.exists():
        raise MissingStepError(f"{folder}: no head yet; run `usam fit {project.file}` first")
    return head


def _notes(project: Project, edited: int, covered: dict[str, int], images: int) -> list[str]:
    return [
        *covers_too_much(covered, images),
        *notes_on_settings(project),
        *notes_on_edits(edited),
        *notes_on_decisions(project.out),
    ]


def _labelling(project: Project) -> dict[str, Any]:
    """What decides the labels of a single image."""
    return {"code": code_digest(__name__, _LABELLING), **identities(_read_by_all(project))}


def _read_by_all(project: Project) -> Inputs:
    """What every image's labels depend on."""
    return {
        "head": head_input(head_path(project), project.root),
        "calibration": calibration_input(calibration_file(project), project.root),
        "inference": project.config.inference.model_dump(mode="json"),
        **embed.embedding_inputs(project),
        **_tiles(project),
        **block_inputs(project),
    }


def _tiles(project: Project) -> dict[str, Any]:
    """Return how images are cut into tiles, if any are."""
    images = project.config.images
    return {"tiles": [images.tile, images.overlap]} if tiled_images(project) else {}


def _parts(folder: Path) -> dict[str, str]:
    """Return the digest of each recorded part, by its name in the folder, sorted."""
    record = read_record(folder)
    outputs = sorted(record.outputs.items()) if record else ()
    return {name: sha256 for name, sha256 in outputs if name.startswith(PARTS)}


def _drop_damaged(folder: Path) -> None:
    """Remove parts that are not as they were recorded: their images are labelled again."""
    for name, sha256 in _parts(folder).items():
        if mismatch(folder / name, sha256):
            remove(folder, folder / name)


def _written(folder: Path) -> dict[str, str]:
    """Return the digest of every label PNG as it was last recorded, by its path."""
    found: dict[str, str] = {}
    for part in (folder / PARTS).glob("*"):
        one = Parts(folder, {f"{PARTS}{part.name}": None})
        try:
            found |= {image.png: image.png_sha256 for image in one.images([])}
        except (OSError, StoreError):
            continue  # it does not hold, and its images are labelled again
    return found


def _sweep(folder: Path, parts: list[Path], pngs: set[str], written: dict[str, str]) -> None:
    """Remove parts and label PNGs of images that are no longer in the project, but no edits."""
    kept = set(parts)
    for old in (folder / PARTS).glob("*"):
        if old not in kept:
            remove(folder, old)
    for old in (folder / MASKS).rglob("*.png"):
        name = old.relative_to(folder / MASKS).as_posix()
        if name not in pngs and not edited_png(old, None, written.get(f"{MASKS}/{name}")):
            remove(folder, old)


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    text = (
        f"{s['instances']} instances in {s['images']} images; {s['labelled']} images labelled, "
        f"{s['reused']} reused" + (f", {s['edited']} edited by hand" if s.get("edited") else "")
    )
    said = s.get("reviewed")
    if not said:
        return text
    return (
        f"{text}; reviewed: {said['accepted']} accepted, {said['changed']} changed, "
        f"{said['rejected']} rejected, {said['not_applied']} not applied"
    )
