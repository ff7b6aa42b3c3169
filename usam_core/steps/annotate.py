"""Annotate: label every image from its stored masks; COCO, palette PNGs, overlays."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

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
from usam_core.outputs.label_files import output_names
from usam_core.outputs.ledger import Edit, changed_counts
from usam_core.outputs.lists import write_coco
from usam_core.parallel.workers import Piece, run_pieces
from usam_core.progress import Progress
from usam_core.review.decisions import count_objects
from usam_core.steps import embed
from usam_core.steps.annotate_notes import Tally, annotate_notes
from usam_core.steps.base import Inputs, StepResult, identities, step_folder
from usam_core.steps.blocks import block_inputs, head_blocks, with_blocks
from usam_core.steps.images_to_label import (
    TiledImage,
    images_input,
    labelled_images,
    listed_pairs,
    tiled_images,
)
from usam_core.steps.label_images import (
    LargePart,
    Part,
    calibration_input,
    head_input,
    head_path,
    label_large,
    label_part,
    part_holds,
)
from usam_core.steps.read_settings import how_to_read
from usam_core.steps.record import (
    decided,
    decision_inputs,
    decisions_digest,
    finished,
    intact_record,
    labels_record,
    read_record,
)
from usam_core.steps.render import draw_overlays
from usam_core.store.store import EmbeddingStore

_LABELLING = ("usam_core.steps.label_images",)
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
_log = logging.getLogger(__name__)


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
    """Label the images shard by shard; parts of an earlier run that still hold are kept."""
    folder, config = step_folder(project, "annotate"), project.config
    store = embed.open_store(project)
    head_file = head_path(project)
    _, card = load_head(head_file)
    whole, tiled = _labellable(project, store)
    contents = dict(zip(whole["path"], whole["sha256"], strict=True))
    contents |= {image.path: image.sha256 for image, _ in tiled}
    contents = dict(sorted(contents.items()))
    names = {path: f"{name}.png" for path, name in output_names(contents).items()}
    for name, sha256 in _parts(folder).items():
        if mismatch(folder / name, sha256):
            remove(folder, folder / name)  # its images are labelled again
    written, decisions, blocks = _written(folder), decided(project.out), head_blocks(project)
    code = code_digest(__name__, _LABELLING)
    labelling = value_digest({"code": code, **identities(_read_by_all(project))})

    def part_file(*made_of: Any) -> Path:
        digest = value_digest([labelling, *made_of])
        return folder / PARTS / f"{digest[:24]}{SUFFIX}"

    pieces, large, parts = [], [], []
    for shard, group in whole.groupby("shard", sort=True):
        rows = sorted(zip(group["path"], group["sha256"], strict=True))
        here = {sha256: decisions[sha256] for _, sha256 in rows if sha256 in decisions}
        rulings = [one for of_image in here.values() for one in of_image]
        # An image that comes may take another's name, which is called otherwise from then on.
        pngs = [f"{MASKS}/{names[path]}" for path, _ in rows]
        ruled = [decisions_digest(rulings)] if here else []
        parts.append(part_file(shard, rows, pngs, *ruled))
        before = {png: written[png] for png in pngs if png in written}
        part = Part(parts[-1], shard, rows, pngs, before, blocks, here)
        name = f"labelling {len(rows)} images from {rows[0][0]} on"
        pieces.append(Piece(name, len(rows), (project, store.path, head_file, part)))
    for image, shards in tiled:
        png = f"{MASKS}/{names[image.path]}"
        said = decisions.get(image.sha256, [])
        ruled = [decisions_digest(said)] if said else []
        parts.append(part_file(image.path, image.sha256, image.keys, shards, png, *ruled))
        of_image = LargePart(parts[-1], image, shards, png, written.get(png), blocks, said)
        name = f"labelling {len(shards)} tiles of {image.path}"
        large.append(Piece(name, len(shards), (project, store.path, head_file, of_image)))
    fresh = sum(run_pieces(label_part, pieces, "Labelling", config.compute, "cpu", progress))
    fresh += sum(run_pieces(label_large, large, "Tiles", config.compute, "cpu", progress))
    _sweep(folder, parts, set(names.values()), written)
    label_map = LabelMap.of(config)
    tally = Tally(label_map)
    made = Parts(folder, {f"{PARTS}{part.name}": None for part in parts}, label_map)
    images = tally.watch(made.images(["instances", "rejected", "pixels"]))
    header = {"info": {"description": "usam"}, "categories": label_map.categories()}
    write_coco(folder / COCO, header, (image.to_coco() for image in images))
    first = list(contents)[: config.outputs.overlays]
    shown = {p: (folder / MASKS / names[p], names[p].removesuffix(".png")) for p in first}
    overlays = draw_overlays(project, folder / OVERLAYS, shown, card["classes"], progress)
    write_run(folder / RUN, project, card, contents, how_to_read(project))
    summary = {
        "images": len(contents),
        "labelled": fresh,
        "reused": len(contents) - fresh,
        "instances": sum(tally.instances.values()),
        "per_class": tally.instances,
        "edited": tally.edited,
        "covered": dict(tally.covered),
        "notes": annotate_notes(project, tally.edited, tally.covered, len(contents)),
        **tally.reviewed(sum(map(count_objects, decisions.values()))),
    }
    files = [folder / COCO, folder / RUN, *parts, *overlays]
    return finished("annotate", key, folder / COCO, summary, files)


def forget(project: Project) -> None:
    """Remove what says which images are labelled already, so that all are labelled again."""
    shutil.rmtree(step_folder(project, "annotate") / PARTS, ignore_errors=True)


def intact(project: Project, key: str) -> StepResult | None:
    """The record if its key holds and every file it speaks of is there, label PNGs too."""
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
    notes = annotate_notes(project, changed, summary.get("covered", {}), summary["images"])
    return replace(record, reused=True, summary={**summary, "edited": changed, "notes": notes})


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
    """The images whose label PNGs a person has changed, sorted; see `intact`."""
    folder = step_folder(project, "annotate")
    if CheckedFolders(folder / CHECKED, value_digest(labels_record(project).outputs)).holds(folder):
        return []
    return sorted(image.path for image in labels(project).images([]) if image.is_edited())


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    text = (
        f"{s['instances']} instances in {s['images']} images; {s['labelled']} images labelled, "
        f"{s['reused']} reused" + (f", {s['edited']} edited by hand" if s.get("edited") else "")
    )
    if not (reviewed := s.get("reviewed")):
        return text
    counts = (f"{count} {kind.replace('_', ' ')}" for kind, count in reviewed.items())
    return f"{text}; reviewed: {', '.join(counts)}"


def _read_by_all(project: Project) -> Inputs:
    """What every image's labels depend on."""
    images = project.config.images
    return {
        "head": head_input(project),
        "calibration": calibration_input(project),
        "inference": project.config.inference.model_dump(mode="json"),
        **embed.embedding_inputs(project),
        **({"tiles": [images.tile, images.overlap]} if tiled_images(project) else {}),
        **block_inputs(project),
    }


def _labellable(
    project: Project, store: EmbeddingStore
) -> tuple[pd.DataFrame, list[tuple[TiledImage, list[str]]]]:
    """The images that can be labelled; an image lacking a tile is left out.

    Returns:
        Path, sha256 and shard of each image that is embedded whole, by path; and each image that
        is embedded in tiles, with the shard of each tile.

    Raises:
        MissingStepError: some images are not embedded, or `describe` has not processed them.
    """
    listing, tiled = labelled_images(project), tiled_images(project)
    listing = listing.loc[listing["status"] == "ok", ["path", "sha256"]]
    if tiled:
        listing = listing[~listing["path"].isin({image.path for image in tiled})]
    index = store.index(refresh=True)
    merged = listing.merge(index[["sha256", "shard", "status"]], on="sha256", how="left")
    missing = merged["shard"].isna()
    if missing.any():
        raise _not_embedded(project, int(missing.sum()), merged.loc[missing, "path"].iloc[0])
    usable = with_blocks(project, store, merged.loc[merged["status"] == "ok", "sha256"])
    whole = merged[merged["sha256"].isin(usable)].sort_values("path", ignore_index=True)
    if not tiled:
        return whole, []
    rows = index[index["sha256"].isin({key for image in tiled for key in image.keys})]
    shards = dict(zip(rows["sha256"], rows["shard"], strict=True))
    usable = with_blocks(project, store, rows.loc[rows["status"] == "ok", "sha256"])
    complete = []
    for image in tiled:
        absent = sum(key not in shards for key in image.keys)
        if absent:
            raise _not_embedded(project, absent, f"a tile of {image.path}")
        bad = sum(key not in usable for key in image.keys)
        if bad:
            # A hole would look like background.
            _log.warning("%s is left out: %d of its tiles have no embedding", image.path, bad)
        else:
            complete.append((image, [shards[key] for key in image.keys]))
    return whole, complete


def _not_embedded(project: Project, count: int, example: str) -> MissingStepError:
    return MissingStepError(
        f"{count} images are not embedded yet, such as {example}; run "
        f"`usam embed {project.file}` first"
    )


def _parts(folder: Path) -> dict[str, str]:
    """SHA-256 of each recorded part, by its name in the folder, sorted."""
    record = read_record(folder)
    outputs = sorted(record.outputs.items()) if record else ()
    return {name: sha256 for name, sha256 in outputs if name.startswith(PARTS)}


def _written(folder: Path) -> dict[str, str]:
    written: dict[str, str] = {}
    for part in (folder / PARTS).glob("*"):
        one = Parts(folder, {f"{PARTS}{part.name}": None})
        try:
            written |= {image.png: image.png_sha256 for image in one.images([])}
        except (OSError, StoreError):
            continue  # it does not hold, and its images are labelled again
    return written


def _sweep(folder: Path, parts: list[Path], pngs: set[str], written: dict[str, str]) -> None:
    """Remove parts and label PNGs of images that are no longer in the project, but no edits."""
    for old in set((folder / PARTS).glob("*")).difference(parts):
        remove(folder, old)
    for old in (folder / MASKS).rglob("*.png"):
        name = old.relative_to(folder / MASKS).as_posix()
        if name not in pngs and not edited_png(old, None, written.get(f"{MASKS}/{name}")):
            remove(folder, old)
