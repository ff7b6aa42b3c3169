"""Finished labels without SAM and without a head: what `annotate` writes, of any masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from usam_core.config.schema import ProjectConfig
from usam_core.files.atomic import write_json
from usam_core.files.digest import file_digest
from usam_core.labels import Instance, LabelledImage, LabelMap
from usam_core.labels.parts import write_part
from usam_core.masks.label_png import save_label_png
from usam_core.masks.rle import mask_record


def image_of(folder: Path, name: str, labels: np.ndarray, sha256: str, score=None, missed=()):
    """Write an image's label PNG and return the labelled image: one instance a label.

    Args:
        folder: of the annotate step.
        name: the image's file name.
        labels: its label map.
        sha256: its digest.
        score: called for each label; 0.8 for all where it is None.
        missed: labels whose masks are recorded as dropped.
    """
    png = f"masks/{name}.png"
    save_label_png(folder / png, labels)
    values, pixels = np.unique(labels, return_counts=True)
    found = []
    for value in values[values > 0].tolist():
        sure = 0.8 if score is None else score(value)
        said = {"score": sure, "probability": sure, "runner_up": 1, "entropy": 0.4}
        record = {**mask_record(labels == value, value), **said, "predicted_iou": 1.0, "prompt": 0}
        found.append(Instance.from_coco(record))
    dropped = [one for one in found if LabelMap.id_of(one.class_index) in missed]
    return LabelledImage(
        path=name,
        sha256=sha256,
        size_hw=labels.shape,
        label_map=LabelMap.of_names(()),
        instances=tuple(found),
        missed=tuple(replace(one, score=0.25, threshold=0.3) for one in dropped),
        pixels=dict(zip(values.tolist(), pixels.tolist(), strict=True)),
        png=png,
        png_sha256=file_digest(folder / png),
    )


def write_run(root: Path, labels: dict[str, np.ndarray], classes: list[str], **settings) -> Path:
    """Write images and finished labels below `root`, and return the labels' folder.

    Args:
        root: the project's folder.
        labels: label maps by file name.
        classes: names of the labels 1, 2, ...
        settings: of the project, beside classes and images.
    """
    folder = root / "out" / "annotate"
    images = []
    for name, of_image in labels.items():
        image = root / "images" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            grey = np.full((*of_image.shape, 3), 120, np.uint8)
            Image.fromarray(grey).save(image, format="PNG")
        images.append(image_of(folder, name, of_image, file_digest(image)))
    finish_run(folder, images, classes, **settings)
    return folder


def finish_run(
    folder: Path, images: list[LabelledImage], classes: list[str], per_part=None, **settings
) -> None:
    """Write what stands beside the labels of a finished run, in parts of so many or in one."""
    config = ProjectConfig.model_validate(
        {"classes": classes, "images": {"path": "images"}, **settings}
    )
    outputs, step = {}, per_part or max(1, len(images))
    for start in range(0, max(1, len(images)), step):
        part = f"parts/{start:07}.parquet" if per_part else "parts/all.parquet"
        write_part(folder / part, images[start : start + step])
        outputs[part] = file_digest(folder / part)
    write_json(
        folder / "run.json",
        {
            "config": config.model_dump(mode="json"),
            "versions": {"usam": "0"},
            "head": {"classes": classes},
            "pictures": {"root": "images", "reading": {}},
        },
    )
    code = {"sha256": "0" * 64, "checkout": None, "versions": {"usam": "0"}}
    write_json(
        folder / "lineage.json",
        {
            **{"format": 1, "root": "../..", "project_file": "project.yaml", "step": "annotate"},
            **{"finished": "2026-01-01T00:00:00+00:00", "seed": 0, "flow_run": None},
            **{"code": code, "inputs": {}, "weights": {}, "parents": [], "outputs": outputs},
        },
    )
    _record(folder, "annotate", {"images": len(images)}, outputs)


def write_project(root: Path, classes: list[str], **settings) -> Path:
    """Write the project file of labels that `write_run` wrote, such that it can be reported."""
    (root / "training").mkdir(parents=True, exist_ok=True)
    for name in classes:
        (root / "training" / name).mkdir(exist_ok=True)
    training = {"source": "folder", "path": "training"}
    values = {"classes": classes, "images": {"path": "images"}, "training": training, **settings}
    file = root / "project.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    _record(root / "out" / "calibrate", "calibrate", {"masks": 0}, {})
    return file


def _record(folder: Path, step: str, summary: dict, outputs: dict[str, str]) -> None:
    said = {"step": step, "key": "k", "reused": False, "path": str(folder)}
    write_json(folder / "record.json", {**said, "summary": summary, "outputs": outputs})
