"""What labelling made of one image, as the image with its instances."""

from typing import Any

from usam_core.inference.scoring import Labelled
from usam_core.labels.image import LabelledImage, count_labels, list_instances
from usam_core.labels.label_map import LabelMap
from usam_core.types import MaskSet


def labelled_image(
    done: Labelled, mask_set: MaskSet, label_map: LabelMap, **known: Any
) -> LabelledImage:
    """The image of a labelled mask set.

    Args:
        done: what labelling gave.
        mask_set: that it was given.
        label_map: the head's classes.
        known: more of the image's attributes: `path` and `sha256`, and `painted` or `png`.
    """
    height, width = mask_set.size_hw
    points = mask_set.points_xy[done.instances.prompts] * [width, height]
    return LabelledImage(
        size_hw=mask_set.size_hw,
        label_map=label_map,
        instances=list_instances(done.instances, points),
        missed=list_instances(done.missed, thresholds=done.least),
        rejected=None if done.rejected is None else list_instances(done.rejected),
        pixels=count_labels(done.labels),
        **known,
    )
