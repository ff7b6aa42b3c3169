"""COCO JSON: instances with run-length masks and scores, written without holding them all."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from usam_core.masks.rle import mask_record
from usam_core.outputs.coco_writers import write_coco
from usam_core.types import Instances


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

    def rows() -> Iterator[dict[str, Any]]:
        for entry in entries:
            for record in entry["annotations"]:
                counts[classes[record["category_id"] - 1]] += 1
            image = {key: entry[key] for key in ("file_name", "height", "width", "sha256")}
            yield {"image": image, "annotations": entry["annotations"]}

    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    write_coco(path, {"info": {"description": "usam"}, "categories": categories}, rows())
    return counts
