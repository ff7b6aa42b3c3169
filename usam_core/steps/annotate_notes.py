"""What the summary of the step annotate says beside its counts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from usam_core.config.project import Project
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.metrics.gate import COVERED
from usam_core.steps.calibrated import calibration_file


class Tally:
    """Counts, image after image, what the summary says of all.

    Attributes:
        instances: how many of each class, by name.
        covered: how many images each class covers nearly whole; classes with none are left out.
        edited: how many label PNGs a person has changed.
    """

    def __init__(self, label_map: LabelMap) -> None:
        self._label_map = label_map
        self.instances = dict.fromkeys(label_map.names, 0)
        self.covered: Counter[str] = Counter()
        self.edited = 0
        self._reviewed: Counter[str] = Counter()
        self._images: set[str] = set()

    def watch(self, images: Iterable[LabelledImage]) -> Iterator[LabelledImage]:
        """Yield the images, each once it is counted."""
        for image in images:
            self.edited += image.is_edited()
            self.covered.update(covering(image))
            for instance in image.instances:
                self.instances[self._label_map.names[instance.class_index]] += 1
            # An image may be there twice under two names: a decision counts once.
            if image.rejected is not None and image.sha256 not in self._images:
                self._images.add(image.sha256)
                self._reviewed["rejected"] += len(image.rejected)
                self._reviewed.update(i.reviewed for i in image.instances if i.reviewed)
            yield image

    def reviewed(self, decisions: int) -> dict[str, Any]:
        """How many decisions found their mask again, and how many did not."""
        if not decisions:
            return {}
        applied = {kind: self._reviewed[kind] for kind in ("accepted", "changed", "rejected")}
        return {"reviewed": {**applied, "not_applied": decisions - sum(applied.values())}}


def notes_on_settings(project: Project) -> list[str]:
    """Say which settings had nothing to go by, because no calibration could be fitted."""
    if calibration_file(project) is not None:
        return []
    config = project.config.inference
    asked = {
        "inference.thresholds: calibrated": config.thresholds == "calibrated",
        f"inference.presence: {config.presence:g}": config.presence > 0,
    }
    return [
        f"{setting} had no effect: there were too few held-out scenes to calibrate on (`usam "
        f"calibrate {project.file}` says how many are needed)"
        for setting, given in asked.items()
        if given
    ]


def covering(image: LabelledImage) -> list[str]:
    """The classes that cover an image nearly whole."""
    least = COVERED * image.size_hw[0] * image.size_hw[1]
    labelled = ((label, count) for label, count in image.pixels.items() if label)
    return [image.label_map.name_of(label) for label, count in labelled if count > least]


def notes_on_edits(edited: int) -> list[str]:
    """Say that label PNGs which a person has changed were not painted over, if there are any."""
    if not edited:
        return []
    return [
        f"{edited} label PNGs changed by hand are kept (`usam export --show-edits` says how); "
        "coco.json has the masks as they were made. To undo an edit, delete its PNG"
    ]
