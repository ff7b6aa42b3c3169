"""What the summary of the step annotate says beside its counts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from usam_core.config.project import Project
from usam_core.labels.image import LabelledImage
from usam_core.labels.label_map import LabelMap
from usam_core.metrics.gate import COVERED, covers_too_much
from usam_core.steps.label_images import calibration_file
from usam_core.steps.record import notes_on_decisions


def annotate_notes(
    project: Project, edited: int, covered: dict[str, int], images: int
) -> list[str]:
    """Notes on a run of annotate.

    Args:
        edited: label PNGs that a person has changed.
        covered: images that each class covers nearly whole.
        images: how many were labelled.
    """
    notes, config = covers_too_much(covered, images), project.config.inference
    if calibration_file(project) is None:
        asked = {
            "inference.thresholds: calibrated": config.thresholds == "calibrated",
            f"inference.presence: {config.presence:g}": config.presence > 0,
        }
        notes += [
            f"{setting} had no effect: there were too few held-out scenes to calibrate on (`usam "
            f"calibrate {project.file}` says how many are needed)"
            for setting, given in asked.items()
            if given
        ]
    if edited:
        notes.append(
            f"{edited} label PNGs changed by hand are kept (`usam export --show-edits` says how); "
            "coco.json has the masks as they were made. To undo an edit, delete its PNG"
        )
    return notes + notes_on_decisions(project.out)


def covering(image: LabelledImage) -> list[str]:
    """The classes that cover an image nearly whole."""
    min_pixels = COVERED * image.size_hw[0] * image.size_hw[1]
    labelled = ((label, count) for label, count in image.pixels.items() if label)
    return [image.label_map.name_of(label) for label, count in labelled if count > min_pixels]


class Tally:
    """Running counts over the labelled images.

    Attributes:
        instances: how many of each class, by name.
        covered: how many images each class covers nearly whole; classes with none are left out.
        edited: how many label PNGs a person has changed.
    """

    def __init__(self, label_map: LabelMap) -> None:
        self._names = label_map.names
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
                self.instances[self._names[instance.class_index]] += 1
            # An image may be there twice under two names: a decision counts once.
            if image.rejected is not None and image.sha256 not in self._images:
                self._images.add(image.sha256)
                self._reviewed["rejected"] += len(image.rejected)
                self._reviewed.update(i.reviewed for i in image.instances if i.reviewed)
            yield image

    def reviewed(self, decisions: int) -> dict[str, Any]:
        """How many decisions were matched to a mask, and how many were not."""
        if not decisions:
            return {}
        kinds = ("accepted", "changed", "drawn", "added", "rejected")
        applied = {kind: self._reviewed[kind] for kind in kinds}
        return {"reviewed": {**applied, "not_applied": decisions - sum(applied.values())}}
