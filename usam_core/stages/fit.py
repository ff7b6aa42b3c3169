"""Step 4, fit: a head from the stored embeddings of the training pictures to the class names."""

import logging
import shutil
from pathlib import Path
from typing import Any

from usam_core.atomic import whole_file
from usam_core.bags import BagSource
from usam_core.bank import balanced_weights
from usam_core.digest import value_digest
from usam_core.headfile import card_path, save_head
from usam_core.progress import Progress
from usam_core.project import Project
from usam_core.sources.base import manifest_path
from usam_core.stages import embed, lessons
from usam_core.stages.blocks import block_inputs, head_blocks
from usam_core.stages.collect import training_provenance
from usam_core.stages.folders import step_folder
from usam_core.stages.record import StepResult, digests
from usam_core.train import train

CALCULATIONS = (
    "usam_core.bags",
    "usam_core.headfile",
    "usam_core.stages.lessons",
    "usam_core.train",
)
"""Modules that decide the step's results."""
TRAINING = "training.parquet"
"""A copy of the manifest: every picture's provenance stays with the head that learned from it."""
_log = logging.getLogger(__name__)


def inputs(project: Project) -> dict[str, Any]:
    """Return what the head depends on: pictures, names, encoder, settings and seed."""
    settings = project.config.head.model_dump(mode="json", exclude={"cache_mb"})
    return {
        **lessons.sources(project),
        "provenance": training_provenance(project),
        "encoder": embed.spec(project),
        **block_inputs(project),
        "head": settings,
        "seed": project.config.seed,
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Train teacher and student, and save the one that is used for inference.

    Raises:
        InputError: a class has no picture that could be embedded.
        MissingStepError: `collect`, `embed` or `compose` has not run.
    """
    config = project.config
    store = embed.open_store(project)
    blocks = head_blocks(project)
    store.use_blocks(blocks)
    taught = lessons.lessons(project, store)
    classes = config.label_names
    if len(classes) == 1:
        _log.warning(
            "%s is the only class: every mask will be called so. Add a class for what else the "
            "images show, with pictures of it",
            classes[0],
        )
    bags = BagSource(
        store,
        taught.shas,
        taught.labels,
        config.head.features,
        config.head.mask_choice,
        config.head.cache_mb,
        taught.targets,
        balanced_weights(taught.labels) if config.head.class_balance else None,
    )
    trained = train(bags, config.head, config.seed, progress)
    folder = step_folder(project, "fit")
    card = {
        "classes": classes,
        "negatives": [spec.name for spec in config.negatives],
        "label_of": config.label_of,
        "colours": {spec.name: spec.colour for spec in config.classes if spec.colour},
        "settings": config.head.model_dump(mode="json"),
        "block_widths": bags.widths,
        "seed": config.seed,
        "store": store.fingerprint,
        "encoder": store.spec,
        "blocks": blocks,
        "training_pictures": taught.pictures,
        "training_scenes": taught.scenes,
        "training_digest": value_digest(sorted(taught.shas)),
        "training_provenance": training_provenance(project),
        "history": trained.history,
    }
    heads = {"teacher": trained.teacher, "student": trained.student}
    files: list[Path] = []
    for name, head in heads.items():
        path = folder / f"{name}.safetensors"
        if head is None:
            for stale in (path, card_path(path)):
                stale.unlink(missing_ok=True)
        else:
            of_role = [epoch for epoch in trained.history if epoch["role"] == name]
            metrics = of_role[-1] if of_role else {}
            files += save_head(path, head, {**card, "role": name, "metrics": metrics})
    training = folder / TRAINING
    with whole_file(training) as temporary:
        shutil.copyfile(manifest_path(step_folder(project, "collect")), temporary)
    files.append(training)
    used = "student" if trained.student is not None else "teacher"
    last = trained.history[-1] if trained.history else {}
    return StepResult(
        step="fit",
        key=key,
        reused=False,
        path=str(folder / f"{used}.safetensors"),
        summary={
            "classes": classes,
            "pictures": len(taught.shas) - taught.scenes,
            "scenes": taught.scenes,
            "features": config.head.features,
            "used": used,
            "last_epoch": last,
        },
        outputs=digests(folder, files),
    )
