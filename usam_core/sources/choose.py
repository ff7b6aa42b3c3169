"""Choose the source of training pictures that a project names."""

from pathlib import Path
from typing import Any

from usam_core.config.project import Project
from usam_core.config.schema import ClassSpec
from usam_core.errors import ConfigError, need
from usam_core.progress import Progress
from usam_core.sources.base import Collected, PictureSource
from usam_core.sources.folder import FolderSource
from usam_core.sources.render import RenderSource


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


def choose_source(project: Project, folder: Path) -> PictureSource:
    """Return the project's source; `folder` is where a source may keep what it makes.

    Raises:
        MissingExtraError: the source's packages are not installed.
    """
    training = project.config.training
    if training.source == "none":
        return NoSource()
    if training.source == "render":
        return RenderSource(folder / "pictures", training.render, project.config.seed)
    if training.source == "synthetic":
        need("synthetic", "training.source: synthetic")
        from usam_core.sources.synthetic import SyntheticSource

        return SyntheticSource(
            folder / "pictures", training.synthetic, project.config.seed, project.root
        )
    if training.source == "web":
        need("web", "training.source: web")
        from usam_core.sources.web.source import WebSource

        if training.web is None:
            raise ConfigError(f"{project.file}: training.web is missing")
        return WebSource(folder / "web", training.web, project.root)
    if project.training_path is None:
        raise ConfigError(f"{project.file}: training.path is missing")
    return FolderSource(project.training_path, project.config.images, folder / "listings")
