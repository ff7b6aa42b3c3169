"""The `images` section of `project.yaml`: which images are to be labelled, and how read."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from usam_core.config_base import Bool, Float, Section


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
    ]
    """Which files count as images, by their ending, in any case."""
    max_megapixels: Annotated[Float, Field(gt=0, le=4000)] = 100.0
    """A larger image is quarantined before it is decoded."""
    window: Literal["percentile", "full"] | tuple[Float, Float] = "percentile"
    """How 16-bit, 32-bit and float images become 8 bit: the image's own 0.5 to 99.5 percentiles,
    the data type's full range, or a fixed [low, high]. What was used stands in the index."""

    @field_validator("window")
    @classmethod
    def _window_is_open(cls, value: object) -> object:
        if isinstance(value, tuple) and not value[0] < value[1]:
            raise ValueError("expected [low, high] with low below high")
        return value
