"""Labelled images of known masks, for the tests and the benchmark of the output formats."""

from pathlib import Path

import numpy as np

from usam_core.config.palette import voc_palette
from usam_core.masks.rle import mask_record
from usam_core.outputs.base import LabelledImage, Target

CLASSES = ["disc", "ring", "rød & co"]


def entry_of(path, masks, size_hw, name=None):
    """Return what `annotate` records of an image with these masks, of the classes in turn."""
    annotations = [
        {
            **mask_record(mask, number % len(CLASSES) + 1),
            "score": round(0.9 - 0.5 * number / max(len(masks), 1), 6),
            "probability": 0.75,
            "runner_up": (number + 1) % len(CLASSES) + 1,
            "entropy": 0.25,
            "predicted_iou": 0.8,
            "prompt": number,
            "point": [1.5, 0.5],
        }
        for number, mask in enumerate(masks)
    ]
    return {
        "file_name": path,
        "sha256": f"{abs(hash(path)):064x}"[:64],
        "png": f"masks/{name or Path(path).stem}.png",
        "png_sha256": "",
        "height": size_hw[0],
        "width": size_hw[1],
        "annotations": annotations,
    }


def image_of(masks, size_hw, path="a.png", images="images"):
    """Return such an image as writers see it."""
    return LabelledImage(entry_of(path, masks, size_hw), images)


def target_in(folder, **options):
    """Return a target below a folder."""
    return Target(
        folder=Path(folder) / "format",
        classes=CLASSES,
        colors=voc_palette(len(CLASSES) + 1),
        run="f" * 64,
        images=str(Path(folder) / "images"),
        labels=Path(folder) / "annotate",
        **options,
    )


def painted(masks, size_hw):
    """Return the object numbers, painted the slow and plain way."""
    numbers = np.zeros(size_hw, np.int64)
    for number in range(len(masks), 0, -1):
        numbers[masks[number - 1]] = number
    return numbers
