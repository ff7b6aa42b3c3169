"""The `gate` section of `project.yaml`: what a run has to be like to be trusted."""

from typing import Annotated

from pydantic import Field

from usam_core.config_base import Float, Fraction, Int, Section


class GateConfig(Section):
    """When a run fails although every step ended; `null` leaves a check out."""

    max_quarantined: Fraction | None = None
    """Largest share of images that may be quarantined."""
    max_share_change: Annotated[Float, Field(gt=1)] | None = None
    """Largest factor between a class's share of the pixels and its median over the last runs."""
    max_confidence_drop: Fraction | None = None
    """Largest drop of the mean score below its median over the last runs."""
    min_miou: Fraction | None = None
    """Least mIoU, where there is truth."""
    max_miou_drop: Fraction | None = None
    """Largest drop of the mIoU below its median over the last runs."""
    history: Annotated[Int, Field(ge=1, le=1000)] = 5
    """How many of the last runs that passed are compared with."""
