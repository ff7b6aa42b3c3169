"""What the head learns from: training pictures, and composed scenes and reviewed masks if used."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from usam_core.compose.scene import mask_targets, object_mask
from usam_core.config.project import Project
from usam_core.config.training import ComposeConfig
from usam_core.errors import InputError
from usam_core.head.bags import choose_masks
from usam_core.head.losses import UNKNOWN
from usam_core.images.ref import is_large, tile_digest, tiles_of
from usam_core.masks.bits import pack, valid_hw
from usam_core.masks.label_png import read_label_png
from usam_core.masks.rle import decode, encode, inside, measures
from usam_core.review.decisions import SAME_MASK, Decision
from usam_core.rng import derive_seed
from usam_core.steps.base import Inputs
from usam_core.steps.blocks import usable_images
from usam_core.steps.collect import pictures_digest, pictures_input, read_manifest
from usam_core.steps.compose import TRAIN, held_out_pictures, read_scenes, scenes_input
from usam_core.steps.record import decided, decision_inputs
from usam_core.store.store import EmbeddingStore
from usam_core.types import MaskSet

MAX_EXAMPLES = 30
"""Pictures of a name that say how alike they are: each costs 20 ms, more change no mean."""
MIN_EXAMPLES = 5
"""Fewer pictures of a name are taken for chance; measured was nothing below 12."""
_LIMITS = {"min_area", "max_area", "min_center", "max_border"}


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
    scenes: int = 0
    reviewed: int = 0
    picked: list[np.ndarray | None] | None = None


def sources(project: Project) -> Inputs:
    """What the lessons depend on."""
    scenes = read_scenes(project, TRAIN) if _uses_scenes(project) else None
    read: Inputs = {
        "pictures": pictures_input(project, pictures_digest(_taught(project))),
        "labels": project.config.label_of,
        "negatives": [spec.name for spec in project.config.negatives],
        "scenes": scenes_input(scenes),
    }
    if project.config.head.reviewed:
        read |= decision_inputs(project.out, project.root)
    return read


def lessons(project: Project, store: EmbeddingStore) -> Lessons:
    """All bags of a project, held-out pictures left out.

    Raises:
        InputError: a class has no picture that could be embedded.
        MissingStepError: `collect` or `compose` has not run.
    """
    config = project.config
    names = [*config.label_names, *(spec.name for spec in config.negatives)]
    manifest = _taught(project)
    scenes = read_scenes(project, TRAIN) if _uses_scenes(project) else None
    wanted = {*manifest["sha256"], *([] if scenes is None else scenes["sha256"])}
    usable = usable_images(project, store, wanted)
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
    taught = Lessons(shas, table.to_numpy(np.float32), None, counts)
    if scenes is not None:
        scenes = scenes[scenes["sha256"].isin(usable)].reset_index(drop=True)
        shown = [{label_of[name] for name in row} for row in scenes["labels"]]
        more = np.array([[name in row for name in names] for row in shown], np.float32)
        targets = _targets(project, store, scenes, names, label_of)
        unknown = np.full((len(shas), targets.shape[1]), UNKNOWN, np.int64)
        taught = replace(
            taught,
            shas=[*shas, *scenes["sha256"]],
            labels=np.concatenate([taught.labels, more.reshape(-1, len(names))]),
            targets=np.concatenate([unknown, targets]),
            scenes=len(scenes),
        )
    return _with_reviewed(project, store, taught, names) if config.head.reviewed else taught


def _taught(project: Project) -> pd.DataFrame:
    """The manifest without the pictures that are held out for calibration."""
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
    """What each scene's masks show, int64 (n, d); len(names) is background."""
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


def _with_reviewed(
    project: Project, store: EmbeddingStore, taught: Lessons, names: list[str]
) -> Lessons:
    """Add the bags of masks that a person has judged."""
    bags = _reviewed_bags(project, store, names)
    if not bags:
        return taught
    labels = np.array([[name == label for name in names] for _, label, _ in bags], np.float32)
    targets = taught.targets
    if targets is not None:
        shown = [len(names) if label is None else names.index(label) for _, label, _ in bags]
        more = np.repeat(np.array(shown)[:, None], targets.shape[1], axis=1)
        targets = np.concatenate([targets, more])
    return replace(
        taught,
        shas=[*taught.shas, *(sha256 for sha256, _, _ in bags)],
        labels=np.concatenate([taught.labels, labels]),
        targets=targets,
        reviewed=len(bags),
        picked=[*[None] * len(taught.shas), *(picked for _, _, picked in bags)],
    )


def _reviewed_bags(
    project: Project, store: EmbeddingStore, names: Sequence[str]
) -> list[tuple[str, str | None, np.ndarray]]:
    """Bags of masks that a person called by one name; what SAM does not make now is left out.

    Args:
        store: the embeddings.
        names: the head's outputs. Rejected masks are used only with `head.background`.

    Returns:
        For each bag the digest of its image; what all its masks show, None for rejected ones; and
        int64 (d, 2), prompt and mask of its rows, repeated to fill it.
    """
    config, bags = project.config, []
    decisions = _by_embedding(project, decided(project.out))
    usable = sorted(usable_images(project, store, decisions))
    for sha256, columns in store.read_rows(usable, ["packed_masks"]):
        packed = columns["packed_masks"]
        rows: dict[str | None, list[np.ndarray]] = {}
        for decision in decisions[sha256]:
            label = decision.label and config.label_of.get(decision.label, decision.label)
            if label in names or (label is None and config.head.background):
                rows.setdefault(label, []).append(same_masks(packed, decision))
        for label, parts in rows.items():
            picked = np.unique(np.concatenate(parts), axis=0)
            if len(picked):
                bags.append((sha256, label, np.resize(picked, (len(packed), 2))))
    return bags


def _by_embedding(
    project: Project, decisions: dict[str, list[Decision]]
) -> dict[str, list[Decision]]:
    """Decisions by what is embedded: of large images, by the tiles that see most of the object."""
    images = project.config.images
    found: dict[str, list[Decision]] = {}
    for sha256, some in decisions.items():
        h, w = some[0].mask["size"]
        if not is_large((h, w), images.tile):
            found[sha256] = some
            continue
        for tile, one in product(tiles_of((h, w), images.tile or 0, images.overlap), some):
            part = inside(one.outline, *tile.box.slices)
            if 2 * part.sum() > measures(one.outline)["area"]:
                key = tile_digest(sha256, tile.box)
                found.setdefault(key, []).append(replace(one, mask=encode(part), drawn=None))
    return found


def same_masks(packed: np.ndarray, decision: Decision) -> np.ndarray:
    """Prompt and number of every mask that is the decision's, int64 (k, 2).

    Args:
        packed: uint8 (d, m, u, b), the image's masks.
        decision: of a mask of that image.
    """
    mask = decode(decision.outline)
    frame = packed.shape[-2]
    rows, columns = valid_hw(mask.shape, frame)
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.zeros((frame, packed.shape[-1] * 8), bool)
    small[:rows, :columns] = np.asarray(grey.resize((columns, rows), Image.Resampling.BOX)) >= 128
    wanted = pack(small)
    shared = np.bitwise_count(packed & wanted).sum(axis=(2, 3), dtype=np.int64)
    either = np.bitwise_count(packed | wanted).sum(axis=(2, 3), dtype=np.int64)
    return np.argwhere(shared >= SAME_MASK * np.maximum(either, 1))


def example_inputs(project: Project) -> dict[str, Any]:
    """What the examples depend on beside the pictures themselves."""
    return {"object": project.config.compose.model_dump(mode="json", include=_LIMITS)}


def choose_examples(manifest: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Class and sha256 of at most `MAX_EXAMPLES` pictures of each class, those of one class first.

    They show how alike pictures of a name are.

    Args:
        manifest: `class` and `sha256` of the pictures that the head learns from.
        seed: decides which.
    """
    pictures = manifest[["class", "sha256"]].drop_duplicates()
    shared = pictures["sha256"].duplicated(keep=False)
    order = [derive_seed(seed, "examples", sha256) for sha256 in pictures["sha256"]]
    ranked = pictures.assign(shared=shared, order=order).sort_values(["class", "shared", "order"])
    chosen = ranked.groupby("class").head(MAX_EXAMPLES)
    return chosen[["class", "sha256"]].reset_index(drop=True)


def masks_on_objects(
    project: Project, store: EmbeddingStore, shas: list[str], choice: str
) -> np.ndarray:
    """Which mask of each prompt lies on the picture's one object, bool (n, d)."""
    index = store.index().set_index("sha256")
    by_sha: dict[str, np.ndarray] = {}
    for shard, group in index.loc[sorted(set(shas))].groupby("shard"):
        for sha256, mask_set in store.read_shard(str(shard), group.index, [], tokens=False):
            by_sha[sha256] = on_object(project.config.compose, mask_set, choice)
    return np.stack([by_sha[sha256] for sha256 in shas])


def on_object(limits: ComposeConfig, mask_set: MaskSet, choice: str) -> np.ndarray:
    """Which mask of each prompt lies on a picture's one object, bool (d,)."""
    # At the size of the masks: a picture's own may be a hundred times as large.
    small = replace(mask_set, size_hw=valid_hw(mask_set.size_hw, mask_set.packed_masks.shape[-2]))
    mask = object_mask(small, limits)
    if mask is None:
        return np.zeros(len(mask_set), bool)
    chosen = choose_masks(mask_set.predicted_iou, choice)
    packed = mask_set.packed_masks[np.arange(len(mask_set)), chosen]
    return mask_targets(packed, mask.astype(np.uint8), np.array([0, 1])) == 1
