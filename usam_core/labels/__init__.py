"""A labelled image, its instances, and which number stands for which class."""

from usam_core.labels.image import Instance, LabelledImage
from usam_core.labels.label_map import LabelMap

__all__ = ["Instance", "LabelMap", "LabelledImage"]
