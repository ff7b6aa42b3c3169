"""The `images` section of `project.yaml`: which images are to be labelled, and how read."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr, field_validator

from usam_core.config_base import Bool, Float, Section

Colour = Literal["red", "green", "blue", "grey"]
Channel = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictStr, Field(min_length=1)]


class ImagesConfig(Section):
    """The images to be labelled."""

    path: Path
    """Folder with the images; relative paths count from the project file."""
    files: Path | None = None
    """Text file that names the images to be labelled, one path a line, counting from `path`;
    empty takes all that lie there."""
    recursive: Bool = True
    """Look into sub-folders too."""
    extensions: Annotated[list[str], Field(min_length=1)] = [
        ".jpg",
        ".jpeg",
        ".png",
        ".tif",
        ".tiff",
        ".bmp",
        ".webp",
        ".gif",
        ".zarr",
    ]
    """Which files count as images, by their ending, in any case; `.zarr` are folders."""
    max_megapixels: Annotated[Float, Field(gt=0, le=4000)] = 100.0
    """A larger image is quarantined before it is decoded."""
    channels: dict[Colour, Channel] | None = None
    """Which channel, by number from 0 or by name, is shown as `red`, `green`, `blue`, or alone as
    `grey`, where a plane's channels are measurements; pictures keep their colours. Empty: one
    channel is grey, of several the first three are red, green and blue. The index says what was."""
    projection: Literal["none", "max", "min", "mean"] = "none"
    """How the z of a stack become one image; with `none` each is an image of its own."""
    window: Literal["store", "percentile", "full"] | tuple[Float, Float] = "store"
    """How 16-bit, 32-bit and float images become 8 bit: the 0.5 to 99.5 percentiles of a sample of
    all images, once for each channel and kept in the embed step's folder; the image's own; the data
    type's full range; or a fixed [low, high]. 8 bit is never touched. The index says what was."""

    @field_validator("window")
    @classmethod
    def _window_is_open(cls, value: object) -> object:
        if isinstance(value, tuple) and not value[0] < value[1]:
            raise ValueError("expected [low, high] with low below high")
        return value

    @field_validator("channels")
    @classmethod
    def _grey_stands_alone(cls, value: dict[str, int | str] | None) -> object:
        if value is not None and (not value or ("grey" in value and len(value) > 1)):
            raise ValueError("expected some of red, green and blue, or grey alone")
        return value
