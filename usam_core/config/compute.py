"""What `project.yaml` may say of where the work is done; no result depends on the workers."""

from typing import Annotated

from pydantic import Field, model_validator

from usam_core.config.base import Int, PlacedError, Section, text_of


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
