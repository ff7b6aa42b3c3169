"""Labelled images of known masks, for the tests and the benchmark of the output formats."""

from pathlib import Path

import numpy as np

from usam_core.labels import Instance, LabelledImage, LabelMap
from usam_core.masks.rle import mask_record
from usam_core.outputs.base import Target

CLASSES = ["disc", "ring", "rød & co"]
LABEL_MAP = LabelMap.of_names(CLASSES)


def image_of(masks, size_hw, path="a.png", images="images", name=None):
    """Return an image with these masks, of the classes in turn."""
    records = [
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
    return LabelledImage(
        path=path,
        sha256=f"{abs(hash(path)):064x}"[:64],
        size_hw=tuple(size_hw),
        label_map=LABEL_MAP,
        instances=tuple(map(Instance.from_coco, records)),
        png=f"masks/{name or Path(path).stem}.png",
        root=str(images),
    )


def target_in(folder, **options):
    """Return a target below a folder."""
    return Target(
        folder=Path(folder) / "format",
        label_map=LABEL_MAP,
        run="f" * 64,
        **options,
    )


def painted(masks, size_hw):
    """Return the object numbers, painted the slow and plain way."""
    numbers = np.zeros(size_hw, np.int64)
    for number in range(len(masks), 0, -1):
        numbers[masks[number - 1]] = number
    return numbers
