"""What the head learns from: training pictures, and composed scenes and reviewed masks if used."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from usam_core.compose.scene import mask_targets
from usam_core.config.project import Project
from usam_core.errors import InputError
from usam_core.head.bags import choose_masks
from usam_core.head.losses import UNKNOWN
from usam_core.masks.label_png import read_label_png
from usam_core.steps.base import Inputs
from usam_core.steps.blocks import with_blocks
from usam_core.steps.collect import pictures_digest, pictures_input, read_manifest
from usam_core.steps.compose import TRAIN, held_out_pictures, read_scenes, scenes_input
from usam_core.steps.review_bags import ReviewedBags, reviewed_bags
from usam_core.steps.review_log import decision_inputs
from usam_core.store.store import EmbeddingStore


@dataclass(frozen=True, slots=True)
class Lessons:
    """Bags and what is known of them.

    Attributes:
        shas: digests of pictures and scenes.
        labels: float32 (n, c), multi-hot: classes, then negative names.
        targets: int64 (n, d), what each mask shows, or None when no scenes are used; see
            `usam_core.head.losses`.
        pictures: training pictures of each class, scenes not counted.
        scenes: how many of the bags are scenes.
        reviewed: how many are of masks that a person has judged; they stand last.
        picked: for each bag the masks that it is made of, None for all; see `BagSource`.
    """

    shas: list[str]
    labels: np.ndarray
    targets: np.ndarray | None
    pictures: dict[str, int]
    scenes: int
    reviewed: int = 0
    picked: list[np.ndarray | None] = field(default_factory=list)


def sources(project: Project) -> Inputs:
    """What the lessons depend on."""
    uses_scenes = _uses_scenes(project)
    found: Inputs = {
        "pictures": pictures_input(project, pictures_digest(_taught(project))),
        "labels": project.config.label_of,
        "negatives": [spec.name for spec in project.config.negatives],
        "scenes": scenes_input(read_scenes(project, TRAIN) if uses_scenes else None),
    }
    if project.config.head.reviewed:
        found |= decision_inputs(project.out, project.root)
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
    manifest = _taught(project)
    scenes = read_scenes(project, TRAIN) if _uses_scenes(project) else None
    wanted = {*manifest["sha256"], *([] if scenes is None else scenes["sha256"])}
    usable = wanted.intersection(index.loc[index["status"] == "ok", "sha256"])
    usable = with_blocks(project, store, usable)
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
        return _with_reviewed(project, store, Lessons(shas, labels, None, counts, 0), names)
    scenes = scenes[scenes["sha256"].isin(usable)].reset_index(drop=True)
    shown = [{label_of[name] for name in row} for row in scenes["labels"]]
    more = np.array([[name in labels_of for name in names] for labels_of in shown], np.float32)
    targets = _targets(project, store, scenes, names, label_of)
    unknown = np.full((len(shas), targets.shape[1]), UNKNOWN, np.int64)
    found = Lessons(
        [*shas, *scenes["sha256"]],
        np.concatenate([labels, more.reshape(-1, len(names))]),
        np.concatenate([unknown, targets]),
        counts,
        len(scenes),
    )
    return _with_reviewed(project, store, found, names)


def _with_reviewed(
    project: Project, store: EmbeddingStore, found: Lessons, names: list[str]
) -> Lessons:
    """Add the bags of reviewed masks, if the head learns from them."""
    wanted = project.config.head.reviewed
    bags = reviewed_bags(project, store, names) if wanted else ReviewedBags()
    if not bags.shas:
        return replace(found, picked=[None] * len(found.shas))
    labels = np.array([[name == said for name in names] for said in bags.names], np.float32)
    targets = found.targets
    if targets is not None:
        shown = [len(names) if said is None else names.index(said) for said in bags.names]
        more = np.repeat(np.array(shown)[:, None], targets.shape[1], axis=1)
        targets = np.concatenate([targets, more])
    return replace(
        found,
        shas=[*found.shas, *bags.shas],
        labels=np.concatenate([found.labels, labels]),
        targets=targets,
        reviewed=len(bags.shas),
        picked=[*[None] * len(found.shas), *bags.picked],
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
        chosen = choose_masks(columns["predicted_iou"], project.config.head.mask_choice)
        packed = columns["packed_masks"][np.arange(prompts), chosen]
        truth = read_label_png(scenes["truth"].iloc[place[sha256]])
        targets[place[sha256]] = mask_targets(packed, truth, np.array(values))
    return targets
