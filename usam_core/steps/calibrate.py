"""Calibrate: probabilities, thresholds and presence from held-out composed scenes.

What is in a composed scene is known by construction, and neither the scenes nor the pictures that
they are made of have taught the head. No image of the user's and no label is used.
"""

from pathlib import Path
from typing import Any

import numpy as np

from usam_core.config.project import Project
from usam_core.files.atomic import write_json
from usam_core.files.digest import file_digest
from usam_core.head.checkpoint import card_path, load_head
from usam_core.inference.calibration import Calibration
from usam_core.inference.fit_calibration import SceneMasks, crossed, fit_calibration, judged
from usam_core.inference.reliability import expected_calibration_error, reliability
from usam_core.inference.scoring import candidates, is_good, mask_scores
from usam_core.inference.targets import shown_classes
from usam_core.masks.label_png import read_label_png
from usam_core.masks.paint import suppress
from usam_core.progress import Progress
from usam_core.steps import embed
from usam_core.steps.base import Inputs, StepResult, step_folder
from usam_core.steps.blocks import block_inputs, head_blocks, usable_images
from usam_core.steps.compose import HELD_OUT, read_scenes, scenes_input
from usam_core.steps.label_images import CALIBRATION, head_input, head_path
from usam_core.steps.record import finished
from usam_core.steps.render import DIAGRAM, RELIABILITY, write_reliability

CALCULATIONS = (
    "usam_core.inference.fit_calibration",
    "usam_core.inference.reliability",
    "usam_core.inference.targets",
    "usam_core.inference.scoring",
    "usam_core.head.checkpoint",
)
"""Modules that decide the step's results."""

MIN_SCENES, MIN_MASKS = 8, 60
"""With fewer scenes that have masks, or fewer masks, nothing is fitted: it would be chance."""

_INFERENCE = {
    *("head", "mask_choice", "min_predicted_iou", "min_stability", "min_area", "max_area"),
    *("nms_iou", "score"),
}


def inputs(project: Project) -> Inputs:
    """What the calibration depends on: the head, the scenes, and how masks are chosen."""
    return {
        "head": head_input(project),
        "scenes": scenes_input(read_scenes(project, HELD_OUT)),
        "card": file_digest(card_path(head_path(project))),
        "labels": project.config.label_of,
        "inference": project.config.inference.model_dump(mode="json", include=_INFERENCE),
        **embed.embedding_inputs(project),
        **block_inputs(project),
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Fit on the held-out scenes, and say how well that holds on scenes not fitted to."""
    folder = step_folder(project, "calibrate")
    names = project.config.label_names
    scenes = _scenes(project, progress)
    for stale in (CALIBRATION, RELIABILITY, DIAGRAM):
        (folder / stale).unlink(missing_ok=True)
    masks = [len(scene.targets) for scene in scenes]
    if np.count_nonzero(masks) < MIN_SCENES or sum(masks) < MIN_MASKS:
        count = int(np.count_nonzero(masks))
        note = (
            f"{sum(masks)} masks in {count} held-out scenes; at least {MIN_MASKS} in "
            f"{MIN_SCENES} are needed, so that probabilities are the head's own, and "
            "inference.thresholds and inference.presence have no effect "
            "(compose.held_out_scenes, and enough pictures to hold some out)"
        )
        summary: dict[str, Any] = {
            "scenes": count,
            "masks": 0,
            "found": sum(masks),
            "notes": [note],
        }
        return StepResult("calibrate", key, False, str(folder), summary)
    fitted = fit_calibration(scenes, names)
    sure, right = crossed(scenes, names)
    table = reliability(sure, right)
    # Of the head's softmax as it is.
    plain = Calibration(temperature=1.0, none_offset=-40.0, none_slope=0.0)
    _, raw_sure, raw_right = judged(scenes, plain, len(names))
    write_json(folder / CALIBRATION, fitted.to_json())
    files = write_reliability(folder, table, f"masks of {len(scenes)} composed scenes")
    summary = {
        "scenes": len(scenes),
        "masks": len(sure),
        "temperature": fitted.temperature,
        "ece": expected_calibration_error(table),
        "ece_before": expected_calibration_error(reliability(raw_sure, raw_right)),
        "thresholds": fitted.thresholds,
    }
    file = folder / CALIBRATION
    return finished("calibrate", key, file, summary, [file, *files])


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    if not s["masks"]:
        found = f"{s['found']} masks in {s['scenes']} held-out scenes"
        return f"no calibration: {found}, at least {MIN_MASKS} in {MIN_SCENES} are needed"
    return (
        f"ECE {s['ece']:.3f} on held-out scenes, {s['ece_before']:.3f} before; temperature "
        f"{s['temperature']:.2f}; {s['masks']} masks of {s['scenes']} scenes"
    )


def _scenes(project: Project, progress: Progress) -> list[SceneMasks]:
    """Each scene's masks as they would be listed were there no threshold."""
    table = read_scenes(project, HELD_OUT)
    if table.empty:
        return []
    config, names = project.config.inference, project.config.label_names
    store = embed.open_store(project)
    store.use_blocks(head_blocks(project))
    head, card = load_head(head_path(project))
    usable = usable_images(project, store, table["sha256"])
    table = table[table["sha256"].isin(usable)].sort_values("sha256")
    # The head's class of each label of a truth PNG; of label 0, background, -1.
    of_class = [names.index(project.config.label_of[spec.name]) for spec in project.config.classes]
    of_label = np.array([-1, *of_class])
    scenes = []
    with progress.bar("Calibrating", len(table)) as bar:
        for row in table.itertuples():
            mask_set = store.read(row.sha256)
            features = card["settings"]["features"]
            masks = candidates(head, mask_set, features, config, len(names))
            masks = masks[is_good(masks, mask_set.size_hw, config)]
            scores = mask_scores(masks.confidence, masks.predicted_iou, config)
            masks = masks[suppress(masks.packed, scores, config.nms_iou)]
            truth = read_label_png(Path(row.truth))
            targets = shown_classes(masks.packed, truth, of_label)
            present = np.zeros(len(names), bool)
            present[of_label[np.unique(truth[truth > 0])]] = True
            scenes.append(SceneMasks(masks.logits, masks.predicted_iou, targets, present))
            bar.advance()
    return scenes
