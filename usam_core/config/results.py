"""How a run works and what it leaves: the sections `compute`, `outputs`, `report`, `evaluation`
and `gate` of `project.yaml`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from usam_core.config import Format
from usam_core.config.base import Bool, Float, Fraction, Int, PlacedError, Section, TextForm

_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
"""One slash, for that is what a path makes of two."""


Address = Annotated[
    str,
    TextForm("a scheduler's address such as tcp://host:8786", r"^(tcp|tls|ucx|ws|wss)://\S+$"),
]


class ComputeConfig(Section):
    """How many processes embed and label (docs/decisions/0008-dask.md)."""

    workers: Annotated[Int, Field(ge=0, le=1024)] | None = None
    """Dask worker processes on this machine; 0 works in the process itself. Empty means one a GPU
    where there are several, one for each four CPU cores where there is none, else 0."""
    threads: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """Threads of torch in each worker, or in the process itself without workers; empty shares the
    machine's cores. Torch rounds sums differently with other numbers of threads: set it where
    stores of several machines shall be equal to the last bit."""
    scheduler: Address | None = None
    """Address of a Dask scheduler that runs already, such as "tcp://10.0.0.5:8786". Its workers
    need this version of usam, and the project's folders under the same paths."""

    @model_validator(mode="after")
    def _one_place_to_work(self) -> "ComputeConfig":
        if self.scheduler and self.workers is not None:
            raise PlacedError(
                ("workers",),
                f"got {self.workers} beside a scheduler, whose workers are used; expected one of "
                "the two",
            )
        return self


class OutputsConfig(Section):
    """Where results go and which forms they take."""

    path: Path = Path("out")
    """Folder of this project's results."""
    store: Path | None = None
    """Folder of the embedding store; empty means `store` in `path`. Projects may share one."""
    shard_size: Annotated[Int, Field(ge=1, le=4096)] = 64
    """Images a shard of the store: the unit of work; a kill loses at most these."""
    precision: Literal["float16", "int8"] = "float16"
    """How the store keeps SAM's tokens and features: as they are, or with one byte a number, at
    less than half the size (docs/decisions/0017). Another choice is another store."""
    overlays: Annotated[Int, Field(ge=0)] = 50
    """How many images get a coloured overlay picture."""
    formats: list[Format] = []
    """Formats that `usam export` writes beside the COCO JSON and the palette PNGs of `annotate`
    (docs/outputs.md)."""
    label_studio: Literal["brush", "polygon"] = "brush"
    """What Label Studio gets: exact brush strokes, or polygons that can be dragged."""
    polygon_tolerance: Annotated[Float, Field(ge=0)] = 1.0
    """How far a polygon may leave its mask's outline, pixels, so that it has few corners to edit;
    0 keeps every polygon exact, with a corner at each step of the outline (docs/outputs.md)."""
    ome_zarr_in_place: Bool = False
    """Write OME-Zarr labels into images that are OME-Zarr themselves; else beside the others."""
    pixel_size: Annotated[Float, Field(gt=0)] | None = None
    """Width of a pixel, micrometres, for label TIFF and OME-Zarr; empty takes what the image's own
    file says."""

    @field_validator("path", "store", mode="before")
    @classmethod
    def _lies_on_this_disk(cls, value: object) -> object:
        if isinstance(value, str | Path) and _URL.match(str(value)):
            raise ValueError(
                "expected a folder on this machine, not a URL: results are written to a disk, from "
                "where they can be copied"
            )
        return value


class DistillConfig(Section):
    """A small, fast model that learns the labels (docs/distill.md)."""

    size: Annotated[Int, Field(ge=64, le=2048)] = 320
    """Pixels of an image's longer side as the model sees it."""
    steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 1000
    """Batches that it learns from."""
    batch_size: Annotated[Int, Field(ge=2, le=1024)] = 8
    learning_rate: Annotated[Float, Field(gt=0)] = 0.003
    val: Annotated[Float, Field(ge=0, lt=1)] = 0.1
    """Share of the images that choose the best of the models along the way; 0 takes the last."""
    test: Annotated[Float, Field(gt=0, lt=1)] = 0.1
    """Share of the images that it is measured on."""
    group: str = "image"
    """What must not lie in two splits: `image`, a file; `folder`, all files of a folder; or a
    regular expression found in paths, whose first group is the name, such as "(plate[0-9]+)_"."""
    weights: Path | None = None
    """A file of weights to begin with: torchvision's lraspp_mobilenet_v3_large or
    mobilenet_v3_large, .pth or .safetensors. Empty begins with random ones."""

    @field_validator("group")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f"expected `image`, `folder` or a regular expression ({error})"
            ) from error
        return value

    @model_validator(mode="after")
    def _some_images_train(self) -> "DistillConfig":
        if self.val + self.test >= 1:
            raise PlacedError(
                ("val",), f"got {self.val} beside test: {self.test}; expected less than 1 in sum"
            )
        return self


class ReportConfig(Section):
    """The HTML file that shows a run (docs/report.md)."""

    enabled: Bool = True
    """Write it at the end of a whole run; `usam report` writes it in any case."""
    samples: Annotated[Int, Field(ge=0, le=12)] = 4
    """Best, doubtful and rejected masks shown of each class; fewer where there are many classes."""
    runs_kept: Annotated[Int, Field(ge=1, le=1000)] = 5
    """Earlier runs of which tables and reduced label maps are kept, to say what changed."""


class EvaluationConfig(Section):
    """Truth to measure against, if there is any."""

    format: Literal["voc", "coco"]
    """`voc`: palette PNGs, one an image; `coco`: one instances JSON."""
    path: Path
    """Folder of the PNGs, or the JSON file."""
    classes: list[str] | None = None
    """Names of the palette's indices 1, 2, ...; empty means the project's classes in order."""
    objects: Path | None = None
    """For `voc`: folder of PNGs, 8 or 16 bit, that number the objects (VOC's SegmentationObject);
    with it there is mAP50 too."""


class GateConfig(Section):
    """When a run fails although every step ended; `null` leaves a check out."""

    max_quarantined: Fraction | None = None
    """Largest share of images that may be quarantined."""
    max_covered: Fraction | None = 0.5
    """Largest share of the images of which one class may cover over 90 % of the pixels."""
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
