"""COCO JSON: instances with run-length masks and scores, written without holding them all."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from usam_core.atomic import whole_file
from usam_core.types import Instances


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool (h, w), as COCO's compressed RLE with a text `counts`."""
    rle = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Return bool (h, w) of what `encode` returned."""
    return coco_mask.decode(rle).astype(bool)


def mask_record(mask: np.ndarray, category_id: int) -> dict[str, Any]:
    """Return the COCO annotation of a mask, bool (h, w), without its ids and without a score."""
    rle = encode(mask)
    return {
        "category_id": category_id,
        "segmentation": rle,
        "area": int(coco_mask.area(rle)),
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "iscrowd": 0,
    }


def annotation_records(instances: Instances) -> list[dict[str, Any]]:
    """Return COCO annotations of one image, without ids, which `assemble` gives.

    `category_id` is 1 + the class index. Beside COCO's fields stand the result format's `score`
    and our `probability` (calibrated where there is a calibration), `runner_up` (the next category,
    null where there is but one), `entropy` (nats), `predicted_iou` and `prompt` (the point of the
    grid). Masks that a person has decided on say so: `reviewed`, and `head_category` where the head
    had called it something else.
    """
    return [
        {
            **mask_record(instances.masks[number], int(instances.classes[number]) + 1),
            "score": round(float(instances.scores[number]), 6),
            "probability": round(float(instances.probability[number]), 6),
            "runner_up": int(instances.runner_up[number]) + 1 or None,
            "entropy": round(float(instances.entropy[number]), 6),
            "predicted_iou": round(float(instances.predicted_iou[number]), 6),
            "prompt": int(instances.prompts[number]),
            **_reviewed(instances, number),
        }
        for number in range(len(instances))
    ]


def _reviewed(instances: Instances, number: int) -> dict[str, Any]:
    if instances.head_said is None or instances.head_said[number] < 0:
        return {}
    if instances.head_said[number] == instances.classes[number]:
        return {"reviewed": "accepted"}
    return {"reviewed": "changed", "head_category": int(instances.head_said[number]) + 1}


def assemble(
    path: Path, entries: Iterable[dict[str, Any]], classes: Sequence[str]
) -> dict[str, int]:
    """Write one COCO JSON of labelled images, one image in memory at a time.

    Images and annotations are numbered from 1 in the order of `entries`.

    Args:
        path: the file to write.
        entries: mappings with `file_name`, `height`, `width`, `sha256`, and `annotations` as
            `annotation_records` returns them.
        classes: the class names; category i + 1 is class i.

    Returns:
        The number of instances of each class.
    """
    counts = dict.fromkeys(classes, 0)
    number = 0
    with (
        whole_file(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
        # The images come behind the annotations, and there may be millions.
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent) as images,
    ):
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        file.write('{"info": {"description": "usam"},\n"categories": ')
        file.write(json.dumps(categories, ensure_ascii=False))
        file.write(',\n"annotations": [')
        for image_id, entry in enumerate(entries, start=1):
            image = {key: entry[key] for key in ("file_name", "height", "width", "sha256")}
            text = json.dumps({"id": image_id, **image}, ensure_ascii=False)
            images.write((",\n" if image_id > 1 else "") + text)
            for record in entry["annotations"]:
                number += 1
                counts[classes[record["category_id"] - 1]] += 1
                full = {"id": number, "image_id": image_id, **record}
                file.write(("," if number > 1 else "") + "\n" + json.dumps(full))
        file.write('],\n"images": [\n')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("]}\n")
    return counts
