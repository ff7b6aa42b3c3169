"""Distill: a small, fast model that learns the labels, measured on images that it has not seen.

It learns from the label PNGs as they are, a person's edits included. It knows no instances: it says
of each pixel which class it is.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from usam_core.config.project import Project
from usam_core.config.results import DistillConfig
from usam_core.distill.model import (
    ARCHITECTURE,
    INPUT,
    OUTPUT,
    Student,
    export_onnx,
    predict,
    save_student,
)
from usam_core.distill.splits import SPLITS, group_names, split_images
from usam_core.distill.train import VOID, Pair, Samples, train_student
from usam_core.errors import InputError, need
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest
from usam_core.files.spreadsheet import write_csv
from usam_core.labels.image import LabelledImage, count_labels
from usam_core.labels.label_map import LabelMap
from usam_core.lineage.document import portable
from usam_core.metrics.scores import Confusion
from usam_core.outputs.sheets import save_contact_sheet
from usam_core.progress import Progress
from usam_core.report.page import enlarged
from usam_core.rng import generator
from usam_core.sam.load import choose_device
from usam_core.steps import annotate
from usam_core.steps.base import Input, Inputs, StepResult, step_folder
from usam_core.steps.evaluate import truth_input
from usam_core.steps.record import finished, labels_record, made_input
from usam_core.steps.render import pictures_and_labels
from usam_core.truth import open_truth

CALCULATIONS = (
    "usam_core.distill.splits",
    "usam_core.distill.train",
    "usam_core.metrics.scores",
)
"""Modules that decide the step's results."""
SHEET_IMAGES = 8
_TIMED = 5


def inputs(project: Project) -> Inputs:
    """What the student depends on: the labels with a person's edits, settings, weights, truth."""
    config = project.config.distill
    if config is None:
        return {"distill": None}
    return {
        "labels": made_input(project, labels_record(project)),
        "edited": _edited(project),
        "distill": config.model_dump(mode="json", exclude={"weights"}),
        **_weights_input(project, config),
        "seed": project.config.seed,
        **({"truth": truth_input(project)} if project.config.evaluation else {}),
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Split the labelled images, train, measure, and write the student as safetensors and ONNX.

    Raises:
        InputError: no pixel has a label, or there are too few images to be split.
        MissingExtraError: the packages that write ONNX are not installed.
        MissingStepError: `annotate` has not run.
    """
    config, folder = project.config.distill, step_folder(project, "distill")
    if config is None:
        return StepResult("distill", key, True, str(folder), {"splits": {}})
    need("distill", "usam distill")
    images, pixels, shown = _labelled(project)
    splits = _split(project, config, images, shown)
    label_map, read = LabelMap.of(project.config), pictures_and_labels(project)
    of_split = {name: [n for n, one in enumerate(splits) if one == name] for name in SPLITS}

    def pair(number: int) -> Pair:
        rgb, labels = read(images[number].path, images[number].png_file)
        known = labels.astype(np.int32)
        return rgb, np.where(known <= len(label_map.names), known, VOID)

    def agreement(student: Student) -> float:
        confusion = Confusion(label_map.names)
        for number in of_split["val"]:
            rgb, labels = pair(number)
            confusion.add(labels, predict(student, rgb, config.size))
        return confusion.scores().miou

    student, history = train_student(
        Samples(pair, config.size),
        of_split["train"],
        pixels,
        config,
        _weights_file(project, config),
        project.config.seed,
        choose_device(project.config.sam.device),
        agreement if of_split["val"] else None,
        progress,
    )
    files = _write_splits(folder, images, splits)
    scores, took, rows = _measure(
        project, student, config, of_split["test"], images, pair, progress
    )
    files.append(folder / "contact_sheet.png")
    save_contact_sheet(files[-1], rows, label_map.names, label_map.colors)
    files.append(save_student(folder / "student.safetensors", student))
    onnx = folder / "student.onnx"
    difference = export_onnx(onnx, student, config.size)
    counts = {name: len(of_split[name]) for name in SPLITS}
    write_json(folder / "student.json", _card(config, label_map, counts, difference))
    metrics = {name: asdict(one) for name, one in scores.items()}
    write_json(folder / "metrics.json", {"splits": counts, **metrics, "history": history})
    write_csv(folder / "student.csv", _table(label_map.names, scores))
    files += [folder / name for name in ("student.json", "metrics.json", "student.csv")]
    summary = {
        "splits": counts,
        "miou_with_labels": scores["with_labels"].miou,
        "miou": scores["with_truth"].miou if "with_truth" in scores else None,
        "miou_of_labels": scores["labels_with_truth"].miou if "with_truth" in scores else None,
        "milliseconds": took,
        "bytes": onnx.stat().st_size,
        "weights": "random" if config.weights is None else str(config.weights),
    }
    return finished("distill", key, onnx, summary, [onnx, *files])


def _labelled(project: Project) -> tuple[list[LabelledImage], np.ndarray, np.ndarray]:
    """The labelled images by path, pixels of each label, and which classes each image shows."""
    edited, names = set(annotate.edited_images(project)), LabelMap.of(project.config).names
    images, shown, pixels = [], [], np.zeros(len(names) + 1)
    for image in annotate.labels(project).sorted_images(["pixels"]):
        counts = count_labels(image.labels) if image.path in edited else image.pixels
        row = np.array([counts.get(label, 0) for label in range(len(names) + 1)])
        pixels += row
        shown.append(row[1:] > 0)
        images.append(image)
    if not pixels[1:].any():
        raise InputError(
            f"{step_folder(project, 'annotate')}: none of {len(images)} images has a label; "
            "expected labels to learn from. Look at the report, and lower inference.threshold"
        )
    return images, pixels, np.array(shown)


def _split(
    project: Project, config: DistillConfig, images: Sequence[LabelledImage], shown: np.ndarray
) -> list[str]:
    groups = group_names(
        [image.path for image in images], [image.sha256 for image in images], config.group
    )
    shares = {"train": 1 - config.val - config.test, "val": config.val, "test": config.test}
    return split_images(groups, shown, shares, generator(project.config.seed, "splits"))


def _write_splits(
    folder: Path, images: Sequence[LabelledImage], splits: Sequence[str]
) -> list[Path]:
    """Write a table, and lists of names as VOC's ImageSets has them."""
    rows = [(image.path, image.sha256, split) for image, split in zip(images, splits, strict=True)]
    files = [folder / "splits.csv", *(folder / f"{name}.txt" for name in SPLITS)]
    write_csv(files[0], pd.DataFrame(rows, columns=["image", "sha256", "split"]))
    for name, file in zip(SPLITS, files[1:], strict=True):
        own = [i.name for i, split in zip(images, splits, strict=True) if split == name]
        with whole_file(file) as temporary:
            temporary.write_text("".join(f"{one}\n" for one in own), encoding="utf-8")
    return files


def _measure(
    project: Project,
    student: Student,
    config: DistillConfig,
    chosen: Sequence[int],
    images: Sequence[LabelledImage],
    pair: Any,
    progress: Progress,
) -> tuple[dict[str, Any], float, list[Any]]:
    """Scores on the test images, milliseconds an image, and rows of the contact sheet."""
    names = LabelMap.of(project.config).names
    truth = open_truth(project) if project.config.evaluation else None
    if truth is not None:
        truth.expect(image.path for image in images)
    counted = {"with_labels": Confusion(names)}
    took: list[float] = []
    rows: list[Any] = []
    with progress.bar("Measuring", len(chosen)) as bar:
        for number in chosen:
            image, (rgb, labels) = images[number], pair(number)
            begun = time.perf_counter()
            said = predict(student, rgb, config.size)
            took.append(time.perf_counter() - begun)
            counted["with_labels"].add(labels, said)
            known = None if truth is None else truth.label_map(image.path, image.size_hw)
            if known is not None:
                expected = enlarged(known, said.shape)
                for name, of in (("with_truth", said), ("labels_with_truth", labels.clip(0))):
                    counted.setdefault(name, Confusion(names)).add(expected, of)
            if len(rows) < SHEET_IMAGES:
                rows.append((image.path, rgb, labels.clip(0), said))
            bar.advance()
    scores = {name: confusion.scores() for name, confusion in counted.items()}
    return scores, round(1000 * float(np.median(took[-_TIMED:])), 1), rows


def _table(names: Sequence[str], scores: Mapping[str, Any]) -> pd.DataFrame:
    """Of each class the test images that show it, and its IoU with labels and truth."""
    columns = {"IoU with labels": "with_labels"}
    if "with_truth" in scores:
        columns |= {"IoU with truth": "with_truth", "labels' own": "labels_with_truth"}
    table = pd.DataFrame({"class": list(scores["with_labels"].per_class)})
    table["images"] = [scores["with_labels"].images[name] for name in table["class"]]
    for title, name in columns.items():
        table[title] = [scores[name].per_class[one] for one in table["class"]]
    return table


def _card(
    config: DistillConfig, label_map: LabelMap, counts: Mapping[str, int], difference: float
) -> dict[str, Any]:
    """What a program must know that runs the student."""
    return {
        "architecture": ARCHITECTURE,
        "weights": "random" if config.weights is None else str(config.weights),
        "labels": ["background", *label_map.names],
        "size": config.size,
        "input": f"{INPUT}: float32 (n, 3, h, w), 0 to 1; the longer side of {config.size} pixels",
        "output": f"{OUTPUT}: float32 (n, labels, h, w), probabilities; the largest is the label",
        "splits": dict(counts),
        "onnx_difference": difference,
    }


def _weights_file(project: Project, config: DistillConfig) -> Path | None:
    return None if config.weights is None else project.root / config.weights


def _weights_input(project: Project, config: DistillConfig) -> Inputs:
    file = _weights_file(project, config)
    if file is None:
        return {}
    if not file.is_file():
        raise InputError(f"distill.weights: got {str(config.weights)!r}; expected a file ({file})")
    fact = {"path": portable(file, project.root), "sha256": file_digest(file)}
    return {"begun_with": Input(fact["sha256"], lambda: fact, weights=True)}


def _edited(project: Project) -> dict[str, str]:
    """The digests of label PNGs that a person has changed, by their images."""
    edited = set(annotate.edited_images(project))
    every = annotate.labels(project).images([]) if edited else ()
    return {i.path: file_digest(i.png_file) for i in every if i.path in edited}


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    if not s["splits"]:
        return "no model asked for (distill: {} in project.yaml)"
    learned, test = s["splits"]["train"], s["splits"]["test"]
    text = (
        f"learned from {learned} images; on {test} others mIoU {s['miou_with_labels']:.3f} with "
        "the labels"
    )
    if s["miou"] is not None:
        text += f", {s['miou']:.3f} with the truth (the labels: {s['miou_of_labels']:.3f})"
    return f"{text}; {s['milliseconds']:.0f} ms an image, ONNX of {s['bytes'] / 1e6:.1f} MB"
