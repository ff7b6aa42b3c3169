"""No training pictures at all: names are compared with masks directly (`head.text: alone`)."""

from typing import Any

from usam_core.config.classes import ClassSpec
from usam_core.progress import Progress
from usam_core.sources.base import Collected


class NoSource:
    """The source of a project whose head learns nothing; see `PictureSource`."""

    name = "none"
    filtered = False
    wanted = None

    def inputs(self, spec: ClassSpec) -> Any:
        """Return nothing: no class has pictures."""
        return None

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Return no picture."""
        return Collected([])

    def forget(self, spec: ClassSpec) -> None:
        """There is nothing to drop."""
