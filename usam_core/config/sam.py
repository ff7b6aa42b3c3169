"""The `sam` section of `project.yaml`: which SAM, and how it is asked."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from usam_core.config.base import Bool, Int, Section


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
