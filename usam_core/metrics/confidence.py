"""Whether stated probabilities come true on images that have truth."""

from array import array
from collections.abc import Iterable

import numpy as np
import pandas as pd

from usam_core.inference.reliability import reliability
from usam_core.labels.image import Instance
from usam_core.labels.label_map import LabelMap
from usam_core.truth.base import VOID

MIN_SHARE = 0.5


class StatedProbabilities:
    """Collects, image after image, what was stated of each listed mask and whether it was right.

    A mask is right when at least half of its known pixels are of its class in the truth: truth
    without numbered objects has no IoU to ask for. Only listed masks count, those that passed the
    thresholds.
    """

    def __init__(self) -> None:
        # Nine bytes a mask.
        self._sure, self._right = array("d"), array("b")

    def add(self, truth: np.ndarray, instances: Iterable[Instance]) -> None:
        """Look at one image's masks; those on void pixels alone count for nothing.

        Args:
            truth: integers (h, w), 0 to c, or -1 where nothing is known.
            instances: the image's.
        """
        for one in instances:
            under = truth[one.mask()]
            under = under[under != VOID]
            if under.size:
                self._sure.append(one.probability)
                share = (under == LabelMap.id_of(one.class_index)).mean()
                self._right.append(bool(share >= MIN_SHARE))

    def table(self) -> pd.DataFrame:
        """Return accuracy and mean probability by bin; see `reliability`."""
        return reliability(np.array(self._sure), np.array(self._right, bool))
