"""Labels the images of one shard: what a worker does of the step annotate."""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usam_core.atomic import write_json
from usam_core.calibration.calibration import Calibration
from usam_core.candidates import label_image
from usam_core.digest import file_digest
from usam_core.head import Head
from usam_core.headfile import load_head
from usam_core.outputs.coco_json import annotation_records
from usam_core.outputs.edits import label_counts
from usam_core.outputs.voc_png import edited_png, save_label_png
from usam_core.progress import Progress
from usam_core.project import Project
from usam_core.review.decisions import Decision
from usam_core.review.rulings import Rulings
from usam_core.stages.calibrated import calibration_file, read_calibration
from usam_core.stages.folders import step_folder
from usam_core.store.store import EmbeddingStore
from usam_core.types import TOKENS_BLOCK, MaskSet


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one shard that are labelled together.

    Attributes:
        file: where the labels of all of them go; named by everything they depend on.
        shard: the shard's id.
        rows: path as it is listed, and content digest, of each image.
        pngs: the label PNG of each, below the step's folder.
        written: digests of label PNGs as earlier runs wrote them, by their paths.
        blocks: ids of feature blocks that were added to the store, by the head's names for them.
        decisions: what a person has decided of their masks, by the image's digest.
    """

    file: Path
    shard: str
    rows: list[tuple[str, str]]
    pngs: list[str]
    written: dict[str, str]
    blocks: dict[str, str]
    decisions: dict[str, list[Decision]] = field(default_factory=dict)


def label_part(
    project: Project, store_path: Path, head_file: Path, part: Part, progress: Progress
) -> int:
    """Label a part's images unless that is done, and return how many were labelled."""
    folder = step_folder(project, "annotate")
    if part_holds(folder, part.file):
        return 0
    head, card = _head(head_file, file_digest(head_file))
    calibration = read_calibration(calibration_file(project))
    store = EmbeddingStore.open(store_path)
    store.use_blocks(part.blocks)
    features = card["settings"]["features"]
    blocks = [name for name in features if name != TOKENS_BLOCK]
    tokens = TOKENS_BLOCK in features
    # An image may be there twice under two names.
    wanted: dict[str, list[tuple[str, str]]] = {}
    for (path, sha256), png in zip(part.rows, part.pngs, strict=True):
        wanted.setdefault(sha256, []).append((path, png))
    entries = []
    with progress.bar("Labelling", len(part.rows)) as bar:
        for sha256, mask_set in store.read_shard(part.shard, wanted, blocks, tokens=tokens):
            rulings = _rulings(project, card, part.decisions.get(sha256))
            for path, png in wanted[sha256]:
                kept = edited_png(folder / png, mask_set.size_hw, part.written.get(png))
                # An edit stays; beside it, for its digest alone, lies for a moment what we made.
                made = part.file.with_name(f".{part.file.stem}.png") if kept else folder / png
                entry = _label(project, head, card, calibration, mask_set, rulings, made)
                if kept:
                    made.unlink()
                entries.append({"file_name": path, "sha256": sha256, "png": png, **entry})
                bar.advance()
    write_json(part.file, sorted(entries, key=lambda entry: entry["file_name"]))
    return len(entries)


def part_holds(folder: Path, part: Path) -> bool:
    """Return whether a part's file is there, and every label PNG as it was written or edited."""
    try:
        return all(_png_holds(folder / e["png"], e) for e in json.loads(part.read_text("utf-8")))
    except (OSError, ValueError, KeyError):
        return False


def is_edited(folder: Path, entry: dict[str, Any]) -> bool:
    """Return whether a person has changed the label PNG of an image."""
    size_hw = entry["height"], entry["width"]
    return edited_png(folder / entry["png"], size_hw, entry["png_sha256"])


def _png_holds(png: Path, entry: dict[str, Any]) -> bool:
    size_hw = entry["height"], entry["width"]
    sha256 = entry["png_sha256"]
    return file_digest(png) == sha256 or edited_png(png, size_hw, sha256)


def _label(
    project: Project,
    head: Head,
    card: dict[str, Any],
    calibration: Calibration | None,
    mask_set: MaskSet,
    rulings: Rulings | None,
    png: Path,
) -> dict[str, Any]:
    done = label_image(
        head,
        mask_set,
        card["settings"]["features"],
        project.config.inference,
        card["classes"],
        calibration,
        rulings,
    )
    save_label_png(png, done.labels, signed=True)
    missed = zip(annotation_records(done.missed), done.least.tolist(), strict=True)
    h, w = mask_set.size_hw
    points = mask_set.points_xy[done.instances.prompts] * [w, h]
    records = annotation_records(done.instances)
    return {
        "height": h,
        "width": w,
        "png_sha256": file_digest(png),
        # For the report: what the labels cover, and what was nearly labelled too.
        "pixels": label_counts(done.labels),
        "annotations": [
            {**record, "point": [round(float(x), 2), round(float(y), 2)]}
            for record, (x, y) in zip(records, points, strict=True)
        ],
        "missed": [{**record, "threshold": round(least, 6)} for record, least in missed],
        **({} if done.rejected is None else {"rejected": annotation_records(done.rejected)}),
    }


def _rulings(
    project: Project, card: dict[str, Any], decisions: list[Decision] | None
) -> Rulings | None:
    if not decisions:
        return None
    return Rulings(decisions, card["classes"], project.config.label_of)


@functools.lru_cache(maxsize=1)
def _head(file: Path, _digest: str) -> tuple[Head, dict[str, Any]]:
    return load_head(file)
