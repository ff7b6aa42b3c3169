"""Fit: a head from the stored embeddings of the training pictures to the class names.

With `head.text` the names' own vectors are saved with it; `alone` they are the head.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from usam_core.config.project import Project
from usam_core.files.atomic import whole_file
from usam_core.files.digest import value_digest
from usam_core.files.parquet import read_frame
from usam_core.head.bags import BagSource, balanced_weights
from usam_core.head.checkpoint import card_path, save_head
from usam_core.head.familiar import FamiliarHead, learn_familiar, shares_of
from usam_core.head.train import train
from usam_core.progress import Progress
from usam_core.sources.base import manifest_path
from usam_core.steps import embed
from usam_core.steps import training_set as lessons
from usam_core.steps.base import Inputs, StepResult
from usam_core.steps.blocks import block_inputs, head_blocks
from usam_core.steps.class_texts import TextSide, text_inputs
from usam_core.steps.collect import read_manifest, training_provenance
from usam_core.steps.examples import (
    MIN_EXAMPLES,
    choose_examples,
    example_inputs,
    masks_on_objects,
)
from usam_core.steps.folders import step_folder
from usam_core.steps.record import digests
from usam_core.store.store import EmbeddingStore

CALCULATIONS = (
    "usam_core.head.bags",
    "usam_core.head.familiar",
    "usam_core.head.checkpoint",
    "usam_core.steps.examples",
    "usam_core.steps.training_set",
    "usam_core.steps.class_texts",
    "usam_core.head.train",
)
"""Modules that decide the step's results."""
TRAINING = "training.parquet"
"""The manifest with a column `learned`: every picture's provenance stays with the head. Pictures
that are held out for calibration, or could not be embedded or described, have not `learned`."""
ROLES = ("student", "teacher", "zero_shot")
"""Names of the heads that there may be; the first of those there are is used."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Heads by role, and what they learned from.

    Attributes:
        heads: by names of `ROLES`.
        widths: length of the vectors of each block that a learned head reads, by name.
        shas: digests of the training pictures and scenes.
        pictures: training pictures of each class.
        scenes: how many of `shas` are scenes.
        reviewed: how many are bags of masks that a person has judged.
        history: of the training, epoch by epoch.
        familiar: what the head's card says of its output "none of these", if it has one.
    """

    heads: dict[str, nn.Module] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    shas: list[str] = field(default_factory=list)
    pictures: dict[str, int] = field(default_factory=dict)
    scenes: int = 0
    reviewed: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    familiar: dict[str, Any] | None = None


def inputs(project: Project) -> Inputs:
    """What the head depends on: pictures, names, encoder, settings and seed."""
    config = project.config
    given = {
        **embed.embedding_inputs(project),
        **block_inputs(project),
        **text_inputs(project),
        "head": config.head.model_dump(mode="json", exclude={"cache_mb"}),
        "seed": config.seed,
    }
    if config.head.text == "alone":
        return {**given, "labels": config.label_of}
    if config.head.familiar:
        given |= example_inputs(project)
    return {**given, **lessons.sources(project), "provenance": training_provenance(project)}


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Train teacher and student, and save them, with their text side if there is one.

    With `head.text: alone` nothing is trained: the text side is the head.

    Raises:
        InputError: a class has no picture that could be embedded, or the names cannot be compared.
        MissingStepError: `collect`, `embed` or `compose` has not run.
    """
    config = project.config
    store = embed.open_store(project)
    blocks = head_blocks(project)
    store.use_blocks(blocks)
    classes = config.label_names
    if len(classes) + len(config.negatives) == 1 and not config.head.familiar:
        _log.warning(
            "%s is the only class: every mask will be called so. Set head.familiar (0.5 is the "
            "default; it needs at least %d pictures), or add a class for what else the images "
            "show, with pictures of it",
            classes[0],
            MIN_EXAMPLES,
        )
    alone = config.head.text == "alone"
    fitted = _Fitted() if alone else _learn(project, store, progress)
    texts = TextSide(project, fitted.widths) if config.head.text != "off" else None
    heads = fitted.heads
    if texts is not None:
        learned = heads or {"zero_shot": None}
        heads = {role: texts.head(head) for role, head in learned.items()}
    folder = step_folder(project, "fit")
    provenance = {} if alone else training_provenance(project)
    card = {
        "classes": classes,
        "negatives": [spec.name for spec in config.negatives],
        "label_of": config.label_of,
        "colours": {spec.name: spec.color for spec in config.classes if spec.color},
        # Whoever labels puts these blocks side by side, whichever part of the head reads them.
        "settings": {**config.head.model_dump(mode="json"), "features": config.row_blocks},
        "block_widths": list(fitted.widths.values()),
        **({"text": texts.card} if texts else {}),
        **({"familiar": fitted.familiar} if fitted.familiar else {}),
        "seed": config.seed,
        "store": store.fingerprint,
        "encoder": store.spec,
        "blocks": blocks,
        "training_pictures": fitted.pictures,
        "training_scenes": fitted.scenes,
        "training_reviewed": fitted.reviewed,
        "training_digest": value_digest(sorted(fitted.shas)),
        "training_provenance": provenance,
        "history": fitted.history,
    }
    files: list[Path] = []
    for role in ROLES:
        path = folder / f"{role}.safetensors"
        if role not in heads:
            for stale in (path, card_path(path)):
                stale.unlink(missing_ok=True)
        else:
            of_role = [epoch for epoch in fitted.history if epoch["role"] == role]
            metrics = of_role[-1] if of_role else {}
            files += save_head(path, heads[role], {**card, "role": role, "metrics": metrics})
    training = folder / TRAINING
    if alone:
        training.unlink(missing_ok=True)
    else:
        manifest = read_frame(manifest_path(step_folder(project, "collect")))
        with whole_file(training) as temporary:
            manifest.assign(learned=manifest["sha256"].isin(fitted.shas)).to_parquet(
                temporary, index=False
            )
        files.append(training)
    used = next(role for role in ROLES if role in heads)
    return StepResult(
        step="fit",
        key=key,
        reused=False,
        path=str(folder / f"{used}.safetensors"),
        summary={
            "classes": classes,
            "pictures": len(fitted.shas) - fitted.scenes - fitted.reviewed,
            "scenes": fitted.scenes,
            "reviewed": fitted.reviewed,
            "features": config.row_blocks,
            "used": used,
            "last_epoch": fitted.history[-1] if fitted.history else {},
        },
        outputs=digests(folder, files),
    )


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s, features = summary, " + ".join(summary["features"])
    if s["used"] == "zero_shot":
        return f"{len(s['classes'])} classes by their names alone ({features}), no pictures"
    scenes = f" and {s['scenes']} scenes" if s["scenes"] else ""
    if s.get("reviewed"):
        scenes += f" and {s['reviewed']} bags of reviewed masks"
    return (
        f"{s['used']} for {len(s['classes'])} classes from {s['pictures']} pictures{scenes} "
        f"({features})"
    )


def _learn(project: Project, store: EmbeddingStore, progress: Progress) -> _Fitted:
    config = project.config
    taught = lessons.lessons(project, store)
    bags = BagSource(
        store,
        taught.shas,
        taught.labels,
        config.head.features,
        config.head.mask_choice,
        config.head.cache_mb,
        taught.targets,
        balanced_weights(taught.labels) if config.head.class_balance else None,
        taught.picked,
    )
    trained = train(bags, config.head, config.seed, progress)
    heads = {"teacher": trained.teacher, "student": trained.student}
    heads = {role: head for role, head in heads.items() if head is not None}
    card = None
    classes = len(config.label_names) + len(config.negatives)
    if shares_of(config.head.familiar, classes) and any_has_enough(taught.pictures):
        card, learned = _familiar(project, store, taught)
        for role, head in heads.items():
            heads[role] = FamiliarHead(head, bags.width, **card)
            heads[role].load_state_dict(learned, strict=False)
    return _Fitted(
        heads=heads,
        widths=dict(zip(bags.features, bags.widths, strict=True)),
        shas=taught.shas,
        pictures=taught.pictures,
        scenes=taught.scenes,
        reviewed=taught.reviewed,
        history=trained.history,
        familiar=card,
    )


def any_has_enough(pictures: dict[str, int]) -> bool:
    """Return whether the pictures of any name say how alike they are, with a warning of others."""
    few = {name: count for name, count in pictures.items() if count < MIN_EXAMPLES}
    if few:
        listed = ", ".join(f"{name} {count}" for name, count in few.items())
        other = (
            "or add another name, or `negatives:`, for what else the images show: until then every "
            "mask is called so, whatever inference.threshold says"
            if len(pictures) == 1
            else "add `negatives:` for what else the images show, or raise inference.threshold"
        )
        _log.warning(
            "fewer than %d pictures of a name (%s) do not say how alike such pictures are: no mask "
            "that is likest to it is called none of these (head.familiar). Collect more of it "
            "(at least %d; tens are usual), %s",
            MIN_EXAMPLES,
            listed,
            MIN_EXAMPLES,
            other,
        )
    return len(few) < len(pictures)


def _familiar(
    project: Project, store: EmbeddingStore, taught: lessons.Lessons
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a `FamiliarHead` is made of: its arguments and its buffers."""
    config = project.config
    manifest = read_manifest(project)
    examples = choose_examples(manifest[manifest["sha256"].isin(taught.shas)], config.seed)
    shas = list(examples["sha256"])
    names = [spec.name for spec in config.collected if spec.name in set(examples["class"])]
    outputs = [*config.label_names, *(spec.name for spec in config.negatives)]
    head = config.head
    objects = masks_on_objects(project, store, shas, head.mask_choice)
    labels = np.ones((len(shas), 1), np.float32)
    bags = BagSource(store, shas, labels, head.features, head.mask_choice, head.cache_mb)
    numbers = np.array([names.index(name) for name in examples["class"]])
    owners = [outputs.index(config.label_of.get(name, name)) for name in names]
    card = {"owners": owners, "share": head.familiar}
    few = [n for n, own in enumerate(owners) if taught.pictures[outputs[own]] < MIN_EXAMPLES]
    return card, learn_familiar(bags, numbers, objects, few)
