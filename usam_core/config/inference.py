"""The `inference` section of `project.yaml`: from scored masks to one label a pixel."""

from typing import Annotated, Literal

from pydantic import model_validator

from usam_core.config.base import Float, Fraction, PlacedError, Section, without

MaskChoice = Annotated[Literal["single", "best_iou"], without("largest", "most_confident")]


class InferenceConfig(Section):
    """From scored masks to one label a pixel (U-SAM, section 3.6)."""

    removed = {"nms_containment": 1.0}

    head: Literal["student", "teacher"] = "student"
    """Which head labels; the teacher is kept beside the student for comparison."""
    threshold: Fraction = 0.3
    """Keep masks whose class confidence is at least this."""
    class_thresholds: dict[str, Fraction] = {}
    """The same for single classes, by name."""
    mask_choice: MaskChoice = "single"
    """Which of a prompt's masks is its candidate."""
    min_predicted_iou: Float = 0.0
    """Drop masks that SAM itself believes bad."""
    min_stability: Fraction = 0.0
    """Drop masks whose border hangs on the threshold."""
    min_area: Fraction = 0.0005
    """Drop masks smaller than this share of the image."""
    max_area: Fraction = 0.95
    """Drop masks larger than this share of the image."""
    nms_iou: Fraction = 0.5
    """Of two masks that overlap more than this (mask IoU), the better scored stays."""
    thresholds: Literal["fixed", "calibrated"] = "fixed"
    """`fixed`: `threshold` and `class_thresholds` count against the head's confidence.
    `calibrated`: each class's own, fitted on held-out composed scenes, against the calibrated
    probability; `class_thresholds` still win."""
    presence: Fraction = 0.0
    """Drop all masks of a class that is in the image with less than this calibrated probability;
    0 switches the gate off."""
    score: Literal["confidence", "confidence_x_iou"] = "confidence_x_iou"
    """What orders masks in NMS, in painting, and in the COCO file."""
    paint: Annotated[Literal["score", "vote"], without("smallest")] = "vote"
    """Who gets a pixel that several masks claim: the best score, as in the papers' mode, or the
    class with the largest sum of scores over all masks that pass the thresholds, before NMS."""

    @model_validator(mode="after")
    def _areas_are_in_order(self) -> "InferenceConfig":
        if self.min_area >= self.max_area:
            raise PlacedError(
                ("min_area",),
                f"got {self.min_area:g}; expected less than max_area, {self.max_area:g}",
            )
        return self
