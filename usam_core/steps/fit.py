"""Fit: a head from the stored embeddings of the training pictures to the class names.

With `head.text` the names' own vectors are saved with it; `alone` they are the head.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from usam_core.config.model import HeadConfig
from usam_core.config.project import Project
from usam_core.files.atomic import whole_file
from usam_core.files.digest import value_digest
from usam_core.files.parquet import read_frame
from usam_core.head.bags import BagSource, Rows, balanced_weights
from usam_core.head.checkpoint import card_path, save_head
from usam_core.head.familiar import FamiliarHead, learn_familiar, shares_of
from usam_core.head.model import BaseHead
from usam_core.head.train import train
from usam_core.progress import Progress
from usam_core.sources.base import manifest_path
from usam_core.steps import embed
from usam_core.steps.base import Inputs, StepResult, step_folder
from usam_core.steps.blocks import TextSide, block_inputs, head_blocks, text_inputs
from usam_core.steps.collect import read_manifest, training_provenance
from usam_core.steps.record import finished
from usam_core.steps.training_set import (
    MIN_EXAMPLES,
    Lessons,
    choose_examples,
    example_inputs,
    lessons,
    masks_on_objects,
    sources,
)

CALCULATIONS = (
    "usam_core.head.bags",
    "usam_core.head.familiar",
    "usam_core.head.checkpoint",
    "usam_core.steps.blocks",
    "usam_core.steps.training_set",
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
class Learned:
    """Heads that learned, by names of `ROLES`, and what their card says of it.

    Attributes:
        heads: in evaluation mode.
        widths: length of the vectors of each block that a head reads, by name.
        history: of the training, epoch by epoch.
        familiar: of the output "none of these", if they have one.
    """

    heads: dict[str, BaseHead] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    familiar: dict[str, Any] | None = None


def inputs(project: Project) -> Inputs:
    """What the head depends on: pictures, names, encoder, settings and seed."""
    config = project.config
    read = {
        **embed.embedding_inputs(project),
        **block_inputs(project),
        **text_inputs(project),
        "head": config.head.model_dump(mode="json", exclude={"cache_mb"}),
        "seed": config.seed,
    }
    if config.head.text == "alone":
        return {**read, "labels": config.label_of}
    if config.head.familiar:
        read |= example_inputs(project)
    return {**read, **sources(project), "provenance": training_provenance(project)}


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Train teacher and student, and save them, with their text side if there is one.

    With `head.text: alone` nothing is trained: the text side is the head.

    Raises:
        InputError: a class has no picture that could be embedded, or the names cannot be compared.
        MissingStepError: `collect`, `embed` or `compose` has not run.
    """
    config = project.config
    embed.warn_of_features(project)
    store = embed.open_store(project)
    blocks = head_blocks(project)
    store.use_blocks(blocks)
    classes, negatives = config.label_names, [spec.name for spec in config.negatives]
    if len(classes) + len(negatives) == 1 and not config.head.familiar:
        _log.warning(
            "%s is the only class: every mask will be called so. Set head.familiar (0.5 is the "
            "default; it needs at least %d pictures), or add a class for what else the images "
            "show, with pictures of it",
            classes[0],
            MIN_EXAMPLES,
        )
    alone = config.head.text == "alone"
    taught, learned = Lessons([], np.empty((0, 0)), None, {}), Learned()
    if not alone:
        taught = lessons(project, store)
        outputs = [*classes, *negatives]
        learned = learn(
            store,
            taught,
            read_manifest(project),
            {s.name: outputs.index(config.label_of.get(s.name, s.name)) for s in config.collected},
            lambda shas: masks_on_objects(project, store, shas, config.head.mask_choice),
            config.head,
            config.seed,
            progress,
        )
    texts = TextSide(project, learned.widths) if config.head.text != "off" else None
    heads: Mapping[str, BaseHead] = learned.heads
    if texts is not None:
        heads = {role: texts.head(head) for role, head in learned.heads.items()}
        heads = heads or {"zero_shot": texts.head(None)}
    card = {
        "classes": classes,
        "negatives": negatives,
        "label_of": config.label_of,
        "colours": {spec.name: spec.color for spec in config.classes if spec.color},
        # Whoever labels puts these blocks side by side, whichever part of the head reads them.
        "settings": {**config.head.model_dump(mode="json"), "features": config.row_blocks},
        "block_widths": list(learned.widths.values()),
        **({"text": texts.card} if texts else {}),
        **({"familiar": learned.familiar} if learned.familiar else {}),
        "seed": config.seed,
        "store": store.fingerprint,
        "encoder": store.spec,
        "blocks": blocks,
        "training_pictures": taught.pictures,
        "training_scenes": taught.scenes,
        "training_reviewed": taught.reviewed,
        "training_digest": value_digest(sorted(taught.shas)),
        "training_provenance": {} if alone else training_provenance(project),
        "history": learned.history,
    }
    folder, files = step_folder(project, "fit"), []
    for role in ROLES:
        path = folder / f"{role}.safetensors"
        if role not in heads:
            for stale in (path, card_path(path)):
                stale.unlink(missing_ok=True)
            continue
        of_role = [epoch for epoch in learned.history if epoch["role"] == role]
        metrics = of_role[-1] if of_role else {}
        files += save_head(path, heads[role], {**card, "role": role, "metrics": metrics})
    training = folder / TRAINING
    if alone:
        training.unlink(missing_ok=True)
    else:
        manifest = read_frame(manifest_path(step_folder(project, "collect")))
        manifest["learned"] = manifest["sha256"].isin(taught.shas)
        with whole_file(training) as temporary:
            manifest.to_parquet(temporary, index=False)
        files.append(training)
    used = next(role for role in ROLES if role in heads)
    summary = {
        "classes": classes,
        "pictures": len(taught.shas) - taught.scenes - taught.reviewed,
        "scenes": taught.scenes,
        "reviewed": taught.reviewed,
        "features": config.row_blocks,
        "used": used,
        "last_epoch": learned.history[-1] if learned.history else {},
    }
    return finished("fit", key, folder / f"{used}.safetensors", summary, files)


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


def learn(
    store: Rows,
    taught: Lessons,
    pictures: pd.DataFrame,
    owners: Mapping[str, int],
    on_objects: Callable[[list[str]], np.ndarray],
    config: HeadConfig,
    seed: int,
    progress: Progress,
) -> Learned:
    """Train teacher and student, and add "none of these" where there are few classes.

    Args:
        store: SAM's masks of the pictures and scenes.
        taught: the bags.
        pictures: `class` and `sha256` of pictures, of which those of `taught` are examples.
        owners: each name that pictures are of, and the head's output that it is labelled as.
        on_objects: gives which masks lie on the one object of pictures, bool (n, d), by digest.
        config: settings of the head.
    """
    bags = BagSource(
        store,
        taught.shas,
        taught.labels,
        config.features,
        config.mask_choice,
        config.cache_mb,
        taught.targets,
        balanced_weights(taught.labels) if config.class_balance else None,
        taught.picked,
    )
    trained = train(bags, config, seed, progress)
    heads: dict[str, BaseHead] = {"teacher": trained.teacher}
    if trained.student is not None:
        heads["student"] = trained.student
    card = None
    if shares_of(config.familiar, len(taught.pictures)) and any_has_enough(taught.pictures):
        examples = choose_examples(pictures[pictures["sha256"].isin(taught.shas)], seed)
        shas, shown = list(examples["sha256"]), list(examples["class"])
        names = [name for name in owners if name in set(shown)]
        labels = np.ones((len(shas), 1), np.float32)
        alike = BagSource(store, shas, labels, config.features, config.mask_choice, config.cache_mb)
        outputs, counts = [owners[name] for name in names], list(taught.pictures.values())
        few = [n for n, output in enumerate(outputs) if counts[output] < MIN_EXAMPLES]
        numbers = np.array([names.index(name) for name in shown])
        buffers = learn_familiar(alike, numbers, on_objects(shas), few)
        card = {"owners": outputs, "share": config.familiar}
        for role, head in heads.items():
            familiar = FamiliarHead(head, bags.width, outputs, config.familiar)
            familiar.load_state_dict(buffers, strict=False)
            heads[role] = familiar.eval()
    widths = dict(zip(bags.features, bags.widths, strict=True))
    return Learned(heads, widths, trained.history, card)


def any_has_enough(pictures: dict[str, int]) -> bool:
    """Whether the pictures of any name say how alike they are, with a warning of others."""
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
