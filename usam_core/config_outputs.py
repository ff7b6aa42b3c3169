"""What `project.yaml` may say of results: where they go, and what they are measured against."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from usam_core.config_base import Int, Section


class OutputsConfig(Section):
    """Where results go and which forms they take."""

    path: Path = Path("out")
    """Folder of this project's results."""
    store: Path | None = None
    """Folder of the embedding store; empty means `store` in `path`. Projects may share one."""
    shard_size: Annotated[Int, Field(ge=1, le=4096)] = 64
    """Images a shard of the store: the unit of work; a kill loses at most these."""
    overlays: Annotated[Int, Field(ge=0)] = 50
    """How many images get a coloured overlay picture."""


class EvaluationConfig(Section):
    """Truth to measure against, if there is any."""

    format: Literal["voc", "coco"]
    """`voc`: palette PNGs, one an image; `coco`: one instances JSON."""
    path: Path
    """Folder of the PNGs, or the JSON file."""
    classes: list[str] | None = None
    """Names of the palette's indices 1, 2, ...; empty means the project's classes in order."""
