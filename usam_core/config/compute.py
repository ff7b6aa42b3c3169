"""The `sam` and `compute` sections of `project.yaml`: which SAM, and where it works."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from usam_core.config.base import Bool, Int, PlacedError, Section, text_of


class SamConfig(Section):
    """Which SAM, and how its automatic mode asks."""

    model: Literal["nano", "vit_b", "vit_l", "vit_h"] = "nano"
    """`nano` is bundled and made for machines without a GPU; the others are the official ones."""
    checkpoint: Path | None = None
    """A local checkpoint file; empty means the bundled or the downloaded official one."""
    points_per_side: Annotated[Int, Field(ge=1, le=64)] = 10
    """Grid of prompts: 10 x 10 = 100 points (GranSAM, section 4.2)."""
    points_per_batch: Annotated[Int, Field(ge=1, le=4096)] | None = None
    """Prompts decoded at a time, at most; they are cut into equal batches. Empty picks by device
    and free memory. Changes results by rounding: next to nothing in `float32`; in `bfloat16` some
    masks, with a mean IoU above 0.99 (docs/speed.md)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where SAM runs. Does not change what is stored beyond rounding of the `dtype`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products. `bfloat16` is quicker on GPUs and on CPUs that know it, and changes
    masks a little (docs/speed.md): its embeddings are kept apart from those of `float32`."""
    compile: Bool = False
    """Compile the model with `torch.compile` at the first image: pays for many images on a GPU."""


class ComputeConfig(Section):
    """How many processes embed and label (docs/decisions/0008-dask.md)."""

    workers: Annotated[Int, Field(ge=0, le=1024)] | None = None
    """Dask worker processes on this machine; 0 works in the process itself. Empty means one a GPU
    where there are several, one for each four CPU cores where there is none, else 0."""
    threads: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """Threads of torch in each worker, or in the process itself without workers; empty shares the
    machine's cores. Torch rounds sums differently with other numbers of threads: set it where
    stores of several machines shall be equal to the last bit."""
    scheduler: (
        text_of("a scheduler's address such as tcp://host:8786", r"^(tcp|tls|ucx|ws|wss)://\S+$")
        | None
    ) = None
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
