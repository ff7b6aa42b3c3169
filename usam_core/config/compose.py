"""The `compose` section of `project.yaml`: scenes of several objects made from training pictures.

What the defaults rest on stands in docs/decisions/0010-composed-scenes.md.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from usam_core.config.base import Float, Fraction, Int, PlacedError, Section

Backdrop = Literal["crop", "blurred", "texture", "negative"]


class ComposeConfig(Section):
    """Scenes with known truth: objects cut out by SAM's own masks, put on other backgrounds."""

    scenes: Annotated[Int, Field(ge=0, le=100_000)] = 0
    """Scenes that the head may learn from, for `head.composed` and `head.background`; 0 makes
    none. They cost SAM as much as so many images."""
    held_out_scenes: Annotated[Int, Field(ge=0, le=100_000)] = 60
    """Scenes for calibration, made of pictures that the head never sees; 0 makes none, and holds
    no picture out."""
    held_out: Annotated[Float, Field(gt=0, lt=1)] = 0.15
    """Share of each class's pictures that is held out; at least one of four or more."""
    objects: tuple[Annotated[Int, Field(ge=1)], Annotated[Int, Field(le=12)]] = (2, 4)
    """Fewest and most objects of a scene, all of different classes."""
    size: Annotated[Int, Field(ge=64, le=2048)] = 448
    """Longer side of a scene, pixels."""
    object_sides: tuple[Fraction, Fraction] = (0.3, 0.8)
    """Smallest and largest longer side of an object, as shares of the scene's shorter side."""
    min_visible: Annotated[Float, Field(gt=0, le=1)] = 0.5
    """So much of an object stays visible at least, whatever lies on top."""
    backgrounds: Annotated[list[Backdrop], Field(min_length=1)] = [
        "crop",
        "blurred",
        "texture",
        "negative",
    ]
    """What lies behind: a part of another training picture without its object, a whole one blurred,
    a drawn texture, a picture of one of the `negatives`. Chosen at random among those there are."""
    min_area: Fraction = 0.05
    """A cut-out object covers at least this share of its picture."""
    max_area: Fraction = 0.8
    """And at most this one."""
    min_center: Fraction = 0.2
    """It covers at least this share of the middle ninth of its picture."""
    max_border: Fraction = 0.25
    """And at most this share of the picture's border."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> "ComposeConfig":
        for key, (low, high) in {
            "objects": self.objects,
            "object_sides": self.object_sides,
            "min_area": (self.min_area, self.max_area),
        }.items():
            if low > high:
                raise PlacedError((key,), f"got {low:g}; expected at most {high:g}")
        return self
