"""What the head learns from: the training pictures, and the composed scenes if it uses them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from usam_core.bags import choose_masks
from usam_core.compose.targets import mask_targets
from usam_core.errors import InputError
from usam_core.maskloss import UNKNOWN
from usam_core.outputs.voc_png import read_label_png
from usam_core.project import Project
from usam_core.stages.blocks import with_blocks
from usam_core.stages.collect import read_manifest
from usam_core.stages.compose import TRAIN, held_out_pictures, read_scenes
from usam_core.store.store import EmbeddingStore


@dataclass(frozen=True, slots=True)
class Lessons:
    """Bags and what is known of them.

    Attributes:
        shas: digests of pictures and scenes.
        labels: float32 (n, c), multi-hot: classes, then negative names.
        targets: int64 (n, d), what each mask shows, or None when no scenes are used; see
            `usam_core.maskloss`.
        pictures: training pictures of each class, scenes not counted.
        scenes: how many of the bags are scenes.
    """

    shas: list[str]
    labels: np.ndarray
    targets: np.ndarray | None
    pictures: dict[str, int]
    scenes: int


def sources(project: Project) -> dict[str, Any]:
    """Return what the lessons depend on."""
    manifest = _taught(project)
    found: dict[str, Any] = {
        "pictures": sorted(zip(manifest["class"], manifest["sha256"], strict=True)),
        "labels": project.config.label_of,
        "negatives": [spec.name for spec in project.config.negatives],
    }
    if _uses_scenes(project):
        scenes = read_scenes(project, TRAIN)
        found["scenes"] = sorted(
            zip(
                scenes["sha256"], scenes["truth_sha256"], map(sorted, scenes["labels"]), strict=True
            )
        )
    return found


def lessons(project: Project, store: EmbeddingStore) -> Lessons:
    """Return all bags of a project, held-out pictures left out.

    Raises:
        InputError: a class has no picture that could be embedded.
        MissingStepError: `collect` or `compose` has not run.
    """
    config = project.config
    names = [*config.label_names, *(spec.name for spec in config.negatives)]
    index = store.index(refresh=True)
    usable = set(index.loc[index["status"] == "ok", "sha256"])
    manifest = _taught(project)
    scenes = read_scenes(project, TRAIN) if _uses_scenes(project) else None
    wanted = {*manifest["sha256"], *(() if scenes is None else scenes["sha256"])}
    usable = with_blocks(project, store, usable & wanted)
    manifest = manifest[manifest["sha256"].isin(usable)]
    label_of = {**config.label_of, **{spec.name: spec.name for spec in config.negatives}}
    table = pd.crosstab(manifest["sha256"], manifest["class"].map(label_of)) > 0
    empty = [name for name in names if name not in table]
    if empty:
        raise InputError(
            f"no embedded training picture for {empty}; run `usam embed {project.file}`, and look "
            "at its quarantine if it has run"
        )
    table = table[names]
    counts = {str(name): int(table[name].sum()) for name in names}
    shas = [str(sha256) for sha256 in table.index]
    labels = table.to_numpy(np.float32)
    if scenes is None:
        return Lessons(shas, labels, None, counts, 0)
    scenes = scenes[scenes["sha256"].isin(usable)].reset_index(drop=True)
    shown = [{label_of[name] for name in row} for row in scenes["labels"]]
    more = np.array([[name in labels_of for name in names] for labels_of in shown], np.float32)
    targets = _targets(project, store, scenes, names, label_of)
    unknown = np.full((len(shas), targets.shape[1]), UNKNOWN, np.int64)
    return Lessons(
        [*shas, *scenes["sha256"]],
        np.concatenate([labels, more.reshape(-1, len(names))]),
        np.concatenate([unknown, targets]),
        counts,
        len(scenes),
    )


def _taught(project: Project) -> pd.DataFrame:
    """Return the manifest without the pictures that are held out for calibration."""
    manifest = read_manifest(project)
    return manifest[~manifest["sha256"].isin(held_out_pictures(project))]


def _uses_scenes(project: Project) -> bool:
    head = project.config.head
    return head.composed != "off" or head.background


def _targets(
    project: Project,
    store: EmbeddingStore,
    scenes: pd.DataFrame,
    names: list[str],
    label_of: dict[str, str],
) -> np.ndarray:
    """Return what each scene's masks show, int64 (n, d); len(names) is background."""
    values = [len(names), *(names.index(label_of[c.name]) for c in project.config.classes)]
    prompts = project.config.sam.points_per_side**2
    targets = np.full((len(scenes), prompts), UNKNOWN, np.int64)
    place = {sha256: number for number, sha256 in enumerate(scenes["sha256"])}
    for sha256, columns in store.read_rows(list(place), ["predicted_iou", "packed_masks"]):
        chosen = choose_masks(columns, project.config.head.mask_choice)
        packed = columns["packed_masks"][np.arange(prompts), chosen]
        truth = read_label_png(scenes["truth"].iloc[place[sha256]])
        targets[place[sha256]] = mask_targets(packed, truth, np.array(values))
    return targets
